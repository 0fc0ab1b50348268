"""The rows and their published numbers."""

import csv
from pathlib import Path

from report.errors import UserError
from report.step_numbers import DECIMALS

Line = dict[str, str]  # of published.csv: row, stage, system, metric, split, value, source, note

# Every row of the Makefile, in the order of the tables, and what it is.
ROWS = {
    "awd-ptb": "words, PTB: LSTM, fine-tuned, cache",
    "awd-ptb-qrnn": "the same, QRNN",
    "awd-wt2": "words, WikiText-2: LSTM, fine-tuned, cache",
    "awd-wt2-qrnn": "the same, QRNN",
    "awd-ptbc": "characters, PTB: LSTM",
    "awd-enwik8": "bytes, enwik8: LSTM",
    "awd-wt103": "words, WikiText-103: QRNN",
    "awd-scratch-ptb": "words, PTB: the readable LSTM",
    "trellis-ptb": "words, PTB",
    "trellis-ptb-mos": "words, PTB, mixture of softmaxes",
    "trellis-ptbc": "characters, PTB",
    "trellis-wt103": "words, WikiText-103",
    "trellis-smnist": "sequential MNIST",
    "trellis-pmnist": "permuted MNIST",
    "trellis-scifar": "sequential CIFAR-10",
    "sparse-ptb": "words, PTB: sparse LSTM, fine-tuned",
    "sparse-ptb-dense": "the same, dense",
    "sparse-recite-dense": "learning to recite PTB: dense, 24.2 M",
    "sparse-recite-reduced": "dense, 7.07 M",
    "sparse-recite-sparse1": "sparse LSTM, 7.07 M",
    "sparse-recite-sparse2": "sparse LSTM and embedding, 7.07 M",
    "sparse-pos-dense": "part-of-speech tags: dense embedding",
    "sparse-pos-sparse": "sparse embedding, same parameters",
    "sparse-pos-down": "the same, vocabulary reversed",
    "tnn-alm": "words, WikiText-103 (BPE): causal",
    "tnn-extrapolation": "longer texts than trained on",
    "tnn-blm": "masked words, WikiText-103",
    "tnn-glue": "GLUE, fine-tuned",
    "tnn-im-tiny": "ImageNet, tiny",
    "tnn-im-small": "ImageNet, small",
    "tnn-lra-listops": "Long Range Arena: ListOps",
    "tnn-lra-imdb": "text (IMDB)",
    "tnn-lra-aan": "retrieval (AAN)",
    "tnn-lra-cifar": "image (CIFAR-10)",
    "tnn-lra-pathfinder": "Pathfinder",
    "tnn-lra-pathfinderx": "Path-X",
    "tnn-speed": "speed against length",
}
# Published as a plot without a table.
FIGURES = {"tnn-speed": "Figure 1: plot only, no table",
           "tnn-extrapolation": "figure: plot only, no table"}
STEPS = ("main", "finetune", "pointer", "eval")  # stages that are steps of a row


def load(path: Path) -> list[Line]:
    """The lines of published.csv, each value checked to be a number. Raises UserError."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; --results DIR says where it is") from error
    for number, line in enumerate(lines, 2):
        try:
            float(line["value"])
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}:{number}: no number in column 'value'") from None
    return lines


def is_target(line: Line) -> bool:
    """True for a number that a step of the row should reach; else it is context."""
    return line["stage"] in STEPS and line["metric"] in DECIMALS


def targets(lines: list[Line], row: str | None) -> dict[tuple[str, str], dict[str, str]]:
    """{(stage, metric): {split: value as published}} of a row."""
    found = {}
    for line in lines:
        if line["row"] == row and is_target(line):
            found.setdefault((line["stage"], line["metric"]), {})[line["split"]] = line["value"]
    return found


def first_metric(lines: list[Line], row: str | None) -> str | None:
    """The metric of the first number that a step of the row should reach, or None."""
    return next((metric for _, metric in targets(lines, row)), None)


def like(name: str, wanted: str | None = None) -> str | None:
    """The published row a run is a version of: as told, or the longest its name begins with."""
    if wanted or name in ROWS:
        return wanted or name
    return max((row for row in ROWS if name.startswith(row + "-")), key=len, default=None)
