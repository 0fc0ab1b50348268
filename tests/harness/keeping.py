"""Runs of the toy script in this process: what they leave, and the comparison of two of them."""

from pathlib import Path

import pytest

from harness import files
from tests.harness import toy
from tests.harness.same import same

STEPS = 3 * toy.UPDATES
MAY_DIFFER = {"args", "save", "metrics", "log_size"}  # "Resuming at ..." is in the text log


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def refused(capsys, *argv: str, code: int = 2, **how) -> str:
    """The one line that the script ends with; it has changed no file."""
    before = {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        toy.main(list(argv), **how)
    assert stop.value.code == code
    line, = capsys.readouterr().err.splitlines()
    assert {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()} == before
    return line


def assert_same_run(one: Path, other: Path, save: str = "m.pt") -> None:
    """Weights, optimiser, random streams, progress, best model and curves."""
    for name in (f"{save}.state", save):
        ours, theirs = files.read(one / name), files.read(other / name)
        for key in [key for key in theirs if key not in MAY_DIFFER]:
            assert same(ours[key], theirs[key]), (name, key)
    logs = [(folder / f"logs/{save}/metrics.csv").read_text() for folder in (one, other)]
    assert logs[0] == logs[1]


def text_of(folder: Path, save: str = "m.pt") -> list[str]:
    """The lines of the text log, but for those that say where it went on."""
    lines = (folder / f"{save}.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("Resuming")]
