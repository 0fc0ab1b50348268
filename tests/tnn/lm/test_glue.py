"""GLUE from the prepared data to a submission: each task's own measures, resumed, predicted."""

import argparse
import re
import shutil
import zipfile

import numpy as np
import pytest

from harness import files
from tests.tnn.lm.conftest import ROOT
from tests.tnn.lm.test_prepare_glue import task
from tests.tnn.lm.test_scripts import run

MEASURES = {"CoLA": ["mcc"], "MRPC": ["f1", "acc_and_f1", "accuracy"],
            "STS-B": ["pearson", "spearman", "pearson_and_spearman"], "RTE": ["accuracy"],
            "MNLI": ["accuracy"]}
HEADS = {"MRPC": "Quality\t#1 String\t#2 String", "RTE": "label\tsentence1\tsentence2",
         "STS-B": "score\tsentence1\tsentence2", "MNLI": "gold_label\tsentence1\tsentence2"}
LABELS = {"CoLA": "01", "MRPC": "01", "RTE": ["entailment", "not_entailment"],
          "MNLI": ["contradiction", "entailment", "neutral"], "STS-B": ["0.5", "2.5", "5"]}
# What the script gives fairseq, at a size that trains within a second.
SMALL = ["--encoder-embed-dim", "16", "--encoder-layers", "1", "--rpe-layers", "1", "--cpu",
         "--num-workers", "0", "--log-format", "simple", "--no-epoch-checkpoints",
         "--mask-padding", "--warmup-updates", "1", "--lr", "0.01"]


def sentences(rng, name, count):
    """Lines of a split; the label depends on the words."""
    lines = []
    for _ in range(count):
        label = rng.integers(len(LABELS[name]))
        words = [" ".join(f"w{label}{i}" for i in rng.integers(5, size=rng.integers(2, 6)))
                 for _ in range(2)]
        lines.append([LABELS[name][label], *words])
    return lines


def glue(folder, name):
    """train, dev and test of a task, in its own form, and in dict.txt their words."""
    rng = np.random.default_rng(3)
    dev = ["dev_matched", "dev_mismatched"] if name == "MNLI" else ["dev"]
    splits = {}
    for split in ["train", *dev]:
        lines = sentences(rng, name, 48 if split == "train" else 20)
        splits[split] = ([f"gj\t{label}\t\t{a}" for label, a, _ in lines] if name == "CoLA" else
                         [HEADS[name], *map("\t".join, lines)])
    for split in dev:
        lines = sentences(rng, name, 7)
        head = "index\tsentence" if name == "CoLA" else HEADS[name].replace(
            HEADS[name].split("\t")[0], "index")
        splits[split.replace("dev", "test")] = [
            head, *("\t".join([str(i), *words][:head.count("\t") + 1])
                    for i, (_, *words) in enumerate(lines))]
    task(folder, name, **splits)


def commands(stub_folder, name, data, checkpoint, folder):
    """The words that script_glue.sh gives Python, told by a Python that only prints them."""
    stub = stub_folder / "python"
    stub.write_text('#!/bin/sh\ncase "$*" in *fairseq_cli*) printf "%s\\n" "$@" ;; esac\n')
    stub.chmod(0o755)
    done = run("script_glue.sh", name, str(data), str(checkpoint), PYTHON=str(stub),
               CKPT_DIR=str(folder), LOG_DIR=str(stub_folder))
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert words[:2] == ["-m", "fairseq_cli.train"]
    return words[2:]


@pytest.fixture(scope="module")
def tuned(fairseq, tmp_path_factory):
    """tuned(task): (folder with glue, data and checkpoints, fine-tuning's log); once per task."""
    found = {}

    def once(name):
        if name not in found:
            home = tmp_path_factory.mktemp(name)
            glue(home, name)
            ended = fairseq.run("tnn.lm.prepare_glue", [
                name, "--glue", home, "--bpe", home, "--out", home / "bin"], home)
            assert ended.code == 0, ended.err
            data, best = home / f"bin/{name}-bin", home / "checkpoints"
            flags = commands(home, name, data, home / "dict.txt", best)
            at = flags.index("--finetune-from-model")
            del flags[at:at + 2]  # from scratch
            logs = []
            for epochs in ("1", "3"):  # the second goes on where the first has stopped
                ended = fairseq.run("fairseq_cli.train",
                                    [*flags, *SMALL, "--max-epoch", epochs], home, call="cli_main")
                assert ended.code == 0, ended.err[-3000:]
                logs.append(ended.out)
            found[name] = home, logs
        return found[name]

    return once


def numbers(log, name, subset="valid"):
    """{measure: values at each validation}"""
    lines = [line for line in log.splitlines() if f"valid on '{subset}' subset" in line]
    return {what: [float(re.search(rf"\| {what} (-?[\d.]+)", line)[1]) for line in lines]
            for what in MEASURES[name]}


def extra_state(home, which):
    path = home / f"checkpoints/checkpoint_{which}.pt"
    return files.read(path, safe=(argparse.Namespace,))["extra_state"]


@pytest.mark.parametrize("name", ["CoLA", "MRPC", "STS-B", "RTE"])
def test_a_task_reports_its_own_measures_and_keeps_the_best_by_them(tuned, name):
    home, logs = tuned(name)
    judge = {"MRPC": "acc_and_f1", "STS-B": "pearson_and_spearman"}.get(name, MEASURES[name][0])
    found = [numbers(log, name) for log in logs]
    assert [len(values[judge]) for values in found] == [1, 2]
    best = max(found[0][judge] + found[1][judge])
    assert extra_state(home, "last")["best"] == best
    assert extra_state(home, "best")["val_loss"] == best


