"""GLUE's files to fairseq's form, and perplexity against length out of records."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from report import log_lines
from tnn.lm import extrapolation, prepare_glue

ROOT = Path(__file__).resolve().parents[3]


def task(folder, name, **splits):
    (folder / name).mkdir(parents=True, exist_ok=True)
    for split, lines in splits.items():
        (folder / name / f"{split}.tsv").write_text("\n".join(lines) + "\n")


def test_columns_by_name():
    head = "index\tsentence1\tsentence2\tlabel"
    lines = [head, "0\ta b\tc\tentailment", "1\td\te\tnot_entailment", "2\tone short"]
    assert prepare_glue.columns(lines, "RTE") == (
        [["a b", "d"], ["c", "e"]], ["entailment", "not_entailment"], 1)
    with pytest.raises(ValueError, match="no column 'sentence1'"):
        prepare_glue.columns(["index\tlabel", "0\t1"], "RTE")


def test_cola_has_no_header_and_sts_is_scaled():
    assert prepare_glue.columns(["gj04\t1\t\tHe left ."], "CoLA") == ([["He left ."]], ["1"], 0)
    lines = ["sentence1\tsentence2\tscore", "a\tb\t3.8"]
    assert prepare_glue.columns(lines, "STS-B") == ([["a"], ["b"]], ["0.76"], 0)


def test_zip_of_a_task(tmp_path):
    with zipfile.ZipFile(tmp_path / "QNLIv2.zip", "w") as z:
        z.writestr("QNLI/dev.tsv", "index\tquestion\tsentence\tlabel\n")
    assert prepare_glue.read(tmp_path, "QNLI", "dev")[0].startswith("index")
    with pytest.raises(ValueError, match=r"\./getdata\.sh glue"):
        prepare_glue.read(tmp_path, "QNLI", "train")


def run(*arguments):
    script = str(ROOT / "tnn/lm/prepare_glue.py")
    return subprocess.run([sys.executable, script, *map(str, arguments)], text=True,
                          capture_output=True, check=False)


def test_no_dictionary_in_one_line(tmp_path):
    done = run("RTE", "--glue", tmp_path, "--bpe", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "dict.txt" in done.stderr


def test_stsb_binarised(tmp_path):
    """Two inputs and numbers as labels; nothing but complete folders."""
    pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")
    lines = ["sentence1\tsentence2\tscore", "a b\tc\t5.0", "b\ta\t0.0"]
    task(tmp_path, "STS-B", train=lines, dev=lines)
    (tmp_path / "dict.txt").write_text("a 2\nb 2\nc 1\n")
    done = run("STS-B", "--glue", tmp_path, "--bpe", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out/STS-B-bin"
    assert (out / "label/train.label").read_text() == "1\n0\n"
    assert {p.name for p in out.iterdir()} == {"input0", "input1", "label"}
    assert (out / "input1/valid.idx").is_file()
    assert not list(tmp_path.glob("out/*.part"))


def test_sweep_of_the_newest_record(tmp_path):
    for date, value in (("2026-01-01T00:00:00Z", 1.0), ("2026-01-02T00:00:00Z", 30.0)):
        steps = [{"step": "main", "final": {}},
                 *({"step": f"length-{n}", "final": {"test_ppl": value + n}} for n in (512, 64))]
        (tmp_path / f"{date[:10]}.json").write_text(json.dumps({"date": date, "steps": steps}))
    points = extrapolation.sweep(tmp_path)
    assert points == [(64, 94.0), (512, 542.0)]
    extrapolation.draw(points, 64, tmp_path / "figures/plot.png")
    assert (tmp_path / "figures/plot.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="no record"):
        extrapolation.sweep(tmp_path / "figures")


def test_validation_within_an_epoch_is_a_fraction_of_it():
    curve, _ = log_lines.parse_log(
        "train_inner | epoch 001:     10 / 200 loss=15.1, ppl=34278.2, num_updates=10\n"
        "epoch 001 | valid on 'valid' subset | loss 8.7 | ppl 434.2 | wps 4 | num_updates 50\n"
        "epoch 001 | valid on 'valid' subset | loss 8.2 | ppl 313.3 | num_updates 100 | best 8\n"
        "epoch 002 | valid on 'valid' subset | loss 8.1 | nll_loss 0.1 | accuracy 87.2 | wps 1\n")
    assert [point["epoch"] for point in curve] == [0.25, 0.5, 2]
    assert curve[1]["valid_ppl"] == 313.3
    assert curve[2]["valid_acc"] == 87.2
