"""A run that was stopped and continued gives the same bits as one that never stopped.

The runs below are of 3 epochs with about 12 updates each; they are stopped by --max-steps in the
middle of an epoch, at its end, around the change of the learning rate and the switch to ASGD.
"""

import shutil
from itertools import pairwise

import pytest
import torch

from awd_lstm import training
from harness import files
from harness.keeper import Keeper
from tests.awd_lstm.small import LEARNS, train, write_corpus

SCRIPT = {"finetune": "finetune", "finetune-done": "finetune"}
RUNS = {
    # High enough a rate that validation gets worse and --nonmono 0 switches to ASGD.
    "lstm-ntasgd": "--lr 30 --nonmono 0 --epochs 4",
    "gru": "--model GRU",
    "qrnn": "--model QRNN --wdrop 0.1",
    "adam-when": "--optimizer adam --lr 0.01 --when 1 2",
    "no-dropout": "--dropout 0 --dropouth 0 --dropouti 0 --dropoute 0 --wdrop 0",
    "finetune": "--nonmono 5 --epochs 3 --lr 20",
    "finetune-done": "--nonmono 1 --epochs 9 --lr 1000",  # its stopping rule ends it
}
# Compared between runs: not how long it took, nor what may differ on resuming.
TIMES = {"seconds"}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Each run once, without a stop; keeps number of updates per epoch."""
    done = {}

    def run(name):
        if name not in done:
            folder = prepared(tmp_path_factory.mktemp(name), name)
            train(SCRIPT.get(name, "main"), folder, *RUNS[name].split())
            done[name] = folder
        return done[name]
    return run


def prepared(folder, name):
    """A folder with texts and, for finetune.py, a trained model (the same each time)."""
    write_corpus(folder / "texts")
    if name in SCRIPT:
        train("main", folder, "--epochs", "1", *LEARNS)
        shutil.rmtree(folder / "logs")
    return folder


def state_name(name):
    return "m.pt.finetune.state" if name in SCRIPT else "m.pt.state"


def facts(path):
    """A file's content without times and the arguments that may differ."""
    content = files.read(path)
    for name in ("args", "save", "metrics", "metrics_size"):
        content.pop(name, None)
    for name in TIMES & content.get("progress", {}).keys():
        content["progress"].pop(name)
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


def kept(folder):
    """Files of a run; the state before the last one depends on where the run was stopped."""
    return sorted(p.name for p in folder.iterdir() if p.is_file() and p.suffix != ".prev")


def assert_same_run(folder, expected, name):
    """Model, training state, curves: every file that the run leaves."""
    files = kept(expected)
    assert kept(folder) == files
    for file in files:
        assert_same(facts(folder / file), facts(expected / file), file)
    for curve in (expected / "logs").rglob("metrics.csv"):
        ours = folder / curve.relative_to(expected)
        assert ours.read_text() == curve.read_text()
    logs = [len(list((f / "logs").iterdir())) for f in (folder, expected)]
    assert logs[0] == logs[1]


def epochs_of(folder, name):
    """Updates at the end of each epoch, from the curves of the unbroken run."""
    rows = [line.split(",") for line in
            next((folder / "logs").rglob("metrics.csv")).read_text().splitlines()[1:]]
    return [int(step) for step, epoch, what, _ in rows if what == "valid_loss" and int(epoch)]


# -2, -1: near the end of the first epoch; 0: at it; then after it; and so for the second.
STOPS = [(0, -10), (0, -2), (0, -1), (0, 0), (0, 1), (0, 2), (1, -1), (1, 0), (1, 1), (1, 4)]


# tests/trust/test_resume_chain.py stops runs after every update.
@pytest.mark.parametrize("stop", [
    pytest.param((e, d), id=f"epoch{e + 1}{d:+d}",
                 marks=() if (e, d) in ((0, -1), (0, 0), (1, 1)) else pytest.mark.slow)
    for e, d in STOPS])
@pytest.mark.parametrize("name", RUNS)
def test_stopped_once(unbroken, tmp_path, name, stop):
    expected = unbroken(name)
    ends = epochs_of(expected, name)
    steps = ends[stop[0]] + stop[1]
    folder, script = prepared(tmp_path, name), SCRIPT.get(name, "main")
    train(script, folder, *RUNS[name].split(), "--max-steps", str(steps))
    assert files.read(folder / state_name(name))["progress"]["step"] == steps
    train(script, folder, *RUNS[name].split(), "--resume")
    assert_same_run(folder, expected, name)


