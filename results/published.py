"""The rows, their published numbers, and how a number of ours is found and written."""

import csv
import statistics
from pathlib import PurePath

from results.store import UserError

ROWS = (
    "awd-ptb", "awd-ptb-qrnn", "awd-wt2", "awd-wt2-qrnn", "awd-ptbc", "awd-enwik8", "awd-wt103",
    "awd-scratch-ptb",
    "trellis-ptb", "trellis-ptb-mos", "trellis-ptbc", "trellis-wt103", "trellis-smnist",
    "trellis-pmnist", "trellis-scifar",
    "sparse-ptb", "sparse-ptb-dense", "sparse-recite-dense", "sparse-recite-reduced",
    "sparse-recite-sparse1", "sparse-recite-sparse2", "sparse-pos-dense", "sparse-pos-sparse",
    "sparse-pos-down",
    "tnn-alm", "tnn-extrapolation", "tnn-blm", "tnn-glue", "tnn-im-tiny", "tnn-im-small",
    "tnn-lra-listops", "tnn-lra-imdb", "tnn-lra-aan", "tnn-lra-cifar", "tnn-lra-pathfinder",
    "tnn-lra-pathfinderx", "tnn-speed",
)
STEPS = ("main", "finetune", "pointer", "eval")  # stages that are steps of a row
DECIMALS = {"ppl": 2, "bpc": 3, "acc": 2, "loss": 3}  # in the order of preference
NAMES = {"ppl": "perplexity", "bpc": "bits per character", "acc": "accuracy, %", "loss": "loss"}


def load(path):
    """The lines of published.csv as dicts, each value checked to be a number."""
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    for number, line in enumerate(lines, 2):
        try:
            float(line["value"])
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}:{number}: no number in column 'value'") from None
    return lines


def is_target(line):
    """True for a number that a step of the row should reach; else it is context."""
    return line["stage"] in STEPS and line["metric"] in DECIMALS


def targets(lines, row):
    """{(stage, metric): {split: value as published}} of a row."""
    found = {}
    for line in lines:
        if line["row"] == row and is_target(line):
            found.setdefault((line["stage"], line["metric"]), {})[line["split"]] = line["value"]
    return found


def like(name, wanted=None):
    """The published row a run is a version of: as told, or the longest its name begins with."""
    if wanted or name in ROWS:
        return wanted or name
    return max((row for row in ROWS if name.startswith(row + "-")), key=len, default=None)


def metric_of(step, wanted=()):
    """The metric to show for a step: a published one if the step has it, else by DECIMALS."""
    have = {name.partition("_")[2] for name in step["final"]}
    have |= {name.partition("_")[2] for point in step["curve"] for name in point}
    return next((metric for metric in (*wanted, *DECIMALS) if metric in have), None)


def number_of(steps, stage, metric, split, alone):
    """Our number: of the step named like the stage; if that stage is alone, of any, last first."""
    for step in reversed(steps):
        value = step["final"].get(f"{split}_{metric}")
        if value is not None and (alone or step["step"] == stage):
            return value
    return None


def write(value, metric):
    """A number of ours with the decimals of its metric; a dash for none."""
    return "-" if value is None else f"{value:.{DECIMALS[metric]}f}"


def pair(values, metric=None):
    """'valid / test' for a dict by split; numbers if a metric is given, else text as it stands."""
    cells = [values.get(split) for split in ("valid", "test")]
    cells = [write(c, metric) if metric else c or "-" for c in cells]
    return "-" if cells == ["-", "-"] else " / ".join(cells)


def last_epoch(step):
    """How many epochs a step has seen; a fraction where fairseq validated within one."""
    return f"{step['curve'][-1]['epoch']:g}" if step["curve"] else "-"


def seconds_per_epoch(step):
    """The median over the epochs, or None."""
    times = [point["seconds"] for point in step["curve"] if point.get("seconds") is not None]
    return statistics.median(times) if times else None


def duration(seconds):
    """Seconds as people say them: 42 s, 7 min, 3 h 20 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def system_of(step):
    """The directory of the script that a step ran."""
    script = next((w for w in step["command"] if w.endswith((".py", ".sh"))), step["command"][0])
    return str(PurePath(script).parent)
