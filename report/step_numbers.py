"""Which number of a step to show, and how numbers are written."""

import statistics
from collections.abc import Sequence
from pathlib import PurePath

DECIMALS = {"mcc": 2, "f1": 2, "pearson": 2, "ppl": 2, "bpc": 3, "acc": 2, "loss": 3, "spearman": 2,
            "acc_and_f1": 2, "pearson_and_spearman": 2,
            "acc_mismatched": 2}  # in the order of preference
NAMES = {"mcc": "Matthews correlation, %", "f1": "F1, %", "pearson": "Pearson correlation, %",
         "spearman": "Spearman correlation, %", "acc_and_f1": "mean of accuracy and F1, %",
         "pearson_and_spearman": "mean of both correlations, %",
         "acc_mismatched": "accuracy on other genres, %", "ppl": "perplexity",
         "bpc": "bits per character", "acc": "accuracy, %", "loss": "loss"}


def metric_of(step: dict, wanted: Sequence[str] = ()) -> str | None:
    """The metric to show for a step: a published one if the step has it, else by DECIMALS."""
    have = {name.partition("_")[2] for name in step["final"]}
    have |= {name.partition("_")[2] for point in step["curve"] for name in point}
    return next((metric for metric in (*wanted, *DECIMALS) if metric in have), None)


def number_of(steps: list[dict], stage: str, metric: str, split: str,
              only_stage: bool) -> float | None:
    """Our number: of the step named like the stage; if it is the only stage that was published, of
    any step, last first."""
    for step in reversed(steps):
        value = step["final"].get(f"{split}_{metric}")
        if value is not None and (only_stage or step["step"] == stage):
            return value
    return None


def write(value: float | None, metric: str) -> str:
    """A number of ours with the decimals of its metric; a dash for none."""
    return "-" if value is None else f"{value:.{DECIMALS[metric]}f}"


def pair(values: dict, metric: str | None = None) -> str:
    """'valid / test' for a dict by split; numbers if a metric is given, else text as it stands."""
    cells = [values.get(split) for split in ("valid", "test")]
    cells = [write(cell, metric) if metric else cell or "-" for cell in cells]
    return "-" if cells == ["-", "-"] else " / ".join(cells)


def own(step: dict, metric: str | None = None) -> tuple[str, str]:
    """(name of the metric, 'valid / test') of a step; None: the metric that it tells first."""
    metric = metric or metric_of(step)
    if metric is None:
        return "-", "-"
    values = {split: step["final"].get(f"{split}_{metric}") for split in ("valid", "test")}
    return NAMES[metric], pair(values, metric)


def last_epoch(step: dict) -> str:
    """How many epochs a step has seen; a fraction where fairseq validated within one."""
    return f"{step['curve'][-1]['epoch']:g}" if step["curve"] else "-"


def seconds_per_epoch(step: dict) -> float | None:
    """The median over the epochs, or None."""
    times = [point["seconds"] for point in step["curve"] if point.get("seconds") is not None]
    return statistics.median(times) if times else None


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 7 min, 3 h 20 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def system_of(step: dict) -> str:
    """The directory of the script that a step ran."""
    words = step["command"]
    script = next((word for word in words if word.endswith((".py", ".sh"))), words[0])
    return str(PurePath(script).parent)
