"""Reads the curve and the final numbers out of a training log.

To teach it a new kind of line, add one row to PATTERNS. In a row's regular expression <name>
stands for a number that is kept under that name. Names are <split>_<metric>, with splits train,
valid, test and metrics loss, ppl, bpc, acc (in percent), or epoch, seconds, params. Three endings
are turned into plain names: x_frac becomes x in percent, x_correct and x_total become x_acc, and
params_millions becomes params.
"""

import math
import re

# Kind "epoch": a point of the curve; without <epoch> it belongs to the epoch last seen.
# Kind "final": a number of the whole run.
PATTERNS = (
    # paper                               kind     line
    ("awd_lstm, trellisnet, sparse_seq", "epoch",
     r"\| [Ee]nd of epoch <epoch>(?: \| time: <seconds>s)? \| valid loss <valid_loss>"
     r"(?: \| valid ppl <valid_ppl>)?(?: \| valid bpc <valid_bpc>)?"),
    ("awd_lstm, trellisnet, sparse_seq", "final",
     r"\| End of training \| test loss <test_loss>"
     r"(?: \| test ppl <test_ppl>)?(?: \| test bpc <test_bpc>)?"),
    ("awd_lstm", "final", r"\| End of pointer \| val loss <valid_loss> \| val ppl <valid_ppl>"),
    ("awd_lstm", "final", r"\| End of pointer \| test loss <test_loss> \| test ppl <test_ppl>"),
    ("awd_lstm", "final", r"Model total parameters: <params>"),
    ("awd_lstm/scratch", "epoch",
     r"epoch: <epoch> ?\| time: <seconds> ?\| train_loss: <train_loss> ?\| val_loss: <valid_loss>"
     r" ?\| train_ppl: <train_ppl> ?\| val_ppl: <valid_ppl>(?: ?\| val_bpc: <valid_bpc>)?"),
    ("trellisnet", "epoch",
     r"\| [Ee]nd of epoch <epoch>(?: \| time: <seconds>s)? \| test loss <test_loss>"
     r"(?: \| test ppl <test_ppl>)?(?: \| test bpc <test_bpc>)?"),
    ("trellisnet", "epoch", r"Train Epoch: <epoch> \["),
    ("trellisnet", "epoch",
     r"Test set: Average loss: <test_loss>, Accuracy: <test_correct>/<test_total>"),
    ("sparse_seq", "final", r"params total: <params_millions>M"),
    ("sparse_seq", "epoch", r"Epoch <epoch>: train loss <train_loss>, valid acc <valid_acc_frac>"),
    ("sparse_seq", "final", r"Finished: test accuracy after last epoch: <test_acc_frac>"),
    ("sparse_seq", "epoch",
     r"Epoch <epoch>\s+-\s+<train_correct>/<train_total> train items correctly predicted"),
    ("tnn (fairseq)", "epoch", r"epoch <epoch>:\s+\d+ / <updates_per_epoch> loss="),
    ("tnn (fairseq)", "epoch",
     r"epoch <epoch> \| valid on 'valid' subset \| loss <valid_loss_base2>(?: \| nll_loss [\d.]+)?"
     r"(?: \| accuracy <valid_acc>)?(?: \| ppl <valid_ppl>)?(?:.* num_updates <updates>)?"),
    ("tnn (fairseq)", "final", r"Loss \(base 2\): <test_loss_base2>, Perplexity: <test_ppl>"),
    ("tnn/im", "epoch", r"Epoch: \[<epochs_before>\]"),
    ("tnn/im", "final", r"Max accuracy: <valid_acc>%"),
    ("tnn/im", "final", r"^number of params: <params>"),
    ("tnn/lra", "epoch",
     r"epoch <epoch> \| step \d+ \| lr \S+ \| train loss <train_loss> acc <train_acc> \| val loss"
     r" <valid_loss> acc <valid_acc> \| test loss <test_loss> acc <test_acc> \| <seconds> s"),
    ("tnn/lra", "final",
     r"End of training \| test acc <test_acc> \| val acc <valid_acc> \| best epoch <best_epoch>"),
    ("tnn/im", "epoch", r"\* Acc@1 <valid_acc> Acc@5 <valid_acc5> loss <valid_loss>"),
)

FRESH_START = "=== record: fresh start"  # what stands above it in the log was thrown away
NUMBER = r"inf|nan|[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
BEST = (("valid_loss", min), ("valid_ppl", min), ("valid_bpc", min), ("valid_acc", max))


def compile_row(kind, line):
    """A row of PATTERNS -> (kind, compiled expression)."""
    return kind, re.compile(re.sub(r"<(\w+)>", lambda m: rf"\s*(?P<{m[1]}>{NUMBER})", line))


def to_number(name, text):
    """The value of a matched group: int where it counts something, None if not finite."""
    value = float(text)
    if not math.isfinite(value):
        return None
    return int(value) if name in ("epoch", "best_epoch", "params") else value


def tidy(values):
    """Turns the endings _frac, _correct/_total and _millions into plain names."""
    tidied = {}
    for name, value in values.items():
        if name == "params_millions":
            tidied["params"] = round(value * 1e6)
        elif name.endswith("_frac"):
            tidied[name[:-5]] = None if value is None else round(100 * value, 6)
        elif name.endswith("_correct"):
            total = values[name[:-8] + "_total"]
            tidied[name[:-8] + "_acc"] = round(100 * value / total, 6) if total else None
        elif not name.endswith("_total"):
            tidied[name] = value
    return tidied


def best_epoch(curve):
    """The point whose weights a script would have kept: best on the validation data."""
    for name, best in BEST:
        points = [point for point in curve if point.get(name) is not None]
        if points:
            value = best(point[name] for point in points)
            return next(point for point in points if point[name] == value)
    return None


def add_best(curve, final):
    """Completes the final numbers with those of the best epoch; the log's own numbers win."""
    best = best_epoch(curve)
    if best is not None and not any(name.startswith("valid_") for name in final):
        final["best_epoch"] = best["epoch"]
        final.update((name, best[name]) for name in best if name.startswith("valid_"))
    if curve and not any(name.startswith("test_") for name in final):
        point = best or curve[-1]  # scripts that test after every epoch and never at the end
        final.update((name, point[name]) for name in point if name.startswith("test_"))
    return final


def parse_log(text):
    """Text of a log -> (curve: a dict per epoch, in order; final: a dict of numbers).

    On a resumed log an epoch may appear twice: the later one wins.
    """
    rows = [compile_row(kind, line) for _, kind, line in PATTERNS]
    points, final, epoch, per_epoch = {}, {}, None, None
    for line in re.split(r"[\r\n]+", text):
        if line.startswith(FRESH_START):
            points, final, epoch = {}, {}, None
        for kind, expression in rows:
            match = expression.search(line)
            if not match:
                continue
            groups = match.groupdict().items()
            values = tidy({name: to_number(name, found) for name, found in groups if found})
            epoch = values.pop("epoch", epoch)
            if "epochs_before" in values:  # counted from 0
                epoch = int(values.pop("epochs_before")) + 1
            # fairseq validates within an epoch too: such a point lies at a fraction of one
            per_epoch = values.pop("updates_per_epoch", per_epoch)
            updates = values.pop("updates", None)
            if updates and per_epoch:
                epoch = round(updates / per_epoch, 3)
            if kind == "final" or epoch is None or epoch < 0:  # -1: TrellisNet's --eval
                final.update(values)
            else:
                points.setdefault(epoch, {"epoch": epoch}).update(values)
            break
    curve = [points[number] for number in sorted(points)]
    return [point for point in curve if len(point) > 1], add_best(curve, final)
