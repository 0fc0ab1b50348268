"""Reads numbers out of a log: all of fairseq's runs and of calls that only evaluate; of a run that
writes metrics.csv only what is not in there.

To teach it a new kind of line, add a row to PATTERNS. In a row's regular expression <name> stands
for a number that is kept under that name (names: measurements.py). x_correct and x_total become
x_acc, in percent, as x_share becomes x; params_millions becomes params.
"""

import math
import re

# GLUE's measures, wherever they stand in fairseq's line.
MEASURES = ("mcc", "acc_and_f1", "f1", "pearson_and_spearman", "pearson", "spearman")
GLUE = "".join(rf"(?:(?=.*? \| {name} <valid_{name}_share>))?" for name in MEASURES)

# Kind "epoch": a point of the curve; without <epoch> it belongs to the epoch last seen.
# Kind "final": a number of the whole run.
PATTERNS = (
    # whose                              kind     line
    ("fairseq", "epoch", r"epoch <epoch>:\s+\d+ / <updates_per_epoch> loss="),
    ("fairseq", "epoch",
     r"epoch <epoch> \| valid on 'valid' subset \| loss <valid_loss_base2>(?: \| nll_loss [\d.]+)?"
     r"(?: \| accuracy <valid_acc>)?(?: \| ppl <valid_ppl>)?" + GLUE
     + r"(?:.* num_updates <updates>)?"),
    ("fairseq, MNLI", "epoch",
     r"epoch <epoch> \| valid on 'valid1' subset \| .*? \| accuracy <valid_acc_mismatched>"),
    ("fairseq", "final", r"Loss \(base 2\): <test_loss_base2>, Perplexity: <test_ppl>"),

    ("awd_lstm, pointer", "final",
     r"\| End of pointer \| val loss <valid_loss> \| val ppl <valid_ppl>"),
    ("awd_lstm, pointer", "final",
     r"\| End of pointer \| test loss <test_loss> \| test ppl <test_ppl>"),
    ("trellisnet --eval", "final",
     r"\| [Ee]nd of epoch +-1 .*\| valid loss <valid_loss>"
     r"(?: \| valid ppl <valid_ppl>)?(?: \| valid bpc <valid_bpc>)?"),
    ("trellisnet --eval", "final",
     r"\| [Ee]nd of epoch +-1 .*\| test loss <test_loss>"
     r"(?: \| test ppl <test_ppl>)?(?: \| test bpc <test_bpc>)?"),
    ("trellisnet, images, --eval", "final",
     r"Test set: Average loss: <test_loss>, Accuracy: <test_correct>/<test_total>"),
    ("sparse_seq, awd_lstm, trellisnet", "final",
     r"\| End of training \| test loss <test_loss>"
     r"(?: \| test ppl <test_ppl>)?(?: \| test bpc <test_bpc>)?"),
    ("tnn/im --eval", "final", r"\* Acc@1 <valid_acc> Acc@5 <valid_acc5> loss <valid_loss>"),
    ("tnn/lra --eval", "final",
     r"^val loss <valid_loss> acc <valid_acc> \| test loss <test_loss> acc <test_acc>$"),

    ("most scripts", "final", r"(?:Model total parameters|^number of params): <params>"),
    ("sparse_seq", "final", r"params total: <params_millions>M"),
    ("most scripts", "epoch", r"\| [Ee]nd of epoch <epoch> \| time: <seconds>s"),
    ("awd_lstm/scratch", "epoch", r"^epoch: <epoch> ?\| time: <seconds>"),
)

FRESH_START = "=== record: fresh start"  # what stands above it in the log was thrown away
NUMBER = r"inf|nan|[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"


def compile_row(kind: str, line: str) -> tuple[str, re.Pattern]:
    """A row of PATTERNS -> (kind, compiled expression)."""
    return kind, re.compile(re.sub(r"<(\w+)>", lambda m: rf"\s*(?P<{m[1]}>{NUMBER})", line))


def to_number(name: str, text: str) -> float | int | None:
    """The value of a matched group: int where it counts something, None if not finite."""
    value = float(text)
    if not math.isfinite(value):
        return None
    return int(value) if name in ("epoch", "params") else value


def tidy(values: dict) -> dict:
    """Turns the endings _correct/_total and _millions into plain names."""
    tidied = {}
    for name, value in values.items():
        if name == "params_millions":
            tidied["params"] = round(value * 1e6)
        elif name.endswith("_share"):
            tidied[name.removesuffix("_share")] = value and round(100 * value, 6)
        elif name.endswith("_correct"):
            total = values[name[:-8] + "_total"]
            tidied[name[:-8] + "_acc"] = round(100 * value / total, 6) if total else None
        elif not name.endswith("_total"):
            tidied[name] = value
    return tidied


def parse_log(text: str) -> tuple[list[dict], dict]:
    """Text of a log -> (curve: a dict per epoch, in order; closing numbers).

    In a resumed log an epoch may appear twice: the later one wins.
    """
    patterns = [compile_row(kind, line) for _, kind, line in PATTERNS]
    points, final, epoch, per_epoch = {}, {}, None, None
    for line in re.split(r"[\r\n]+", text):
        if line.startswith(FRESH_START):
            points, final, epoch = {}, {}, None
        for kind, expression in patterns:
            match = expression.search(line)
            if not match:
                continue
            groups = match.groupdict().items()
            values = tidy({name: to_number(name, found) for name, found in groups if found})
            epoch = values.pop("epoch", epoch)
            # fairseq validates within an epoch too: such a point lies at a fraction of one
            per_epoch = values.pop("updates_per_epoch", per_epoch)
            updates = values.pop("updates", None)
            if updates and per_epoch:
                epoch = round(updates / per_epoch, 3)
            if kind == "final" or epoch is None or epoch < 0:
                final.update(values)
            else:
                points.setdefault(epoch, {"epoch": epoch}).update(values)
            break
    curve = [points[number] for number in sorted(points)]
    return [point for point in curve if len(point) > 1], final
