"""A run that was stopped and continued gives the same bits as one that never stopped.

Runs of two to four epochs are stopped by --max-steps in the middle of an epoch, around its end,
after the change of the learning rate and after the switch to ASGD; by signals; and by kill -9.
"""

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness import files
from harness.keeper import Keeper
from tests.trellisnet.small import SCRIPTS, flags_of, train, write_data

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
RUNS = {
    # High enough a rate that validation gets worse and the rate is cut, or averaging begins.
    "word-anneal": "--lr 40 --clip 5 --anneal 0 --epochs 4",
    "word-asgd": "--lr 40 --clip 5 --anneal 0 --epochs 4 --asgd",
    "word-mos": "--n_experts 2 --seq_len 0 --repack --optim Adam --lr 0.01",
    "wt": "--when 1", "char": "--when 1", "seq": "--when 1 --epochs 3",
    "seq-shuffled": "--cifar --no-permute --epochs 3",
}


def script_of(name):
    return name.partition("-")[0]


def run(name, folder, *more):
    return train(script_of(name), folder, *RUNS[name].split(), *more)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Each run once, without a stop."""
    done = {}

    def once(name):
        if name not in done:
            done[name] = write_data(tmp_path_factory.mktemp(name))
            run(name, done[name])
        return done[name]
    return once


# ------------------------------------------------------------------------------------ comparing
def facts(path):
    """A file's content without times, paths, and the arguments that may differ."""
    content = files.read(path)
    for name in ("args", "save", "metrics", "metrics_size", "log_size"):
        content.pop(name, None)
    content.get("progress", {}).pop("seconds", None)
    return content


def assert_same(a, b, where):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def curves(folder):
    """What metrics.csv holds, without times."""
    with (folder / "logs/m.pt/metrics.csv").open(newline="") as file:
        return [row for row in csv.reader(file) if "epoch_seconds" not in row]


def said(folder):
    """The lines of the log, without times. A resumed run cuts what a killed one had written beyond
    its state; what it says of itself, and the closing tests of stopped ones, come on top."""
    lines = re.findall(r"^(?:\| epoch|Train Epoch|\| [eE]nd of epoch|Test set).*$",
                       (folder / "logs/m.pt/m.log").read_text(), re.M)
    return [re.sub(r"(ms/batch|time:) +[\d.]+", "", line) for line in lines]


def assert_same_run(folder, expected):
    """Model, weights, training state, curves and log."""
    written = [p.relative_to(expected) for pattern in ("m.pt*", "weights/*")
               for p in expected.glob(pattern) if p.suffix != ".prev"]
    assert len(written) >= 2
    for path in written:
        assert_same(facts(folder / path), facts(expected / path), str(path))
    assert curves(folder) == curves(expected)
    assert said(folder) == said(expected)
    assert [p.name for p in (folder / "logs").iterdir()] == ["m.pt"]
    assert not list(folder.glob(".*.part"))


def epoch_ends(folder):
    """Updates at the end of each epoch."""
    return [int(step) for step, _, name, _ in curves(folder)[1:] if name == "test_loss"]


# -------------------------------------------------------------------------------- --max-steps
# Epoch (from 0), and updates before or after its end.
STOPS = [(0, -4), (0, -1), (0, 0), (0, 1), (1, -2), (1, 2)]
CHOSEN = {"word-anneal": STOPS, "word-asgd": [(0, 0), (1, -2), (1, 0), (1, 2), (2, 1)],
          "word-mos": [(0, -3), (0, 1)], "wt": [(0, -4), (0, 0)],
          "char": [(0, -4), (0, 1)], "seq": STOPS, "seq-shuffled": [(0, -1), (1, -2)]}


@pytest.mark.parametrize(("name", "stop"), [
    pytest.param(name, stop, id=f"{name}-epoch{stop[0] + 1}{stop[1]:+d}")
    for name, stops in CHOSEN.items() for stop in stops])
def test_stopped_once(unbroken, tmp_path, name, stop):
    expected = unbroken(name)
    steps = epoch_ends(expected)[stop[0]] + stop[1]
    folder = write_data(tmp_path)
    run(name, folder, "--max-steps", steps)
    assert files.read(folder / "m.pt.state")["progress"]["step"] == steps
    run(name, folder, "--resume")
    assert_same_run(folder, expected)


@pytest.mark.parametrize("name", ["word-asgd", "seq"])
def test_stopped_often(unbroken, tmp_path, name):
    """After every third update: also where a report is due at once."""
    expected, resume = unbroken(name), []
    folder = write_data(tmp_path)
    for steps in [*range(3, min(epoch_ends(expected)[-1], 24), 3), 0]:
        run(name, folder, *resume, "--max-steps", steps)
        resume = ["--resume"]
    assert_same_run(folder, expected)


def test_the_runs_are_what_they_claim(unbroken):
    """The rate is cut, averaging begins, and both in the middle of the run: else the above shows
    little."""
    state = {name: files.read(unbroken(name) / "m.pt.state") for name in RUNS}
    assert state["word-anneal"]["progress"]["lr"] < 40
    asgd = state["word-asgd"]
    assert asgd["progress"]["optimizer"] == "nt-asgd"
    averaged = {entry["step"] for entry in asgd["optimizer"]["state"].values()}
    assert 0 < min(averaged) <= max(averaged) < asgd["progress"]["step"]
    for name in ("wt", "char", "seq"):
        assert state[name]["progress"]["lr"] == pytest.approx(1e-3)
    assert state["wt"]["model"]["criterion.tail_vectors"].any()


