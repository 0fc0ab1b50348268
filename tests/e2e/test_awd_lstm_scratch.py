"""main.py of the readable AWD-LSTM as a user runs it."""

import csv
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from awd_lstm import main as toolkit
from awd_lstm.scratch import main
from awd_lstm.scratch.study import twin
from awd_lstm.scratch.utils import from_nn_lstm
from harness import files
from report import measurements, metrics_csv
from report.log_lines import parse_log
from tests.awd_lstm.small import write_corpus

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "awd_lstm" / "scratch" / "main.py"
PYDOC = ROOT / "data" / "pydoc"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
SMALL = ("--emsize 6 --nhid 8 --nlayers 2 --batch_size 8 --bptt 15 --lr 5 --epochs 4 --seed 7 "
         "--log-interval 3 --nonmono 1 --no-cuda")


def run(argv, cwd, code=0) -> subprocess.CompletedProcess:
    """Runs main.py; its exit code must be `code`, and no traceback may show."""
    done = subprocess.run([sys.executable, str(SCRIPT), *map(str, argv)], cwd=cwd, text=True,
                          env=ENVIRONMENT, capture_output=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def flags(folder, *more) -> list[str]:
    return [*SMALL.split(), "--train_rows", "50", "--data", str(folder / "texts"),
            "--save", str(folder / "m.pt"), "--log-dir", str(folder / "logs"), *map(str, more)]


def train(folder, *more) -> None:
    """The same in this process."""
    main.main(flags(folder, *more))


@pytest.fixture
def folder(tmp_path):
    write_corpus(tmp_path / "texts")
    return tmp_path


# ------------------------------------------------------------------------------ the three runs
@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Train, fine-tune, cache; on the embedded text where it is there."""
    home = tmp_path_factory.mktemp("home")
    data = home / "data" / "pydoc"
    data.mkdir(parents=True)
    if PYDOC.is_dir():
        for split, size in (("train", 60_000), ("valid", 8_000), ("test", 5_000)):
            text = (PYDOC / f"{split}.txt").read_text(encoding="utf-8")[:size]
            (data / f"{split}.txt").write_text(text, encoding="utf-8")
    else:
        write_corpus(data, train=1500)
    same = ("--data data/pydoc --emsize 20 --nhid 30 --nlayers 2 --batch_size 20 --bptt 35 "
            "--train_rows 100 --save s.pt --log-dir logs --no-cuda")
    steps = {"main": "--epochs 3", "finetune": "--finetune --epochs 1",
             "pointer": "--pointer --window 100"}
    return home, {name: run([*same.split(), *more.split()], home) for name, more in steps.items()}


def test_training_lines(chain):
    """The published lines; and what the report reads."""
    out = chain[1]["main"].stdout
    assert out.startswith("Running on: cpu\n")
    lines = re.findall(
        r"^epoch: (\d)\.00\| time: \d+\.\d\d\| train_loss: \d\.\d\d\| val_loss: \d\.\d\d\| "
        r"train_ppl: \d+\.\d\d\| val_ppl: \d+\.\d\d\| val_bpc: \d+\.\d\d\| train_bpc: \d+\.\d\d\| "
        r"asgd_triggered: 0\.00$", out, re.M)
    assert lines == ["1", "2", "3"]
    assert "Saving model" in out.splitlines()
    assert parse_log(out)[1]["params"] > 0
    curve, final, judge = metrics_csv.read(chain[0] / "logs" / "s.pt")
    assert [point["epoch"] for point in curve] == [1, 2, 3]
    final = measurements.add_best(curve, final, judge)
    assert final["valid_ppl"] < 500  # of some thousand words
    assert final.keys() >= {"test_ppl", "valid_ppl", "best_epoch"}


def test_finetuning(chain):
    home, done = chain
    before, after = (files.read(home / name) for name in ("s.pt.main", "s.pt"))
    assert before["script"] == "scratch"
    assert after["script"] == "scratch-finetune"
    assert after["valid_loss"] < before["valid_loss"]
    assert "asgd_triggered: 1.00" in done["finetune"].stdout


def test_pointer(chain):
    """A text that repeats itself is better predicted with the cache."""
    home, done = chain
    final = parse_log(done["pointer"].stdout)[1]
    assert final["valid_loss"] < files.read(home / "s.pt")["valid_loss"]
    assert final["test_ppl"] > 1


def test_table_of_epochs(chain):
    """The published results/scratch.csv."""
    with (chain[0] / "s.pt.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "time", "train_loss", "val_loss", "train_ppl", "val_ppl",
                             "val_bpc", "train_bpc", "asgd_triggered"]


def test_chain_leaves_nothing_else(chain):
    assert sorted(p.name for p in chain[0].iterdir() if p.suffix != ".prev") == [
        "data", "logs", "s.pt", "s.pt.csv", "s.pt.finetune.csv", "s.pt.finetune.state",
        "s.pt.main", "s.pt.state"]


def test_help(capsys):
    """Every flag is explained."""
    with pytest.raises(SystemExit):
        main.main(["-h"])
    out = capsys.readouterr().out
    assert len(re.findall(r"^  -", out, re.M)) > 40
    assert re.findall(r"^  (-\S+(?: \S+)?)\n(?=  -|\n|\Z)", out, re.M) == []


def test_other_texts_are_read_with_the_models_words(folder, capsys):
    """--resume MODEL, --finetune and --pointer on texts with an unknown word."""
    with (folder / "texts/train.txt").open("a") as file:
        file.write("w1 <unk> w2\n")
    train(folder, "--max-steps", "1")
    words = files.read(folder / "m.pt")["word_list"]
    with (folder / "texts/valid.txt").open("a") as file:
        file.write("w1 zebra\n")
    capsys.readouterr()
    train(folder, "--resume", folder / "m.pt", "--max-steps", "1", "--save", folder / "new.pt")
    train(folder, "--finetune", "--max-steps", "1")
    train(folder, "--pointer", "--window", "5")
    said = "(1 words) unknown to the model, read as <unk>: zebra"
    assert capsys.readouterr().out.count(said) == 3
    for name in ("m.pt", "new.pt.state"):
        assert torch.equal(files.read(folder / name)["word_list"], words)


# ------------------------------------------------------------------------------------ the same run
@pytest.mark.parametrize("layers", ["1", "3"])
def test_same_training_as_the_toolkit(folder, layers):
    """From the same weights, with the same masks, all dropouts on, an epoch and more leads both to
    the same place."""
    words = [*SMALL.split(), "--data", str(folder / "texts"), "--nlayers", layers, "--dropouth",
             "0.25", "--dropouti", "0.4", "--max-steps", "30", "--log-dir", str(folder / "logs")]
    toolkit.main([*words, "--save", str(folder / "t.pt"), "--exact-loss"])
    twin.main([*words, "--save", str(folder / "s.pt")])
    for names in (("t.pt", "s.pt"), ("t.pt.state", "s.pt.state")):
        theirs, ours = (files.read(folder / name) for name in names)
        for name, value in from_nn_lstm(theirs["model"]).items():
            torch.testing.assert_close(ours["model"][name], value, atol=1e-5, rtol=1e-4, msg=name)
    best = [files.read(folder / name)["valid_loss"] for name in ("t.pt", "s.pt")]
    assert best[1] == pytest.approx(best[0], abs=1e-5)


def test_hoisting_changes_nothing(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_corpus(other / "texts")
    train(folder, "--max-steps", "15")
    train(other, "--max-steps", "15", "--no-hoist")
    ours, plain = (files.read(f / "m.pt") for f in (folder, other))
    for name, value in plain["model"].items():
        torch.testing.assert_close(ours["model"][name], value, atol=1e-5, rtol=1e-4, msg=name)


# ------------------------------------------------------------------------------------ resumption
def assert_same_files(folder, expected):
    """Parameters, optimiser, random streams, curves: bit for bit."""
    for name in ("m.pt", "m.pt.state"):
        a, b = (files.read(f / name) for f in (folder, expected))
        for key, value in a["model"].items():
            assert torch.equal(value, b["model"][key]), f"{name} {key}"
    for key in ("step", "epoch", "i", "val_loss", "stored_loss", "lengths"):
        assert a["progress"][key] == b["progress"][key], key
    assert torch.equal(*(f["processes"][0]["random"]["torch"] for f in (a, b)))
    assert torch.equal(a["rng"][1], b["rng"][1])
    states = [list(f["optimizer"]["state"].values()) for f in (a, b)]
    assert all(torch.equal(x["ax"], y["ax"]) for x, y in zip(*states, strict=True))
    curves = [(f / "logs/m.pt/metrics.csv").read_text() for f in (folder, expected)]
    assert curves[0] == curves[1]


MODES = {"paper": [], "published": ["--as-published"]}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
def test_resume_is_bit_identical(folder, tmp_path_factory, mode):
    """Stopped in the middle of the first epoch, and in one with averaging."""
    expected = tmp_path_factory.mktemp("expected")
    write_corpus(expected / "texts")
    late = ["--lr", "40", "--epochs", "6", *mode]  # jumps about, so that averaging starts
    train(expected, *late)
    assert files.read(expected / "m.pt.state")["triggered"]
    epoch = len(files.read(expected / "m.pt.state")["progress"]["lengths"])
    train(folder, *late, "--max-steps", "5")
    train(folder, *late, "--resume", "--max-steps", str(4 * epoch + 7))
    train(folder, *late, "--resume")
    assert_same_files(folder, expected)


# By default tests/trust sends both signals to every script.
@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
                         ids=["Ctrl-C", "SIGTERM"])
def test_asked_to_stop(folder, signum, code):
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *flags(folder, "--epochs", "8000")], cwd=folder, text=True,
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in process.stdout:
        if line.startswith("epoch: 2.00"):
            break
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert f"--resume ({folder / 'm.pt.state'})" in out
    steps = files.read(folder / "m.pt.state")["progress"]["step"]
    train(folder, "--epochs", "8000", "--resume", "--max-steps", str(steps + 5))
    assert files.read(folder / "m.pt.state")["progress"]["step"] == steps + 5


def test_published_weights(folder, capsys):
    """A state_dict under the published code's names, in the older file format."""
    train(folder, "--max-steps", "3", "--no-tied")
    ours = files.read(folder / "m.pt")["model"]
    theirs = {}
    for name, value in ours.items():
        name = re.sub(r"layers\.(\d)\.cell\.", r"layer\1.module.", name)
        if name.endswith("h2h.weight"):
            theirs[name.replace("module.h2h.weight", "weight_raw")] = value
            value = torch.zeros_like(value)  # what it happened to be when it was saved
        theirs[name] = value
    torch.save(theirs, folder / "old.pt", _use_new_zipfile_serialization=False)
    loss = files.read(folder / "m.pt")["valid_loss"]
    capsys.readouterr()
    train(folder, "--pointer", "--lambdasm", "0", "--save", folder / "old.pt")
    assert parse_log(capsys.readouterr().out)[1]["valid_loss"] == pytest.approx(loss, abs=0.05)
    train(folder, "--resume", folder / "old.pt", "--no-tied", "--max-steps", "2")


@pytest.mark.parametrize("more", [["--precision", "bf16-mixed"], ["--precision", "64"],
                                  ["--splits", "5", "12"], ["--no-split"]], ids=" ".join)
def test_other_arithmetic_and_losses(folder, more):
    train(folder, "--max-steps", "6", *more)
    assert math.isfinite(files.read(folder / "m.pt")["valid_loss"])


@pytest.mark.slow
def test_compile(folder):
    train(folder, "--max-steps", "3", "--compile")


# ------------------------------------------------------------------------------------- bad input
def refused(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as stop:
        main.main([str(word) for word in argv])
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_missing_data(tmp_path, capsys):
    line = refused(capsys, "--data", tmp_path / "penn", "--save", tmp_path / "s.pt", "--no-cuda")
    assert line.startswith("main.py: ")
    assert "./getdata.sh ptb" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [
    "--batch_size 0", "--epochs 0", "--dropout 1", "--wdrop -0.1", "--lr 0", "--clip -1",
    "--cap -1", "--eval_batch_size -1", "--train_rows 1", "--lambdasm 2", "--window 0",
    "--finetune --pointer", "--precision 16"], ids=str)
def test_nonsense_is_refused(folder, capsys, words):
    assert words.split()[0] in refused(capsys, *flags(folder, *words.split()))


def test_other_refusals(folder, capsys):
    for flag, split in (("batch_size", "train"), ("eval_batch_size", "valid")):
        line = refused(capsys, *flags(folder, f"--{flag}", "5000"))
        assert f"{split}.txt is too short" in line
        assert f"a smaller --{flag}" in line
    assert "there is no file" in refused(capsys, *flags(folder, "--finetune"))
    assert "there is no file" in refused(capsys, *flags(folder, "--pointer"))
    assert "no training state" in refused(capsys, *flags(folder, "--resume"))
    train(folder, "--max-steps", "2")
    capsys.readouterr()
    assert "--lr 5.0 there, 6.0 here" in refused(capsys, *flags(folder, "--resume", "--lr", "6"))
    assert "do not fit" in refused(capsys, *flags(folder, "--resume", folder / "m.pt", "--nhid", 9))
    torch.save({"some.weight": torch.ones(2)}, folder / "other.pt")
    assert "is no model" in refused(capsys, *flags(folder, "--pointer", "--save",
                                                   folder / "other.pt"))
    write_corpus(folder / "texts", words=31)
    assert "the model does not know" in refused(capsys, *flags(folder, "--pointer"))
    assert "train.txt is not what the run in" in refused(capsys, *flags(folder, "--resume"))


# tests/trust spoils a gradient of every script.
@pytest.mark.slow
def test_loss_that_is_not_finite(folder):
    done = run(flags(folder, "--lr", "1e30", "--clip", "0"), folder, code=1)
    line, = done.stderr.splitlines()
    assert re.search(r"^main.py: .* is not finite at epoch 1, step \d+; stopped", line)
