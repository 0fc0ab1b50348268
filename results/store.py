"""The files of a run: names, JSON written in one go, the working folder, its lock."""

import fcntl
import json
import os
import re
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class UserError(ValueError):
    """Something the user gave us; its message is the whole answer."""


class Step:
    """The files of one step: record (only when it succeeded), log, attempts so far, lock."""

    def __init__(self, row, name, workdir):
        for word in (row, name):
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", word):
                raise UserError(f"not a name for a row or a step: {word!r}")
        self.row, self.name, self.workdir = row, name, workdir
        self.record = workdir / f"{name}.json"
        self.log = workdir / f"{name}.log"
        self.attempts = workdir / f"{name}.attempts"
        self.lock = workdir / f".{name}.lock"

    def __str__(self):
        return f"{self.row} {self.name}"


def dumps(value):
    """JSON with every innermost object on one line, so that a curve reads as a table."""
    text = json.dumps(value, indent=1, allow_nan=False)
    return re.sub(r"\{[^{}]*\}", lambda m: re.sub(r"\s*\n\s*", " ", m.group()), text) + "\n"


def write_json(path, value):
    """Writes beside the file, flushes, renames: a reader sees all of it or none."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w") as file:
        file.write(dumps(value))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path, default=None):
    """The file's value, or the default where there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return default
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); remove it or --redo") from error


def make_workdir(workdir):
    """The working folder, with `data` in it; a `data` that is already there is left alone."""
    workdir.mkdir(parents=True, exist_ok=True)
    link = workdir / "data"
    if not os.path.lexists(link):
        link.symlink_to(ROOT / "data", target_is_directory=True)


@contextmanager
def locked(step):
    """Refuses a second run of the same step while one is going on."""
    with open(step.lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{step}: already running in {step.workdir}") from None
        yield


def set_aside(step):
    """Moves what is known of a step to old/<time>/; nothing is deleted."""
    present = [p for p in (step.record, step.log, step.attempts) if p.exists()]
    if present:
        folder = step.workdir / "old" / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        folder.mkdir(parents=True)
        for path in present:
            path.rename(folder / path.name)
        print(f"{step}: the old record is now in {folder}")
