"""metrics_csv.py: what every training script leaves in its run's folder."""

import json
import math
import re
from pathlib import Path

import pytest

from report import measurements, metrics_csv
from report.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def write_run(folder, script, *rows):
    """metrics.csv and args.json as the harness writes them; rows: (epoch, name, value)."""
    folder.mkdir(parents=True)
    lines = [f"{10 * epoch},{epoch},{name},{value!r}" for epoch, name, value in rows]
    (folder / "metrics.csv").write_text("\r\n".join(["step,epoch,name,value", *lines, ""]))
    (folder / "args.json").write_text(json.dumps({"script": script, "seed": 1}))
    return folder


WORDS = [(1, "train_loss", 7.0), (1, "valid_loss", 5.0), (2, "valid_loss", 4.0),
         (3, "valid_loss", 4.5)]
CASES = {  # script: rows, curve, closing numbers
    "awd_lstm/main.py": (
        [*WORDS, (1, "train_lr", 30.0), (1, "valid_ppl", math.exp(5)), (2, "test_loss", 3.0),
         (2, "test_ppl", math.exp(3))],
        [{"epoch": e, "valid_loss": loss, "valid_ppl": round(math.exp(loss), 6),
          "valid_bpc": round(loss / math.log(2), 6)} for e, loss in ((1, 5.0), (2, 4.0), (3, 4.5))],
        {"best_epoch": 2, "valid_loss": 4.0, "valid_ppl": 54.59815, "valid_bpc": 5.77078,
         "test_loss": 3.0, "test_ppl": 20.085537, "test_bpc": 4.328085}),
    "awd_lstm/scratch/main.py": (
        [(1, "train_eval_loss", 1.0), (1, "valid_loss", 2.0), (1, "test_loss", 3.0)],
        [{"epoch": 1, "train_loss": 1.0, "train_ppl": 2.718282, "train_bpc": 1.442695,
          "valid_loss": 2.0, "valid_ppl": 7.389056, "valid_bpc": 2.88539}],
        {"best_epoch": 1, "valid_loss": 2.0, "valid_ppl": 7.389056, "valid_bpc": 2.88539,
         "test_loss": 3.0, "test_ppl": 20.085537, "test_bpc": 4.328085}),
    "trellisnet/word_PTB/word_ptb.py": (
        [(1, "valid_loss", 2.0), (1, "test_loss", 3.0), (1, "final_test_loss", 1.0)],
        [{"epoch": 1, "valid_loss": 2.0, "valid_ppl": 7.389056, "test_loss": 3.0,
          "test_ppl": 20.085537}],
        {"best_epoch": 1, "valid_loss": 2.0, "valid_ppl": 7.389056, "test_loss": 1.0,
         "test_ppl": 2.718282}),
    "trellisnet/char_PTB/char_ptb.py": (
        [(1, "valid_loss", 1.0), (1, "test_loss", 1.0), (1, "final_test_loss", 1.0)],
        [{"epoch": 1, "valid_loss": 1.0, "valid_bpc": 1.442695, "test_loss": 1.0,
          "test_bpc": 1.442695}],
        {"best_epoch": 1, "valid_loss": 1.0, "valid_bpc": 1.442695, "test_loss": 1.0,
         "test_bpc": 1.442695}),
    "trellisnet/seq_MNIST_CIFAR/seq_mnist_cifar.py": (
        [(1, "test_loss", 2.0), (1, "test_acc", 12.5), (1, "epoch_seconds", 4.0),
         (2, "test_loss", 1.0), (2, "test_acc", 10.0)],
        [{"epoch": 1, "test_loss": 2.0, "test_acc": 12.5, "seconds": 4.0},
         {"epoch": 2, "test_loss": 1.0, "test_acc": 10.0}],
        {"test_loss": 1.0, "test_acc": 10.0}),
    "sparse_seq/language_modeling/main.py": (
        [(1, "valid_loss", 2.0), (1, "test_loss", 3.0)],
        [{"epoch": 1, "valid_loss": 2.0, "valid_ppl": 7.389056}],
        {"best_epoch": 1, "valid_loss": 2.0, "valid_ppl": 7.389056, "test_loss": 3.0,
         "test_ppl": 20.085537}),
    "sparse_seq/language_modeling/main_overfit.py": (
        [(1, "train_loss", 2.0), (1, "train_acc", 0.25)], [{"epoch": 1, "train_acc": 25.0}], {}),
    "sparse_seq/sequence_labeling/main.py": (
        [(1, "train_loss", 0.5), (1, "valid_acc", 0.9312), (1, "test_acc", 0.948)],
        [{"epoch": 1, "train_loss": 0.5, "valid_acc": 93.12}],
        {"best_epoch": 1, "valid_acc": 93.12, "test_acc": 94.8}),
    "tnn/im/main.py": (  # counts from 0
        [(e, name, value) for e, acc in ((0, 70.0), (1, 72.0), (2, 71.0)) for name, value in
         (("train_loss", 3.0), ("test_loss", 9.0 - e), ("test_acc1", acc), ("test_acc5", 90.0))],
        [{"epoch": e, "train_loss": 3.0, "valid_loss": 10.0 - e, "valid_acc": acc,
          "valid_acc5": 90.0} for e, acc in ((1, 70.0), (2, 72.0), (3, 71.0))],
        {"best_epoch": 2, "valid_loss": 8.0, "valid_acc": 72.0, "valid_acc5": 90.0}),
    "tnn/lra/main.py": (
        [(1, "trainer/loss", 9.0), (1, "val/accuracy", 0.5), (1, "val/loss", 1.0),
         (1, "test/accuracy", 0.4), (1, "timer/epoch", 7.5), (2, "val/accuracy", 0.25),
         (2, "val/loss", 0.5), (2, "test/accuracy", 0.6), (2, "final/test/accuracy", 0.6)],
        [{"epoch": 1, "valid_acc": 50.0, "valid_loss": 1.0, "test_acc": 40.0, "seconds": 7.5},
         {"epoch": 2, "valid_acc": 25.0, "valid_loss": 0.5, "test_acc": 60.0}],
        {"best_epoch": 1, "valid_acc": 50.0, "valid_loss": 1.0, "test_acc": 40.0}),
}


