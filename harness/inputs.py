"""What a run reads: prepared by one process for all, known again by its content."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lightning_fabric import Fabric

from harness import machine
from harness.endings import BadInput
from harness.notices import notice

Loaded = TypeVar("Loaded")


def load_in_turn(fabric: Fabric | None, load: Callable[[], Loaded], what: str,
                 hint: str = "") -> Loaded:
    """What load() returns; the first process prepares (and caches) it, then the others read.

    what, hint: before and after the message of BadInput, raised in all processes alike if load
    raises FileNotFoundError (with the hint), another OSError or ValueError in one of them.
    """
    if fabric is None or fabric.world_size == 1:
        return _load(load, what, hint)
    problem = None
    with machine.together(fabric):
        with fabric.rank_zero_first():  # an error would leave the others waiting in there
            try:
                loaded = _load(load, what, hint)
            except BadInput as error:
                problem = error
        if problem:
            raise problem
    return loaded


def _load(load: Callable[[], Loaded], what: str, hint: str) -> Loaded:
    try:
        return load()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadInput(f"{what}: {error}{f'; {hint}' if hint else ''}") from error
    except (OSError, ValueError) as error:  # no permission, a folder of the file's name, EIO
        raise BadInput(f"{what}: {error}") from error


def digest_of(path: Path | str) -> str:
    """SHA-256 of a file's content; of a folder, of its files' names and contents."""
    path, digest = Path(path), hashlib.sha256()
    if path.is_dir():
        for each in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{each.relative_to(path)}\0{digest_of(each)}\0".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def say_if_state(path: Path | str, content: dict) -> None:
    """Says that a file which weights are taken from is not the best model, if it is not."""
    if "training state" in str(content.get("format")) and os.environ.get("LOCAL_RANK", "0") == "0":
        notice(f"{path} is a training state: its weights are those of the last update, not of the "
               "best epoch")


def refuse_together(keeper, problem: Exception | None) -> None:
    """All processes call it between two updates, with what is wrong with the samples that they just
    read. If one of them has a problem, the state is saved and all raise BadInput."""
    if machine.greatest(keeper.fabric, int(problem is not None)):
        keeper.save()
        found = machine.gather(keeper.fabric, str(problem or ""))
        raise BadInput(next(text for text in found if text)) from problem
