"""A run that stops and goes on gives the same bits as one that never stopped."""

import os
import signal

import pytest
import torch

from sparse_seq import files, runs
from sparse_seq.language_modeling import finetune, main_overfit, training
from sparse_seq.language_modeling import main as lm
from tests.sparse_seq.small import (
    SPARSE,
    assert_same,
    run,
    run_tagger,
    write_sentences,
    write_texts,
)

DROPOUTS = ["--dropout", "0.3", "--dropouth", "0.2", "--dropouti", "0.3", "--dropoute", "0.1",
            "--wdrop", "0.3"]
LONG = ["--epochs", "5", "--nonmono", "1", "--lr", "8", *DROPOUTS]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Five epochs without a stop; NT-ASGD switches on the way."""
    folder = tmp_path_factory.mktemp("whole")
    write_texts(folder / "texts")
    run(lm, folder, *LONG, *SPARSE)
    assert "Switching!" in (folder / "run/log.txt").read_text()
    return folder


def metrics(folder):
    """metrics.csv, line by line; it must be the same too."""
    return (folder / "logs" / "run" / "metrics.csv").read_text().splitlines()


@pytest.mark.parametrize("stops", [[3], [9], [20, 41]], ids=str)
def test_stopped(whole, tmp_path, stops):
    """In an epoch, at about its end, twice."""
    write_texts(tmp_path / "texts")
    for n, stop in enumerate(stops):
        run(lm, tmp_path, *LONG, *SPARSE, "--max-steps", str(stop), *(["--resume"] if n else []))
    run(lm, tmp_path, *LONG, *SPARSE, "--resume")
    assert_same(whole, tmp_path, "state.pt")
    assert_same(whole, tmp_path, "model.pt")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal(whole, tmp_path, monkeypatch, signum):
    """Asked to stop in the middle: the state is saved, --resume goes on from there."""
    write_texts(tmp_path / "texts")

    def update(run_, own=training.one_update):
        if run_.progress.step == 14:
            os.kill(os.getpid(), signum)
        return own(run_)

    monkeypatch.setattr(training, "one_update", update)
    with pytest.raises(runs.Interrupted) as stop:
        run(lm, tmp_path, *LONG, *SPARSE)
    assert stop.value.signum == signum
    monkeypatch.undo()
    run(lm, tmp_path, *LONG, *SPARSE, "--resume")
    assert_same(whole, tmp_path, "state.pt")
    assert metrics(whole) == metrics(tmp_path)


def test_finetune_and_overfit(whole, tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        write_texts(folder / "texts")
        (folder / "run").mkdir()
        for name in ("model.pt", "corpus.pt"):
            (folder / "run" / name).write_bytes((whole / "run" / name).read_bytes())
    two = ["--epochs", "2", "--lr", "2"]
    run(finetune, tmp_path / "a", *two)
    run(finetune, tmp_path / "b", *two, "--max-steps", "11")
    run(finetune, tmp_path / "b", *two, "--resume")
    assert_same(tmp_path / "a", tmp_path / "b", "finetune_state.pt")
    recite = ["--epochs", "2", "--lr", "1", "--small_batch_size", "3"]
    run(main_overfit, tmp_path / "a", *recite)
    run(main_overfit, tmp_path / "b", *recite, "--max-steps", "5")
    run(main_overfit, tmp_path / "b", *recite, "--resume")
    assert_same(tmp_path / "a", tmp_path / "b", "state.pt")


def test_tagger(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        write_sentences(folder / "tagged")
    run_tagger(tmp_path / "a", "--epochs", "3")
    for stop in ("4", "10"):
        run_tagger(tmp_path / "b", "--epochs", "3", "--max-steps", stop,
                   *(["--resume"] if stop == "10" else []))
    run_tagger(tmp_path / "b", "--epochs", "3", "--resume")
    assert_same(tmp_path / "a", tmp_path / "b", "state.pt")
    assert metrics(tmp_path / "a")[-1] == metrics(tmp_path / "b")[-1]


# ------------------------------------------------------------------------------------- refusals
def test_refused(whole, tmp_path):
    with pytest.raises(runs.BadInput, match=r"other settings .*--lr 8\.0 there, 7\.0 here"):
        run(lm, whole, *LONG, *SPARSE, "--lr", "7", "--resume")
    with pytest.raises(runs.BadInput, match=r"state of main.py, not of main_overfit.py"):
        run(main_overfit, whole, "--resume")
    with pytest.raises(runs.BadInput, match="there is no file"):
        run(lm, tmp_path, "--resume")
    write_texts(tmp_path / "texts", train=800)
    (tmp_path / "texts/train.txt").write_text("other words " * 90)
    with pytest.raises(runs.BadInput, match="words are not those"):
        run(lm, tmp_path, *LONG, *SPARSE, "--resume", str(whole / "run/state.pt"))


def test_damage_is_noticed(whole, tmp_path):
    content = (whole / "run/state.pt").read_bytes()
    position = content.index(b"storages") if b"storages" in content else len(content) // 2
    for at in (position, len(content) // 3, len(content) // 2, 2 * len(content) // 3):
        damaged = bytearray(content)
        for i in range(at, at + 200):
            damaged[i] ^= 0xFF
        (tmp_path / "state.pt").write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            files.read(tmp_path / "state.pt")
    (tmp_path / "state.pt").write_bytes(content[:-100])
    with pytest.raises(ValueError, match="damaged"):
        files.read(tmp_path / "state.pt")


def test_pickled_object_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="whole pickled object"):
        files.read(tmp_path / "model.pt")


def test_continue_train_and_weights(whole, tmp_path):
    """--continue_train takes model and optimizer, --resume WEIGHTS an original's state_dict."""
    write_texts(tmp_path / "texts")
    (tmp_path / "run").mkdir()
    for name in ("model.pt", "optimizer.pt"):
        (tmp_path / "run" / name).write_bytes((whole / "run" / name).read_bytes())
    step = run(lm, tmp_path, *LONG, *SPARSE, "--continue_train", "--max-steps", "1")
    kind = files.read(whole / "run/optimizer.pt")["kind"]
    assert step.averaging == (kind == "asgd")
    weights = files.read(whole / "run/model.pt")["model"]
    torch.save(weights, tmp_path / "original.pt")
    args = [*LONG, *SPARSE, "--max-steps", "1", "--resume", str(tmp_path / "original.pt")]
    assert run(lm, tmp_path, *args).progress.step == 1


