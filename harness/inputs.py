"""What a run reads: prepared by one process for all, known again by its content."""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lightning_fabric import Fabric

from harness import machine
from harness.endings import BadInput

Loaded = TypeVar("Loaded")


def load_in_turn(fabric: Fabric | None, load: Callable[[], Loaded], what: str,
                 hint: str = "") -> Loaded:
    """What load() returns; the first process prepares (and caches) it, then the others read.

    what, hint: before and after the message of BadInput, raised in all processes alike if load
    raises FileNotFoundError (with the hint) or ValueError in one of them.
    """
    several = fabric if fabric is not None and fabric.world_size > 1 else None
    loaded: list[Loaded] = []
    problem: Exception | None = None
    text = ""
    with several.rank_zero_first() if several else contextlib.nullcontext():
        try:
            loaded.append(load())
        except (FileNotFoundError, NotADirectoryError) as error:
            problem, text = error, f"{what}: {error}{f'; {hint}' if hint else ''}"
        except ValueError as error:
            problem, text = error, f"{what}: {error}"
    for found in machine.gather(several, text) if several else [text]:
        if found:
            raise BadInput(found) from problem
    return loaded[0]


def digest_of(path: Path | str) -> str:
    """SHA-256 of a file's content; of a folder, of its files' names and contents."""
    path, digest = Path(path), hashlib.sha256()
    if path.is_dir():
        for each in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{each.relative_to(path)}\0{digest_of(each)}\0".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_together(keeper, problem: Exception | None) -> None:
    """All processes call it between two updates, with what is wrong with the samples that they just
    read. If one of them has a problem, the state is saved and all raise BadInput."""
    if machine.greatest(keeper.fabric, int(problem is not None)):
        keeper.save()
        found = machine.gather(keeper.fabric, str(problem or ""))
        raise BadInput(next(text for text in found if text)) from problem
