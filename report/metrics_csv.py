"""Reads the metrics.csv (step,epoch,name,value) that a training script leaves in its run's folder,
with its settings in args.json beside it.

The scripts keep the names that their papers' code gives its metrics; LAYOUTS says what they mean.
"""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from report import ROOT
from report.errors import UserError

LN2 = math.log(2)
DERIVED = {"ppl": math.exp, "bpc": lambda loss: loss / LN2}  # of a loss in nats


class Layout(NamedTuple):
    """What a script writes. Names not listed are of no use here (losses within an epoch, rates).

    points: name in metrics.csv -> name in a record, once per epoch.
    finals: the same for the end of the run. A script that tests after every epoch only has none.
    derived: what to make of every loss.
    judge: by what the script chooses its best epoch, if not by the validation loss.
    fractions: accuracies are fractions, not percent.
    from_zero: the first epoch is 0. Elsewhere that is the model which fine-tuning begins from.
    """

    points: Mapping[str, str]
    finals: Mapping[str, str] = MappingProxyType({})
    derived: tuple[str, ...] = ()
    judge: str | None = None
    fractions: bool = False
    from_zero: bool = False


VALID, TEST = {"valid_loss": "valid_loss"}, {"test_loss": "test_loss"}
FINAL_TEST = {"final_test_loss": "test_loss"}
SECONDS = {"epoch_seconds": "seconds", "timer/epoch": "seconds"}

# The script's path begins with; the first that fits.
LAYOUTS = {
    "awd_lstm/scratch/": Layout({**VALID, "train_eval_loss": "train_loss"}, TEST, ("ppl", "bpc")),
    "awd_lstm/": Layout(VALID, TEST, ("ppl", "bpc")),
    "trellisnet/seq_MNIST_CIFAR/": Layout({**TEST, "test_acc": "test_acc"}),
    "trellisnet/char_PTB/": Layout({**VALID, **TEST}, FINAL_TEST, ("bpc",)),
    "trellisnet/": Layout({**VALID, **TEST}, FINAL_TEST, ("ppl",)),
    "sparse_seq/sequence_labeling/": Layout(
        {"train_loss": "train_loss", "valid_acc": "valid_acc"}, {"test_acc": "test_acc"},
        fractions=True),
    # main_overfit.py, learning by heart, has no text but the training text
    "sparse_seq/language_modeling/": Layout(
        {**VALID, "train_acc": "train_acc"}, TEST, ("ppl",), fractions=True),
    # its "test" is the validation part of ImageNet
    "tnn/im/": Layout({"train_loss": "train_loss", "test_loss": "valid_loss",
                       "test_acc1": "valid_acc", "test_acc5": "valid_acc5"}, judge="valid_acc",
                      from_zero=True),
    "tnn/lra/": Layout({f"{theirs}/{long}": f"{split}_{short}"
                        for theirs, split in (("train", "train"), ("val", "valid"),
                                              ("test", "test"))
                        for long, short in (("loss", "loss"), ("accuracy", "acc"))},
                       judge="valid_acc", fractions=True),
}


def latest_folder(listing: Path) -> Path | None:
    """The folder of a step's curves: the last one that the run announced, which after a resume
    holds the earlier rows too. None if it announced none."""
    if not listing.exists():
        return None
    folders = listing.read_text(encoding="utf-8").splitlines()
    return Path(folders[-1]) if folders else None


def settings(folder: Path | None) -> dict:
    """Every flag of the run in a folder, defaults included, as args.json has them, but for numbers
    that are not finite, which become words (JSON has none), and for paths in the repository, which
    become relative to it: a record does not say where it lies. Empty without a folder. Raises
    UserError."""
    if folder is None:
        return {}
    try:
        found = json.loads((folder / "args.json").read_text(encoding="utf-8"))
        return {name: plain(value) for name, value in found.items() if name != "script"}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / 'args.json'}: not the settings of a run ({error})") from error


def plain(value: Any) -> Any:
    """The value with inf and nan as words, and paths in the repository relative to it."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str) and Path(value).is_relative_to(ROOT):
        return str(Path(value).relative_to(ROOT))
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read(folder: Path) -> tuple[list[dict], dict, str | None]:
    """(curve: a dict per epoch, in order; closing numbers; what the best epoch is judged by) of the
    run in a folder. Raises UserError."""
    layout = layout_of(folder)
    points, final = {}, {}
    for epoch, name, value in rows(folder / "metrics.csv"):
        if name in layout.finals:
            final.update(measured(layout.finals[name], value, layout))
        elif known := layout.points.get(name) or SECONDS.get(name):
            points.setdefault(epoch, {}).update(measured(known, value, layout))
    first = 1 if layout.from_zero else 0
    curve = [{"epoch": epoch + first, **points[epoch]} for epoch in sorted(points)]
    return curve, final, layout.judge


def layout_of(folder: Path) -> Layout:
    """The layout of the script that args.json names. Raises UserError."""
    path = folder / "args.json"
    try:
        script = json.loads(path.read_text(encoding="utf-8"))["script"]
        return next(layout for start, layout in LAYOUTS.items() if script.startswith(start))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: does not say which script made the run ({error})") from error
    except StopIteration:
        raise UserError(f"{path}: what {script} measures is not known here; "
                        "report/metrics_csv.py lists the scripts") from None


def rows(path: Path) -> list[tuple[int, str, float]]:
    """[(epoch, name, value)] in the file's order. Raises UserError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [(int(row["epoch"]), row["name"], float(row["value"]))
                    for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the metrics of a run ({error})") from error


def measured(name: str, value: float, layout: Layout) -> dict[str, float | None]:
    """A number under its name in a record, with what can be derived from it; None if not finite."""
    if layout.fractions and name.endswith(("_acc", "_acc5")):
        value *= 100
    split, _, metric = name.partition("_")
    found = {name: value}
    if metric == "loss":
        for other in layout.derived:
            found[f"{split}_{other}"] = DERIVED[other](value) if value < 700 else math.inf
    return {name: round(number, 6) if math.isfinite(number) else None
            for name, number in found.items()}
