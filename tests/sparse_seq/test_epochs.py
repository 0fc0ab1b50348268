"""What an epoch is made of: every row and sentence once, in an order of its own; the best model."""

import itertools

import pytest
import torch

from harness import files
from sparse_seq.language_modeling import finetune, main_overfit, training
from sparse_seq.language_modeling import main as lm
from sparse_seq.language_modeling.model import TrainingLoss
from sparse_seq.language_modeling.utils import batchify
from sparse_seq.sequence_labeling import main as tagger
from tests.sparse_seq.small import run, run_tagger, write_sentences, write_texts


@pytest.fixture
def seen(monkeypatch):
    """Collects the data and targets of every forward pass in training."""
    passes = []

    def forward(self, data, targets, hidden, own=TrainingLoss.forward):
        passes.append((data.clone(), targets.view_as(data).clone()))
        return own(self, data, targets, hidden)

    monkeypatch.setattr(TrainingLoss, "forward", forward)
    return passes


@pytest.mark.parametrize("script", [lm, main_overfit, finetune])
@pytest.mark.parametrize("micro", [6, 3], ids=["whole", "micro-batches"])
def test_every_row_is_used_once_an_epoch(script, micro, tmp_path, seen):
    """All, unless a sequence happens to end just before the last: as in the original."""
    write_texts(tmp_path / "texts")
    if script is finetune:
        run(lm, tmp_path, "--max-steps", "1")
        seen.clear()
    run_ = run(script, tmp_path, "--epochs", "3", "--lr", "1", "--small_batch_size", str(micro))
    text = batchify(run_.corpus.train, 6).long()
    parts = 6 // micro
    columns = [torch.cat([torch.cat(pair, 1) for pair in zip(*(
        [half[k] for half in seen[first::parts]] for first in range(parts)), strict=True)])
        for k in (0, 1)]
    starts = (columns[0] == text[0]).all(1).nonzero().flatten().tolist()
    epochs = [b - a for a, b in itertools.pairwise([*starts, len(columns[0])])]
    assert len(epochs) == 3
    assert max(epochs) == len(text) - 1
    for start, length in zip(starts, epochs, strict=True):
        assert len(text) - 2 <= length <= len(text) - 1
        for rows, offset in zip(columns, (0, 1), strict=True):
            assert torch.equal(rows[start:start + length], text[offset:offset + length])


def test_micro_batches_are_one_batch(tmp_path):
    """Without dropout, clipping and momentum the update is that of the whole batch."""
    rates = [word for name in ("dropout", "dropouth", "dropouti", "dropoute", "wdrop", "clip")
             for word in (f"--{name}", "0")]
    weights = []
    for micro in ("6", "2"):
        write_texts(tmp_path / micro / "texts")
        run(lm, tmp_path / micro, *rates, "--lr", "2", "--max-steps", "6", "--small_batch_size",
            micro)
        weights.append(files.read(tmp_path / micro / "run/state.pt")["model"])
    for name, whole in weights[0].items():
        torch.testing.assert_close(weights[1][name], whole, atol=1e-6, rtol=1e-5)


def test_sequences_are_cut_anew_in_every_epoch(tmp_path, seen):
    write_texts(tmp_path / "texts")
    run(lm, tmp_path, "--epochs", "2")
    lengths = [len(data) for data, _ in seen]
    first = next(n for n in range(1, len(lengths)) if torch.equal(seen[n][0][0], seen[0][0][0]))
    assert lengths[:first] != lengths[first:]


def test_recital_counts_every_prediction(tmp_path):
    write_texts(tmp_path / "texts")
    run_ = run(main_overfit, tmp_path, "--epochs", "1", "--small_batch_size", "2")
    assert run_.progress.predicted in [6 * (run_.rows - less) for less in (1, 2)]
    assert 0 < run_.progress.correct < run_.progress.predicted


def test_every_sentence_is_used_once_an_epoch_in_another_order(tmp_path, monkeypatch):
    """Also where the last batch would not be full: then its sentences wait for another epoch."""
    write_sentences(tmp_path / "tagged", train=41)
    epochs, used = [], []

    def train_epoch(run_, own=tagger.train_epoch):
        used.clear()
        done = own(run_)
        epochs.append(list(used))
        return done

    def make_batch(sentences, *rest, own=tagger.make_batch):
        used.extend(map(id, sentences))
        return own(sentences, *rest)

    monkeypatch.setattr(tagger, "train_epoch", train_epoch)
    monkeypatch.setattr(tagger, "make_batch", make_batch)
    sentences = run_tagger(tmp_path, "--epochs", "4").corpus.parts["train"]
    for order in epochs:
        assert len(order) == len(set(order)) == 40
        assert set(order) < set(map(id, sentences))
    assert len({tuple(order) for order in epochs}) == 4
    assert len({frozenset(order) for order in epochs}) > 1


def test_of_equal_accuracies_the_first_is_kept(tmp_path, monkeypatch):
    write_sentences(tmp_path / "tagged")
    accuracies = iter([0.5, 0.7, 0.7, 0.6, 0.1, 0.2])  # four epochs, then both tests

    monkeypatch.setattr(tagger, "evaluate", lambda *_: next(accuracies))
    assert run_tagger(tmp_path, "--epochs", "4").progress.best_epoch == 2
    assert files.read(tmp_path / "run/model.pt")["epoch"] == 2
    assert next(accuracies, None) is None


@pytest.mark.parametrize("script", [lm, finetune])
def test_of_equal_losses_the_first_is_kept(script, tmp_path, monkeypatch):
    write_texts(tmp_path / "texts")
    if script is finetune:
        run(lm, tmp_path, "--max-steps", "1")
    losses = iter([*[3.0] * (script is finetune), 2.5, 2.0, 2.0, 2.5, 1.0])  # the last: the test
    monkeypatch.setattr(training, "measure", lambda *_: next(losses))
    monkeypatch.setattr(finetune, "measure", training.measure)
    run_ = run(script, tmp_path, "--epochs", "4", "--nonmono", "9")
    assert run_.progress.history == [2.5, 2.0, 2.0, 2.5]
    assert files.read(run_.keeper.places.best)["epoch"] == 2
    assert next(losses, None) is None
