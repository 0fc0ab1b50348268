"""A run that stops and is resumed gives the same bits as one that never stopped."""

import os
import signal

import pytest

from harness import files
from sparse_seq.language_modeling import finetune, main_overfit, training
from sparse_seq.language_modeling import main as lm
from sparse_seq.sequence_labeling import main as tagger
from tests.sparse_seq.small import (
    SPARSE,
    assert_same,
    ends,
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
    assert metrics(whole) == metrics(tmp_path)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal(whole, tmp_path, monkeypatch, capsys, signum):
    """Asked to stop in the middle: the state is saved, --resume continues from there."""
    write_texts(tmp_path / "texts")

    def update(run_, own=training.one_update):
        if run_.progress.step == 14:
            os.kill(os.getpid(), signum)
        return own(run_)

    monkeypatch.setattr(training, "one_update", update)
    ends(capsys, 128 + signum, lm, tmp_path, *LONG, *SPARSE)
    monkeypatch.undo()
    run(lm, tmp_path, *LONG, *SPARSE, "--resume")
    assert_same(whole, tmp_path, "state.pt")
    assert metrics(whole) == metrics(tmp_path)


def test_signal_in_the_closing_test(whole, tmp_path, monkeypatch, capsys):
    """The test works on the best weights; a run resumed for more epochs continues from the last."""
    write_texts(tmp_path / "texts")

    def evaluate(model, source, *rest, own=training.evaluate):
        if source.shape[1] == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return own(model, source, *rest)

    monkeypatch.setattr(training, "evaluate", evaluate)
    flags = [*LONG, *SPARSE, "--epochs", "3"]
    ends(capsys, 143, lm, tmp_path, *flags)
    monkeypatch.undo()
    run(lm, tmp_path, *LONG, *SPARSE, "--resume")
    assert_same(whole, tmp_path, "state.pt")


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


def test_finetune_stores_its_state_before_the_first_update(whole, tmp_path, monkeypatch, capsys):
    """Killed in its first epoch it is resumed, and gives what it would have given."""
    for folder in (tmp_path / "a", tmp_path / "b"):
        (folder / "run").mkdir(parents=True)
        for name in ("model.pt", "corpus.pt"):
            (folder / "run" / name).write_bytes((whole / "run" / name).read_bytes())
    two = ["--epochs", "2", "--lr", "2"]
    run(finetune, tmp_path / "a", *two)

    class Killed(BaseException):
        """Nothing is saved on the way out."""

    def update(run_, own=training.one_update):
        if run_.progress.step == 2:
            raise Killed
        return own(run_)

    monkeypatch.setattr(training, "one_update", update)
    with pytest.raises(Killed):
        run(finetune, tmp_path / "b", *two)
    monkeypatch.undo()
    assert files.read(tmp_path / "b/run/finetune_state.pt")["progress"]["step"] == 0
    run(finetune, tmp_path / "b", *two, "--resume")
    assert_same(tmp_path / "a", tmp_path / "b", "finetune_state.pt")
    assert_same(tmp_path / "a", tmp_path / "b", "finetune_model.pt")


def test_tagger(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        write_sentences(folder / "tagged")
    run_tagger(tmp_path / "a", "--epochs", "3")
    for stop in ("4", "10"):
        run_tagger(tmp_path / "b", "--epochs", "3", "--max-steps", stop,
                   *(["--resume"] if stop == "10" else []))
    run_tagger(tmp_path / "b", "--epochs", "3", "--resume")
    assert_same(tmp_path / "a", tmp_path / "b", "state.pt")
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


def test_earlier_run_is_kept(tmp_path):
    write_texts(tmp_path / "texts")
    for _ in range(3):
        run(lm, tmp_path, "--max-steps", "1")
    assert {p.name for p in (tmp_path / "run").glob("model*")} == {
        "model.pt", "model.pt.old", "model.pt.old2"}
    assert {p.name for p in (tmp_path / "run").glob("corpus*")} == {
        "corpus.pt", "corpus.pt.old", "corpus.pt.old2"}
    assert len(list((tmp_path / "logs").iterdir())) == 3


# ------------------------------------------------------------------------------------- refusals
def test_refused(whole, tmp_path, capsys):
    assert "other settings (--lr 8.0 there, 7.0 here)" in ends(
        capsys, 2, lm, whole, *LONG, *SPARSE, "--lr", "7", "--resume")
    assert "state of sparse_seq/language_modeling/main.py, not of" in ends(
        capsys, 2, main_overfit, whole, "--resume")
    assert "there is no training state" in ends(capsys, 2, lm, tmp_path, "--resume")


@pytest.mark.parametrize("name", ["train.txt", "valid.txt", "test.txt"])
def test_changed_text_refused(whole, tmp_path, capsys, name):
    """The same words in another order: the ids fit, the run does not."""
    write_texts(tmp_path / "texts")
    lines = (tmp_path / "texts" / name).read_text().splitlines()
    (tmp_path / "texts" / name).write_text("\n".join(lines[::-1]) + "\n")
    assert f"--resume: {name} is not what the run in" in ends(
        capsys, 2, lm, tmp_path, *LONG, *SPARSE, "--resume", str(whole / "run/state.pt"))


def test_changed_sentences_refused(tmp_path, capsys):
    write_sentences(tmp_path / "tagged")
    run_tagger(tmp_path, "--max-steps", "3")
    with (tmp_path / "tagged/valid.conll").open("a") as file:
        file.write("t1\tT1\n\n")
    assert "--resume: valid.conll is not what the run in" in ends(
        capsys, 2, tagger, tmp_path, "--resume")


def test_not_a_number_ends_the_run(tmp_path, monkeypatch, capsys):
    """A training loss before the update, a validation loss at the epoch's end: exit code 1."""
    write_texts(tmp_path / "texts")
    assert "not finite at epoch 1, step" in ends(capsys, 1, lm, tmp_path, "--lr", "1e30", "--clip",
                                                 "0", "--epochs", "1")
    run(lm, tmp_path, "--epochs", "1")
    monkeypatch.setattr(training, "evaluate", lambda *_: float("nan"))
    for script in (finetune, lm):
        assert "the validation loss is nan at epoch 1" in ends(capsys, 1, script, tmp_path)
    write_sentences(tmp_path / "tagged")
    assert "not finite at epoch 1" in ends(capsys, 1, tagger, tmp_path, "--optimizer", "sgd",
                                           "--lr", "1e38")