@pytest.mark.parametrize("name", ["CoLA", "STS-B"])
def test_a_task_whose_measure_is_numpys_is_resumed(tuned, name):
    """The checkpoint holds plain numbers, which torch reads without being told of numpy."""
    home, logs = tuned(name)
    assert re.search(r"Loaded checkpoint .*checkpoint_last.pt \(epoch 2 @ \d+ updates\)", logs[1])
    assert f"best_{'mcc' if name == 'CoLA' else 'pearson_and_spearman'}" in logs[1]
    with zipfile.ZipFile(home / "checkpoints/checkpoint_best.pt") as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        assert b"numpy" not in archive.read(pickled)
    assert type(extra_state(home, "best")["best"]) is float


def predict(fairseq, home, name, *more):
    return fairseq.run("tnn.lm.predict_glue", [
        name, home / "checkpoints/checkpoint_best.pt", "--data", home / f"bin/{name}-bin", "--glue",
        home, "--bpe", home, "--out", home / "submission", "--device", "cpu", *more], home)


@pytest.mark.parametrize("name", ["CoLA", "STS-B", "RTE"])
def test_predictions_on_the_test_set_are_written_for_submission(fairseq, tuned, name):
    home, _ = tuned(name)
    ended = predict(fairseq, home, name)
    assert ended.code == 0, ended.err
    head, *rows = (home / f"submission/{name}.tsv").read_text().splitlines()
    assert head == "index\tprediction"
    assert [row.split("\t")[0] for row in rows] == [str(i) for i in range(7)]
    answers = [row.split("\t")[1] for row in rows]
    if name == "STS-B":
        assert all(0 <= float(answer) <= 5 for answer in answers)
        assert len(set(answers)) > 1
    else:
        assert set(answers) <= set(LABELS[name])


def test_predictions_are_those_of_the_validation(fairseq, tuned):
    """The dev set given as the test set: accuracy as fairseq's at that checkpoint."""
    home, logs = tuned("RTE")
    other = home / "other"
    (other / "RTE").mkdir(parents=True)
    lines = (home / "RTE/dev.tsv").read_text().splitlines()
    (other / "RTE/test.tsv").write_text("\n".join(
        [lines[0].replace("label", "index"), *lines[1:]]) + "\n")
    ended = predict(fairseq, home, "RTE", "--glue", other, "--out", other)
    assert ended.code == 0, ended.err
    rows = [row.split("\t") for row in (other / "RTE.tsv").read_text().splitlines()[1:]]
    accuracy = 100 * np.mean([label == answer for label, answer in rows])
    assert accuracy == pytest.approx(max(numbers(logs[0] + logs[1], "RTE")["accuracy"]), abs=0.06)


def test_predictions_of_an_incomplete_row_are_not_left_out(fairseq, tuned):
    home, _ = tuned("RTE")
    other = home / "incomplete"
    (other / "RTE").mkdir(parents=True)
    (other / "RTE/test.tsv").write_text("index\tsentence1\tsentence2\n0\tw01\tw02\n1\tw01\n2\n")
    ended = predict(fairseq, home, "RTE", "--glue", other, "--out", other)
    assert ended.code == 0, ended.err
    assert "3 rows, 2 of them incomplete" in ended.out
    assert len((other / "RTE.tsv").read_text().splitlines()) == 4


def test_predictions_keep_an_earlier_file(fairseq, tuned):
    home, _ = tuned("RTE")
    out = home / "twice"
    out.mkdir()
    (out / "RTE.tsv").write_text("mine")
    ended = predict(fairseq, home, "RTE", "--out", out)
    assert ended.code == 0, ended.err
    assert (out / "RTE.tsv.old").read_text() == "mine"


@pytest.mark.parametrize(("name", "change", "said"), [
    ("CoLA", lambda home: None, "was fine-tuned on another task than CoLA"),
    ("RTE", lambda home: (home / "RTE/test.tsv").unlink(), "neither"),
    ("RTE", lambda home: (home / "RTE/test.tsv").write_text("id\ta\n"), "no column 'index'"),
    ("RTE", lambda home: (home / "checkpoints/checkpoint_best.pt").write_bytes(b"PK\x03\x04"),
     "is damaged"),
    ("RTE", lambda home: shutil.copy(
        ROOT / "tests/golden/cases/tnn_lm/cli/alm_fork_checkpoint.pt",
        home / "checkpoints/checkpoint_best.pt"), "holds no TNN fine-tuned by script_glue.sh"),
    ("RTE", lambda home: (home / "bin/RTE-bin/input0/dict.txt").write_text("x 1\n"),
     "is not the one that"),
], ids=["another task", "no test set", "no index", "damaged", "a language model", "dictionary"])
def test_predictions_refuse_what_does_not_fit_in_one_line(fairseq, tuned, tmp_path, name, change,
                                                          said):
    home = tmp_path / "home"
    shutil.copytree(tuned("RTE")[0], home)
    if name == "CoLA":
        glue(home, "CoLA")
        shutil.copytree(home / "bin/RTE-bin", home / "bin/CoLA-bin")
    change(home)
    ended = predict(fairseq, home, name)
    assert ended.code == 2, ended.err
    assert ended.err.startswith("predict_glue.py: ")
    assert ended.err.count("\n") == 1
    assert said in ended.err


@pytest.mark.slow
def test_mnli_reports_and_predicts_matched_and_mismatched(fairseq, tuned):
    home, logs = tuned("MNLI")
    for subset in ("valid", "valid1"):
        assert len(numbers(logs[1], "MNLI", subset)["accuracy"]) == 2
    ended = predict(fairseq, home, "MNLI")
    assert ended.code == 0, ended.err
    assert sorted(path.name for path in (home / "submission").iterdir()) == [
        "MNLI-m.tsv", "MNLI-mm.tsv"]
