"""Faults at the file operations of a run: builds and arms faults.c, which the server preloads."""

import ctypes
import functools
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")
HOW = {how: number for number, how in enumerate(
    ("count", "before", "after", "half", "fail", "fail on", "copy"))}


def build(folder: Path) -> Path | None:
    """The compiled library, in `folder`; None where there is no C compiler."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None
    library = folder / "faults.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"],
                   check=True)
    return library


@functools.cache
def _library() -> ctypes.CDLL:
    """The one that this process was started with."""
    return ctypes.CDLL(None)


def arm(folder: str, how: str = "count", at: int = 0, errno: int = 0, log: str = "",
        copies: str = "") -> None:
    """From now on the operations below `folder` are counted, from 1; the one numbered `at` goes
    wrong as `how` says. log: a file that gets a line `operation path` for each. copies: where
    "copy" puts the folder as it stands before each of them, and half-way through each write."""
    _library().fault_arm(f"{folder}/".encode(), HOW[how], at, errno, log.encode(),
                         copies.encode())
