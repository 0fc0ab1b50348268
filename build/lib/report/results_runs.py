"""The parts of results/README.md that are about single runs: how a full one was made; the small
ones, which stand beside no published number."""

import re
import shlex
from pathlib import Path

from report import plots, provenance, published, records, step_numbers
from report.figures import Shown
from report.published import Line
from report.records import Record
from report.tables import folded, table

# Answers to choose from, of the data that the small runs are on.
CLASSES = {"tnn-lra-listops": 10, "tnn-lra-imdb": 2, "tnn-lra-aan": 2, "tnn-lra-cifar": 10,
           "tnn-im-tiny": 10, "trellis-smnist": 10, "trellis-pmnist": 10, "trellis-scifar": 10}
SMALL = """Other sizes, other data or fewer updates than a published row: they show that the code
learns, and are not to be compared with it. One seed where nothing else is said, so differences of
some per cent between two of them mean nothing.
"""
# Small runs that have not learnt their task: no evidence, so not in the table.
AT_CHANCE = ("tnn-lra-pathfinder-small", "tnn-lra-pathfinderx-small")
NOT_LEARNT = """Pathfinder and Path-X have *not* been learnt by any run here, at the sizes and times
that were tried: test accuracy is at chance (50 %) on images that were not trained on. 64 images are
learnt by heart.
"""


def describe(record: Record, lines: list[Line], figure: Shown | None) -> list[str]:
    """The section of one recorded run."""
    steps, last = record["steps"], record["steps"][-1]
    metric = published.first_metric(lines, record["row"])
    name = plots.METRICS.get(plots.curve_metric(steps, metric), "value")
    head = ["step", "date", "commit", "seed", "wall time", "peak memory", "epochs",
            f"{name} after epoch 1", "after epoch 10", "s/epoch"]
    text = [f"### {record['row']} ({record['date'][:10]})", "",
            f"{provenance.describe(last['hardware'])}; {last['threads']} threads; "
            f"{provenance.versions_of(last)}. "
            f"Record: [{Path(record['path']).name}]({record['path']}).", "",
            *table(head, [how_made(step, metric) for step in steps]), "",
            "```sh", *[command_line(step["command"]) for step in steps], "```", ""]
    return text + (figure.markdown() if figure else [])


def how_made(step: dict, metric: str | None) -> list:
    """A step's line in the table of how it was made."""
    return [step["step"], step["date"][:10], provenance.commit_of(step),
            "-" if step["seed"] is None else step["seed"],
            step_numbers.duration(step["wall_seconds"]), f"{step['peak_rss_mb']} MB",
            step_numbers.last_epoch(step), *pace(step, metric)]


def pace(step: dict, metric: str | None) -> list[str]:
    """A step's validation value after epochs 1 and 10, so that others can tell early whether their
    run is healthy, and seconds per epoch."""
    name = plots.curve_metric([step], metric)
    cells = []
    for epoch in (1, 10):
        points = [point for point in step["curve"] if point["epoch"] == epoch]
        value = points[0].get(name) if points else None
        cells.append("-" if value is None else f"{value:.2f}")
    seconds = step_numbers.seconds_per_epoch(step)
    return [*cells, "-" if seconds is None else f"{seconds:.1f}"]


# ---------------------------------------------------------------------------------- small runs
def small_runs(found: list[Record], lines: list[Line], curves: dict[str, Shown]) -> list[str]:
    """The section of the runs that are not a published row."""
    text = ["## Small runs", ""]
    if not found:
        return [*text, "None.", ""]
    found = sorted(found, key=in_order)
    known = [record for record in found if records.beginning_of(record) is None]
    learnt = [record for record in known if record["row"] not in AT_CHANCE]
    others = [record for record in known if record["row"] in AT_CHANCE]
    drawn = [line for record in found if record["path"] in curves
             for line in curves[record["path"]].markdown()]
    commands = [command_cells(record, step) for record in found for step in record["steps"]]
    return [*text, SMALL, *small_table(learnt, lines),
            *([NOT_LEARNT, *small_table(others, lines)] if others else []),
            *folded("Their learning curves", drawn),
            *folded("Their commands, commits, times and memory", table(
                ["run", "step", "seed", "epochs", "after epoch 1", "after epoch 10", "s/epoch",
                 "wall time", "peak memory", "commit", "hardware", "command"], commands))]


def in_order(record: Record) -> tuple[int, str]:
    """Sorts runs as the published rows are, then by date."""
    rows = list(published.ROWS)
    row = published.like(record["row"], record["steps"][0]["like"])
    return (rows.index(row) if row in rows else len(rows), record["date"])


def small_table(found: list[Record], lines: list[Line]) -> list[str]:
    """The table of some small runs."""
    return [*table(["run", "step", "what is smaller", "metric", "validation", "test", "classes"],
                   [cells for record in found for cells in small_run(record, lines)]), ""]


def small_run(record: Record, lines: list[Line]) -> list[list[str]]:
    """A line for each group of steps that differ by their seed alone; what is smaller is said
    once."""
    row = published.like(record["row"], record["steps"][0]["like"])
    wanted = [metric for _, metric in published.targets(lines, row)]
    note = record["steps"][0].get("shrunk") or "-"
    if record.get("smoke"):
        note = f"smoke run; {note}".removesuffix("; -")
    cells = []
    for name, steps in records.groups(record["steps"]).items():
        metric = step_numbers.metric_of(steps[0], wanted)
        if metric is None:
            continue
        valid, test = (records.draws(steps, f"{split}_{metric}") for split in ("valid", "test"))
        train = records.draws(steps, f"train_{metric}") if not valid and not test else None
        said = [f"training {train.write(metric)}" if train else
                valid.write(metric) if valid else "-", test.write(metric) if test else "-"]
        classes = CLASSES.get(row, "-") if metric == "acc" else "-"
        cells.append([f"`{record['row']}`", name, note, step_numbers.NAMES[metric], *said, classes])
        note = "as above"
    return cells


def command_cells(record: Record, step: dict) -> list[str]:
    """How a step of a small run was made."""
    return [f"`{record['row']}`", step["step"], "-" if step["seed"] is None else step["seed"],
            step_numbers.last_epoch(step), *pace(step, step_numbers.metric_of(step)),
            step_numbers.duration(step["wall_seconds"]), f"{step['peak_rss_mb']} MB",
            provenance.commit_of(step), provenance.describe(step["hardware"]),
            f"`{command_line(step['command'])}`"]


def command_line(command: list[str]) -> str:
    """What to type at the repository's root."""
    python = "python " if command[0].endswith(".py") else ""
    return python + re.sub(r"\s*\n\s*", " ", shlex.join(command))
