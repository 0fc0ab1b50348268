"""The training loss of a step against its updates: from its metrics.csv, or fairseq's log."""

import csv
import math
import re
from pathlib import Path

from report import metrics_csv
from report.step_files import Step

# Names under which the scripts log a training loss, in nats per token or sample.
NAMES = ("train_loss", "trainer/loss", "train_eval_loss")
INNER = re.compile(r"loss=(\d+(?:\.\d+)?).*?num_updates=(\d+)")         # fairseq's simple log
JSON_INNER = re.compile(r'"loss": "(\d+(?:\.\d+)?)".*?"num_updates": "(\d+)"')
Points = list[tuple[float, float]]


def of_step(record: dict) -> Points:
    """[(updates, loss)] in order; empty for a step that does not train, or whose curves are gone.
    record["folder"] is the row's working folder."""
    step = Step(record["row"], record["step"], record["folder"])
    folder = metrics_csv.latest_folder(step.curves)
    if folder is not None:
        return of_csv(folder / "metrics.csv")
    return of_fairseq(step.log) if step.log.is_file() else []


def of_csv(path: Path) -> Points:
    """The first of NAMES that the file has."""
    found: dict[str, Points] = {name: [] for name in NAMES}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["name"] in found and math.isfinite(value := float(row["value"])):
                    found[row["name"]].append((int(row["step"]), value))
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return next((points for points in found.values() if points), [])


def of_fairseq(log: Path) -> Points:
    """The losses, in bits there, that fairseq prints while it trains."""
    text = log.read_text(errors="replace")
    points = {int(updates): float(loss) * math.log(2)
              for expression in (INNER, JSON_INNER) for loss, updates in expression.findall(text)}
    return sorted(points.items())


def joined(curves: list[tuple[str, Points]]) -> list[tuple[str, Points]]:
    """The steps of a run one after another: fine-tuning goes on where training ended."""
    lines, end = [], 0.0
    for name, points in curves:
        start = end if name == "finetune" else 0.0
        moved = [(start + updates, loss) for updates, loss in points]
        if name == "finetune" and lines:
            moved = [lines[-1][1][-1], *moved]
        end = moved[-1][0]
        lines.append((name, moved))
    return lines