@pytest.mark.parametrize("name", ["lstm-ntasgd", "qrnn", "finetune", "finetune-done"])
def test_stopped_often(unbroken, tmp_path, name):
    """At every third update and then at each of three in a row."""
    expected = unbroken(name)
    folder, script = prepared(tmp_path, name), SCRIPT.get(name, "main")
    resume = []
    for steps in [*range(3, epochs_of(expected, name)[-1], 3), None]:
        limit = [] if steps is None else ["--max-steps", str(steps)]
        train(script, folder, *RUNS[name].split(), *resume, *limit)
        resume = ["--resume"]
    assert_same_run(folder, expected, name)


def test_the_runs_are_what_they_claim(unbroken):
    """The switch to ASGD, the change of rate, several epochs: else the above shows little."""
    state = files.read(unbroken("lstm-ntasgd") / "m.pt.state")
    assert state["optimizer"]["kind"] == "asgd"
    steps = {s["step"] for s in state["optimizer"]["state"]["state"].values()}
    assert 0 < min(steps) <= max(steps) < state["progress"]["step"]
    adam = files.read(unbroken("adam-when") / "m.pt.state")
    assert adam["progress"]["lr"] == pytest.approx(1e-4)
    assert {p.name for p in unbroken("adam-when").glob("m.pt.e*")} == {"m.pt.e1", "m.pt.e2"}
    assert len(epochs_of(unbroken("finetune"), "finetune")) == 3
    assert files.read(unbroken("finetune") / "m.pt")["script"] == "finetune"
    done = files.read(unbroken("finetune-done") / "m.pt.finetune.state")["progress"]
    assert done["done"]
    assert 3 <= done["epoch"] < 9
    qrnn = files.read(unbroken("qrnn") / "m.pt.state")
    assert len(qrnn["processes"][0]["own"]["prev_x"]) == 2


def test_another_seed_would_be_noticed(unbroken, tmp_path):
    folder = prepared(tmp_path, "gru")
    train("main", folder, *RUNS["gru"].split(), "--seed", "8")
    with pytest.raises(AssertionError):
        assert_same_run(folder, unbroken("gru"), "gru")


@pytest.mark.parametrize("name", ["qrnn", "finetune"])
@pytest.mark.parametrize("where", ["update", "validation", "limit-validation"])
def test_interrupted_by_a_signal(unbroken, tmp_path, monkeypatch, name, where):
    """Ctrl-C in an update, in an epoch's validation, and in the one after --max-steps (which must
    not spoil the state already written: evaluation resets a QRNN's frames)."""
    expected, script = unbroken(name), SCRIPT.get(name, "main")
    folder = prepared(tmp_path, name)
    end = epochs_of(expected, name)[0]
    flags = ["--max-steps", str(end - 3)] if where == "limit-validation" else []
    calls = []

    def stop(keeper, own=Keeper.stop_if_asked):
        step = keeper.run.progress.step
        calls.append(step)
        at = {"update": end - 4, "validation": end, "limit-validation": end - 3}[where]
        if step == at and (where == "update" or calls.count(at) == 3):
            keeper._note(15, None)
        own(keeper)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "stop_if_asked", stop)
        with pytest.raises(SystemExit) as exit_:
            train(script, folder, *RUNS[name].split(), *flags)
    assert exit_.value.code == 143
    train(script, folder, *RUNS[name].split(), "--resume")
    assert_same_run(folder, expected, name)


@pytest.mark.parametrize("name", ["gru", "finetune"])
def test_every_row_is_used_once_per_epoch(tmp_path, monkeypatch, name):
    """The updates of an epoch read the text in order, without a gap or an overlap; what is left at
    the end are at most two rows, which can be no target and a prediction to spare."""
    folder, read = prepared(tmp_path, name), []

    def get_batch(source, i, seq_len, own=training.get_batch):
        data, targets = own(source, i, seq_len)
        read.append((len(source), i, len(data)))
        assert torch.equal(data, source[i:i + len(data)].long())
        return data, targets

    monkeypatch.setattr(training, "get_batch", get_batch)
    train(SCRIPT.get(name, "main"), folder, *RUNS[name].split(), "--epochs", "2")
    starts = [k for k, (_, i, _) in enumerate(read) if i == 0] + [len(read)]
    assert len(starts) == 3  # two epochs
    for first, end in pairwise(starts):
        rows, position = read[first][0], 0
        for _, i, length in read[first:end]:
            assert i == position
            position += length
        assert rows - 2 <= position <= rows - 1
