"""Runs of the table's scripts in folders of their own, and the comparison of two of them."""

import csv
import json
import random
import re
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.trust.forked import Child, Ended, Server
from tests.trust.scripts import SCRIPTS, Script

# What two equal runs may differ in: clock, place, and the flags that say how far to go.
MAY_DIFFER = {"args", "save", "metrics", "metrics_size", "log_size", "seconds", "time"}
TIMES = re.compile(r"time: +[\d.]+s|ms/batch +[\d.]+|time: [\d.]+|Training time .*|[\d.]+ s\b")


UNEQUAL = re.compile(r"seconds|^timer/")  # of the clock


@dataclass
class Place:
    """Where all runs of a session live. `tally` counts what the report shows."""

    server: Server
    home: Path
    data: Path
    seed: int
    tally: Counter = field(default_factory=Counter)
    finished: dict = field(default_factory=dict)
    folders: int = 0

    def count(self, point: str, what: str, n: int = 1) -> None:
        """For results/trust.md."""
        self.tally[point, what] += n

    def largest(self, point: str, what: str, value: float) -> None:
        """Keeps the largest of the values, for results/trust.md."""
        self.tally[point, what] = max(self.tally.get((point, what), 0.0), value)

    def random(self, *names) -> random.Random:
        """A stream of its own for every test; a failure shows the seed."""
        seed = "-".join(map(str, (self.seed, *names)))
        print(f"random choices from TRUST_SEED={self.seed}: {seed!r}")
        return random.Random(seed)

    def folder(self, script: Script) -> Path:
        """A new folder, holding what the script starts from."""
        self.folders += 1
        folder = self.home / f"{script.name}-{self.folders}"
        if script.before:
            source = self.unbroken(SCRIPTS[script.before]).folder
            shutil.copytree(source, folder, ignore=shutil.ignore_patterns("logs", "journal"))
        else:
            folder.mkdir()
        return folder

    def start(self, script: Script, folder: Path, *more, **hooks) -> Child:
        """`environment` and hooks as in Server.start."""
        return self.server.start(script.module, script.argv(folder, self.data, *more), folder,
                                 **hooks)

    def run(self, script: Script, folder: Path, *more, code: int | None = 0, **hooks) -> Ended:
        """Runs to the end, which must be an orderly one."""
        done = self.start(script, folder, *more, **hooks).wait()
        assert "Traceback" not in done.err, done.err
        if code is not None:
            assert done.code == code, f"exit code {done.code}\n{done.out[-3000:]}\n{done.err}"
        return done

    def unbroken(self, script: Script) -> "Unbroken":
        """The run that nothing happens to, once per session."""
        if script.name not in self.finished:
            folder, began = self.folder(script), time.monotonic()
            done = self.run(script, folder, journal=str(folder / "journal"))
            for text in script.changes:
                assert text in done.out, done.out
            self.finished[script.name] = Unbroken(folder, done, events(folder / "journal"),
                                                   time.monotonic() - began)
        return self.finished[script.name]


@dataclass
class Unbroken:
    folder: Path
    done: Ended
    events: list[dict]
    seconds: float

    @property
    def updates(self) -> int:
        return sum(event["what"] == "update" for event in self.events)

    @property
    def saves(self) -> int:
        return sum(event["what"] == "save" for event in self.events)


def events(journal: Path) -> list[dict]:
    """What the hooks wrote down; a killed process may leave half a line."""
    if not journal.is_file():
        return []
    return [json.loads(line) for line in journal.read_text().split("\n")[:-1]]


# ------------------------------------------------------------------------------------ comparison
def assert_same(ours, theirs, where: str) -> None:
    """Bit for bit, clock and place aside."""
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        names = [name for name in ours if name not in MAY_DIFFER]
        assert names == [name for name in theirs if name not in MAY_DIFFER], where
        for name in names:
            assert_same(ours[name], theirs[name], f"{where}[{name!r}]")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert ours == theirs, where


def curves(script: Script, folder: Path) -> list[list[str]]:
    """The rows of metrics.csv, those of the clock left out."""
    path = Path(script.read(folder / script.state)["metrics"]) / "metrics.csv"
    with path.open(newline="") as file:
        return [row for row in csv.reader(file) if not UNEQUAL.search(row[2])]


def closing_lines(script: Script, done: Ended) -> list[str]:
    """The last lines of the output, which a run resumed after its end prints too; without times."""
    lines = done.out.strip().splitlines()
    return [TIMES.sub("", line) for line in lines[len(lines) - script.closing:]]


def assert_same_run(script: Script, folder: Path, done: Ended | None, expected: Unbroken) -> None:
    """Weights, optimiser, random streams, schedule, curves and, of `done`, the closing lines."""
    for name in (script.state, *script.models):
        path = expected.folder / name
        assert path.is_file() == (folder / name).is_file(), name
        if path.is_file():
            assert_same(script.read(folder / name), script.read(path), name)
    assert curves(script, folder) == curves(script, expected.folder)
    if done is not None:
        assert closing_lines(script, done) == closing_lines(script, expected.done)
    assert not list(folder.rglob(".*.part"))


def step_of(script: Script, folder: Path) -> int | None:
    """Updates behind the training state, None if there is none. Reading it proves it whole."""
    path = folder / script.state
    return script.read(path)["progress"]["step"] if path.is_file() else None


def assert_finite(content, where: str) -> None:
    if isinstance(content, torch.Tensor) and content.is_floating_point():
        assert content.isfinite().all(), where
    elif isinstance(content, dict):
        for name, value in content.items():
            assert_finite(value, f"{where}[{name!r}]")
    elif isinstance(content, list | tuple):
        for i, value in enumerate(content):
            assert_finite(value, f"{where}[{i}]")