@pytest.mark.parametrize("script", CASES)
def test_metrics_of_every_script(tmp_path, script):
    rows, expected_curve, expected_final = CASES[script]
    curve, final, judge = metrics_csv.read(write_run(tmp_path / "run", script, *rows))
    assert curve == expected_curve
    assert measurements.add_best(curve, final, judge) == expected_final


def test_every_training_script_has_a_layout_that_reads_what_it_logs():
    """A script that is renamed, or a metric that is, must be told here."""
    names = {start: {*layout.points, *layout.finals} for start, layout in
             metrics_csv.LAYOUTS.items()}
    for start, wanted in names.items():
        folder = ROOT / start
        files = [*folder.rglob("*.py"), *folder.parent.glob("*.py")]
        said = " ".join(path.read_text(encoding="utf-8") for path in files)
        for name in wanted:
            last = name.rpartition("/")[2]
            assert re.search(rf"\b{last}\b", said), f"{start}: {name} is not logged"


def test_a_loss_that_is_not_finite_or_too_large_to_be_a_perplexity(tmp_path):
    folder = write_run(tmp_path / "run", "awd_lstm/main.py", (1, "valid_loss", math.nan),
                       (2, "valid_loss", 1e6))
    curve, _, _ = metrics_csv.read(folder)
    assert [point["valid_loss"] for point in curve] == [None, 1e6]
    assert [point["valid_ppl"] for point in curve] == [None, None]


@pytest.mark.parametrize(("file", "text", "said"), [
    ("metrics.csv", "step,epoch,name,value\n1,1,valid_loss\n", "not the metrics of a run"),
    ("metrics.csv", None, "not the metrics of a run"),
    ("args.json", "{", "does not say which script"),
    ("args.json", "[]", "does not say which script"),
    ("args.json", None, "does not say which script"),
    ("args.json", '{"script": "elsewhere/main.py"}', "elsewhere/main.py"),
])
def test_a_damaged_folder_is_named(tmp_path, file, text, said):
    folder = write_run(tmp_path / "run", "awd_lstm/main.py", *WORDS)
    (folder / file).unlink() if text is None else (folder / file).write_text(text)
    with pytest.raises(UserError, match=said) as error:
        metrics_csv.read(folder)
    assert str(folder / file) in str(error.value)
