"""The recorded runs: which of them may stand for a published row, and what several seeds say.

A step whose name ends in -seedN, and a run whose command differs from another's by --seed alone, is
one of several draws: they are shown by mean and standard deviation, never by one of them.
"""

import re
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from report import published, step_numbers
from report.errors import UserError
from report.json_files import read_json

Record = dict[str, Any]
SEED = re.compile(r"-?seed\d+$")
# The first epochs of a row at full size, perhaps in bfloat16.
BEGINNING = re.compile(r"^(.*?)(-bf16)?-(?:first|epochs)$")


class Draws(NamedTuple):
    """A number of several runs that differ by their seed alone."""

    values: list[float]

    @property
    def mean(self) -> float:
        return statistics.mean(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds; 0 for one run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    def write(self, metric: str) -> str:
        """'62.64 +- 7.00 (3 seeds)'; for one run its value alone."""
        if len(self.values) == 1:
            return step_numbers.write(self.values[0], metric)
        return (f"{step_numbers.write(self.mean, metric)} +- "
                f"{step_numbers.write(self.deviation, metric)} ({len(self.values)} seeds)")


def load(folder: Path) -> list[Record]:
    """All recorded runs, oldest first; each knows the file it came from. Raises UserError."""
    records = []
    for path in sorted(folder.glob("*/*.json")):
        record = read_json(path)
        if not isinstance(record, dict) or not record.get("steps"):
            raise UserError(f"{path}: not a record of a run")
        records.append({**record, "path": path.relative_to(folder.parent).as_posix()})
    return sorted(records, key=lambda record: (record["date"], record["path"]))


def newest(found: list[Record]) -> list[Record]:
    """The newest record of every name, oldest first."""
    return list({record["row"]: record for record in found}.values())


def is_full(record: Record) -> bool:
    """True for a run that may stand for its published row: of that name, not a smoke run, nothing
    shrunk, no setting changed, no other data."""
    return (record["row"] in published.ROWS and not record.get("smoke")
            and not any(step.get("shrunk") or step.get("changed") for step in record["steps"]))


def changed(record: Record) -> str | None:
    """The settings in which a run differs from its published row on purpose, or None."""
    return next((step["changed"] for step in record["steps"] if step.get("changed")), None)


def beginning_of(record: Record) -> str | None:
    """The row whose first epochs this is, at full size, or None."""
    match = BEGINNING.match(record["row"])
    return match[1] if match and match[1] in published.ROWS else None


def in_bf16(record: Record) -> bool:
    """Of a row's first epochs: were they computed in bfloat16?"""
    match = BEGINNING.match(record["row"])
    return bool(match and match[2])


def released_for(record: Record) -> str | None:
    """The row whose released weights this run has evaluated, or None."""
    row = record["row"].removesuffix("-pretrained")
    return row if row != record["row"] and row in published.ROWS else None


def without_seed(command: list[str]) -> list[str]:
    """A command line but for --seed and names that hold it."""
    text = re.sub(r"(?:^|\0)--seed[=\0]-?\d+", "", "\0".join(command))
    return re.sub(r"seed-?\d+", "seed", text).split("\0")


def alike(records: list[Record]) -> list[Record]:
    """Of the runs of a row the newest and those that differ from it by the seed alone."""
    if not records:
        return []
    wanted = [without_seed(step["command"]) for step in records[-1]["steps"]]
    seeds, found = set(), []
    for record in reversed(records):  # of one seed the newest counts
        seed = record["steps"][0]["seed"]
        same = [without_seed(step["command"]) for step in record["steps"]] == wanted
        if same and (seed not in seeds or not found):
            seeds.add(seed)
            found.append(record)
    return found[::-1]


def groups(steps: list[dict]) -> dict[str, list[dict]]:
    """{name without the seed: the steps that differ by it alone}, in order."""
    found: dict[str, list[dict]] = {}
    for step in steps:
        found.setdefault(SEED.sub("", step["step"]) or step["step"], []).append(step)
    return found


def draws(steps: list[dict], name: str) -> Draws | None:
    """A closing number (valid_ppl, test_acc, ...) of several steps; None if none has it. One of the
    training text is that of the last epoch."""
    values = []
    for step in steps:
        last = step["curve"][-1] if step["curve"] and name.startswith("train_") else {}
        value = step["final"].get(name, last.get(name))
        if value is not None:
            values.append(value)
    return Draws(values) if values else None


def is_noise(ours: list[float], theirs: list[float]) -> bool:
    """Is the difference of two means smaller than twice its standard error? False if either is one
    run: then nothing is known about chance."""
    if len(ours) < 2 or len(theirs) < 2:
        return False
    error = (statistics.variance(ours) / len(ours)
             + statistics.variance(theirs) / len(theirs)) ** 0.5
    return abs(statistics.mean(ours) - statistics.mean(theirs)) < 2 * error
