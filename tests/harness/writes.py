"""Processes that do one thing with files, to be killed at it."""

import sys
from pathlib import Path

import torch

from harness import curves, files

OLDER, OLD, NEW = ({"n": n, "tensor": torch.full((5,), float(n))} for n in range(3))


def main(argv: list[str]) -> None:
    what, path = argv
    if what == "write":
        files.write(path, NEW, keep_previous=True)
    elif what == "set aside":
        files.set_aside(path)
    elif what == "keep":
        files.set_aside(path, "main", keep=True)
    elif what == "claim":
        print(curves.claim(Path(path), "m.pt"))
    else:
        sys.exit(f"unknown: {what}")
