"""Batches, lengths, evaluation."""

import string

import numpy as np
import pytest
import torch

from awd_lstm.model import RNNModel
from awd_lstm.utils import (
    batchify,
    draw_seq_len,
    evaluate,
    get_batch,
    repackage_hidden,
    single_precision,
)
from common.splitcross import SplitCrossEntropyLoss

IDS = np.arange(26, dtype=np.uint8)


def letters(tensor):
    return ["".join(string.ascii_lowercase[i] for i in row) for row in tensor.tolist()]


def test_batchify_columns_are_stretches_of_text():
    """The picture of its docstring, on the alphabet."""
    assert letters(batchify(IDS[:11], 3)) == ["adg", "beh", "cfi"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int64"])
def test_batchify_keeps_the_compact_type(dtype):
    batch = batchify(IDS.astype(dtype), 4)
    assert batch.shape == (6, 4)
    assert str(batch.dtype) == f"torch.{dtype}"
    assert get_batch(batch, 0, 5)[0].dtype == torch.int64


def test_batchify_does_not_alias_the_text():
    ids = IDS.copy()
    batch = batchify(ids, 2)
    ids[:] = 0
    assert letters(batch[:1]) == ["an"]


@pytest.mark.parametrize(("tokens", "columns"), [(0, 1), (1, 1), (5, 3), (19, 10)])
def test_batchify_refuses_a_short_text(tokens, columns):
    with pytest.raises(ValueError, match=f"{tokens} tokens is too short for {columns} columns"):
        batchify(IDS[:tokens], columns)


def test_get_batch_targets_are_the_next_rows():
    data, targets = get_batch(batchify(IDS, 4), 1, 3)
    assert letters(data) == ["bhnt", "ciou", "djpv"]
    assert letters(targets[None]) == ["cioudjpvekqw"]  # time-major
    assert data.is_contiguous()


@pytest.mark.parametrize(("i", "length"), [(0, 5), (3, 2), (4, 1)])
def test_get_batch_ends_with_the_text(i, length):
    data, targets = get_batch(batchify(IDS, 4), i, 70)
    assert data.shape == (length, 4)
    assert targets.shape == (length * 4,)


# ----------------------------------------------------------------------------------------- lengths
def test_seq_len_draws_twice_from_the_legacy_stream():
    """The original's two lines, on numpy's global stream."""
    ours, theirs = np.random.RandomState(7), np.random.RandomState(7)
    for _ in range(2000):
        bptt = 70 if theirs.random_sample() < 0.95 else 35.0
        expected = max(5, int(theirs.normal(bptt, 5)))
        assert draw_seq_len(ours, 70) == expected
    assert ours.random_sample() == theirs.random_sample()


def test_seq_len_distribution():
    """About N(70, 5), one time in twenty N(35, 5)."""
    rng = np.random.RandomState(0)
    lengths = np.array([draw_seq_len(rng, 70) for _ in range(4000)])
    short = (lengths < 52).mean()
    assert abs(short - 0.05) < 5 * (0.05 * 0.95 / 4000) ** 0.5
    long = lengths[lengths >= 52]
    assert abs(long.mean() - 69.5) < 0.5  # int() rounds down
    assert abs(long.std() - 5) < 0.3


@pytest.mark.parametrize(("bptt", "cap"), [(4, None), (70, 72), (10, 20)])
def test_seq_len_bounds(bptt, cap):
    rng = np.random.RandomState(0)
    lengths = [draw_seq_len(rng, bptt, cap) for _ in range(1000)]
    assert min(lengths) >= 5
    if cap:
        assert max(lengths) <= cap
    if bptt == 4:
        assert lengths.count(5) > 300


def test_lengths_that_repeat_are_the_nearest_multiples_of_those_drawn():
    drawn, rounded = np.random.RandomState(3), np.random.RandomState(3)
    for _ in range(500):
        length = draw_seq_len(drawn, 70)
        near = draw_seq_len(rounded, 70, multiple=10)
        assert near % 10 == 0
        assert abs(near - length) <= 5
    assert drawn.random_sample() == rounded.random_sample()
    assert draw_seq_len(rounded, 5, multiple=100) == 100


# -------------------------------------------------------------------------------------- evaluation
def model_and_text(kind="LSTM", columns=3):
    torch.manual_seed(0)
    model = RNNModel(kind, 11, 5, 6, 2, 0.4, 0.4, 0.4, 0.4, 0.4, tie_weights=True)
    text = batchify(np.random.RandomState(0).randint(0, 11, 65).astype(np.uint8), columns)
    return model, SplitCrossEntropyLoss(5), text


def true_loss(model, criterion, text):
    """Sum over the whole text at once, by definition."""
    model.eval()
    model.reset()
    with torch.no_grad():
        output, _ = model(text[:-1].long(), model.init_hidden(text.shape[1]))
        scores = model.decoder(output).log_softmax(1)
        return -scores.gather(1, text[1:].long().reshape(-1, 1)).sum().item() / text.shape[1]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "QRNN"])
@pytest.mark.parametrize("bptt", [1, 4, 7, 20, 100])
def test_evaluate_any_chunks(kind, bptt):
    """The same whatever the chunk length; (rows-1)/rows of the true mean unless exact."""
    model, criterion, text = model_and_text(kind)
    total, rows = true_loss(model, criterion, text), len(text)
    assert evaluate(model, criterion, text, bptt) == pytest.approx(total / rows, rel=1e-5)
    assert evaluate(model, criterion, text, bptt, exact=True) == pytest.approx(
        total / (rows - 1), rel=1e-5)


def test_evaluate_splits():
    model, _, text = model_and_text()
    criterion = SplitCrossEntropyLoss(5, [3, 7])
    torch.nn.init.normal_(criterion.tail_vectors)
    with torch.no_grad():
        output, _ = model.eval()(text[:-1].long(), model.init_hidden(3))
        logprob = criterion.logprob(model.decoder.weight, model.decoder.bias, output)
    expected = -logprob.gather(1, text[1:].long().reshape(-1, 1)).sum().item() / 3 / len(text)
    assert evaluate(model, criterion, text, 9) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_leaves_the_mode_and_no_graph(training):
    model, criterion, text = model_and_text()
    model.train(training)
    before = torch.get_rng_state()
    evaluate(model, criterion, text, 10)
    assert model.training == training
    assert torch.equal(torch.get_rng_state(), before)  # no dropout
    assert all(p.grad is None for p in model.parameters())


def test_evaluate_starts_a_qrnn_afresh():
    """S9: at equal batch size a stale frame would go unnoticed."""
    model, criterion, text = model_and_text("QRNN")
    model.train()(text[:5].long(), model.init_hidden(3))
    first = evaluate(model, criterion, text, 100)
    assert evaluate(model, criterion, text, 100) == first
    model.reset()
    assert evaluate(model, criterion, text, 100) == first


def test_evaluate_can_be_stopped_between_chunks():
    model, criterion, text = model_and_text()
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, criterion, text, 5, check=check)
    assert len(calls) == 3


def test_weights_are_drawn_alike_in_every_precision():
    drawn = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        torch.manual_seed(0)
        with single_precision():
            drawn.append((torch.nn.Linear(3, 2).weight, torch.rand(1)))
        assert torch.get_default_dtype() == dtype
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))


def test_repackage_hidden_cuts_the_history():
    x = torch.ones(1, requires_grad=True)
    (h, c), g = repackage_hidden([(x * 2, x * 3), x * 4])
    assert [float(t) for t in (h, c, g)] == [2, 3, 4]
    assert not any(t.requires_grad for t in (h, c, g))
