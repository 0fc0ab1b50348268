"""The files of a step: names, working folder, lock, what is set aside."""

import os
import re
import shutil
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from report import ROOT
from report.errors import UserError


def valid_name(word: str) -> bool:
    """May a row or a step be called so?"""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*", word) is not None


class Step:
    """The files of one step: record (only when it succeeded), log, attempts so far, a list of the
    folders with the run's curves, lock."""

    def __init__(self, row: str, name: str, workdir: Path):
        for word in (row, name):
            if not valid_name(word):
                raise UserError(f"not a name for a row or a step: {word!r}")
        self.row, self.name, self.workdir = row, name, workdir
        self.record = workdir / f"{name}.json"
        self.log = workdir / f"{name}.log"
        self.attempts = workdir / f"{name}.attempts"
        self.curves = workdir / f"{name}.curves"
        self.lock = workdir / f".{name}.lock"

    def __str__(self) -> str:
        return f"{self.row} {self.name}"


def runs_folder(args: Namespace) -> Path:
    """The folder that holds the rows' working folders: --workdir-root, else runs or runs/smoke."""
    return Path(args.workdir_root or ROOT / "runs" / ("smoke" if args.smoke else "")).absolute()


def is_smoke(args: Namespace) -> bool:
    """Shrunk runs live below runs/: they are not the row they are named after."""
    return args.smoke or ROOT / "runs" in runs_folder(args).parents


def make_workdir(workdir: Path) -> None:
    """Makes the working folder, with `data` in it; a `data` that is already there stays."""
    workdir.mkdir(parents=True, exist_ok=True)
    link = workdir / "data"
    if not os.path.lexists(link):
        link.symlink_to(ROOT / "data", target_is_directory=True)


@contextmanager
def locked(step: Step) -> Iterator[None]:
    """Raises UserError if another process runs the same step. The lock is released when this
    process ends, however it ends."""
    from filelock import FileLock  # may be missing: not for -h

    from harness.lock import take

    lock = FileLock(step.lock)
    if not take(lock, f"do not start {step} twice"):
        raise UserError(f"{step}: already running in {step.workdir}")
    try:
        yield
    finally:
        with suppress(OSError):
            lock.release()


def set_aside(step: Step) -> None:
    """Moves what is known of a step to old/<time>/; nothing is deleted."""
    known = (step.record, step.log, step.attempts, step.curves)
    present = [path for path in known if path.exists()]
    if present:
        folder = step.workdir / "old" / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        folder.mkdir(parents=True)
        for path in present:
            shutil.move(path, folder / path.name)  # old/ may be a link to another disk
        print(f"{step}: the old record is now in {folder}")