def test_earlier_run_is_kept(tmp_path):
    write_texts(tmp_path / "texts")
    for _ in range(3):
        run(lm, tmp_path, "--max-steps", "1")
    assert {p.name for p in (tmp_path / "run").glob("model*.pt")} == {
        "model.pt", "model.old.pt", "model.old2.pt"}
    assert len(list((tmp_path / "logs").iterdir())) == 3


def test_not_a_number_stops_before_the_update(tmp_path):
    write_texts(tmp_path / "texts")
    with pytest.raises(FloatingPointError, match=r"not finite at epoch 1, step \d"):
        run(lm, tmp_path, "--lr", "1e30", "--clip", "0", "--epochs", "1")
    write_sentences(tmp_path / "tagged")
    with pytest.raises(FloatingPointError, match="not finite"):
        run_tagger(tmp_path, "--optimizer", "sgd", "--lr", "1e38")


@pytest.mark.parametrize("precision", ["64", "bf16-mixed"])
def test_precisions(tmp_path, precision):
    """Both train; double precision is double all the way, and goes on exactly too."""
    write_texts(tmp_path / "texts")
    write_sentences(tmp_path / "tagged")
    flags = ["--precision", precision]
    run(lm, tmp_path, *SPARSE, *DROPOUTS, *flags, "--max-steps", "4")
    step = run(lm, tmp_path, *SPARSE, *DROPOUTS, *flags, "--max-steps", "8", "--resume")
    dtype = torch.float64 if precision == "64" else torch.float32
    assert {p.dtype for p in step.model.parameters()} == {dtype}
    tagged = run_tagger(tmp_path, *flags, "--epochs", "1")
    assert {p.dtype for p in tagged.model.parameters()} == {dtype}