def test_another_seed_would_be_noticed(unbroken, tmp_path):
    folder = write_data(tmp_path)
    run("seq", folder, "--seed", "8")
    with pytest.raises(AssertionError):
        assert_same_run(folder, unbroken("seq"))


# ---------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(("name", "flags", "says"), [
    ("wt", "--lr 0.02 --nhid 20", "--nhid 12 there, 20 here; --lr 0.01 there, 0.02 here"),
    ("wt", "--splits 8 21", "--splits [8, 20] there, [8, 21] here"),
    ("wt", "--seed 9", "--seed 7 there, 9 here"),
    ("wt", "--no-repack", "--repack True there, False here"),
    ("word-anneal", "--no-fir", "--fir True there, False here"),
    ("seq", "--dropouth 0.3", "--dropouth 0.2 there, 0.3 here"),
    ("seq", "--no-permute", "--permute True there, False here"),
    ("seq", "--precision 64", "--precision 32 there, 64 here")])
def test_other_settings_are_refused(unbroken, capsys, name, flags, says):
    folder = unbroken(name)
    before = (folder / "m.pt.state").read_bytes()
    with pytest.raises(SystemExit) as stop:
        run(name, folder, "--resume", *flags.split())
    assert stop.value.code == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.endswith(f"was made with other settings ({says}); give the same ones")
    assert (folder / "m.pt.state").read_bytes() == before


def test_what_may_differ(unbroken, tmp_path):
    """How often it reports, how it computes, how long it goes on; a state file may be named."""
    folder = write_data(tmp_path)
    run("seq", folder, "--max-steps", "5")
    state = (folder / "m.pt.state").rename(folder / "kept.state")
    resumed = run("seq", folder, "--resume", state, "--checkpoint-levels", "1", "--log-interval",
                  "2", "--save-interval", "1")
    expected = files.read(unbroken("seq") / "m.pt.state")["model"]
    assert_same(dict(resumed.loss.state_dict()), dict(expected), "model")


# ------------------------------------------------------------------------------------ signals
@pytest.mark.parametrize("name", ["word-asgd", "seq"])
@pytest.mark.parametrize("where", ["update", "evaluation", "averaged evaluation"])
def test_interrupted_anywhere(unbroken, tmp_path, monkeypatch, name, where):
    """By a signal in an update, and in an evaluation (of averaged weights too): the state that is
    saved then is of the last update."""
    expected, folder = unbroken(name), write_data(tmp_path)
    ends = epoch_ends(expected)
    at = {"update": ends[0] - 4, "evaluation": ends[0], "averaged evaluation": ends[-1]}[where]
    calls = []

    def stop(self, own=Keeper.stop_if_asked):
        step = self.run.progress.step
        calls.append(step)
        if step == at and calls.count(at) == (1 if where == "update" else 2):
            self._note(signal.SIGTERM, None)
        own(self)
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "stop_if_asked", stop)
        with pytest.raises(SystemExit) as exit_:
            run(name, folder)
    assert exit_.value.code == 143
    run(name, folder, "--resume")
    assert_same_run(folder, expected)


def start(name, folder, *more):
    argv = flags_of(script_of(name), folder, *RUNS[name].split(), *more)
    return subprocess.Popen([sys.executable, str(ROOT / "trellisnet" / SCRIPTS[script_of(name)]),
                             *argv], cwd=folder, env=ENVIRONMENT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def until(process, text):
    """Reads what it prints up to a line with `text`."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize(("name", "signum", "code"), [
    ("word-anneal", signal.SIGINT, 130),
    pytest.param("seq", signal.SIGTERM, 143, marks=pytest.mark.slow)], ids=["Ctrl-C", "SIGTERM"])
def test_asked_to_stop(tmp_path_factory, name, signum, code):
    """The state is saved; after Ctrl-C the best model so far is tested, as in the original."""
    folder, expected = (write_data(tmp_path_factory.mktemp("run")) for _ in range(2))
    process = start(name, folder, "--epochs", "5000")
    until(process, "| epoch   2 |" if name == "word-anneal" else "Train Epoch: 2")
    process.send_signal(signum)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert f"the same command with --resume ({folder / 'm.pt.state'})" in out
    assert ("| End of training | test loss" in out) == (signum == signal.SIGINT)
    steps = files.read(folder / "m.pt.state")["progress"]["step"] + 20
    for target, resume in ((folder, ["--resume"]), (expected, [])):
        run(name, target, *resume, "--epochs", "5000", "--max-steps", steps)
    assert_same(facts(folder / "m.pt.state"), facts(expected / "m.pt.state"), "state")
    assert curves(folder) == curves(expected)


# tests/trust kills every script.
@pytest.mark.slow
def test_killed(unbroken, tmp_path):
    """kill -9 loses at most the updates since the last state; every file is whole."""
    folder = write_data(tmp_path)
    process = start("wt", folder, "--save-interval", "4")
    until(process, "batches")
    until(process, "batches")
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    for path in folder.glob("m.pt*"):
        files.read(path)
    assert files.read(folder / "m.pt.state")["progress"]["step"] >= 4
    run("wt", folder, "--resume", "--save-interval", "4")
    assert_same_run(folder, unbroken("wt"))
