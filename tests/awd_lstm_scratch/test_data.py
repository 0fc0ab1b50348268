"""Chunks of varying length."""

import numpy as np
import pytest
import torch

from awd_lstm.scratch.data import gen_sequence_lengths, get_batch, get_batches
from awd_lstm.utils import batchify, draw_seq_len


def lengths(rows=500, base=35, seed=0, **limits):
    return gen_sequence_lengths(rows, base, np.random.RandomState(seed), **limits)


def test_batch_drops_the_remainder():
    assert batchify(np.arange(11), 3).tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_get_batch_at_the_start_and_at_the_end():
    data = torch.arange(20).view(2, 10).t()
    x, y, length = get_batch(data, 0, 4)
    assert (x.tolist(), y.tolist(), length) == (
        [[0, 10], [1, 11], [2, 12], [3, 13]], [[1, 11], [2, 12], [3, 13], [4, 14]], 4)
    x, y, length = get_batch(data, 7, 4)
    assert (x.tolist(), y.tolist(), length) == ([[7, 17], [8, 18]], [[8, 18], [9, 19]], 2)


@pytest.mark.parametrize("seed", range(5))
def test_lengths_use_up_the_text(seed):
    """All rows but the last, which is only a target, and at most two more."""
    found = lengths(seed=seed)
    assert 500 - 3 <= sum(found) <= 499
    assert len(set(found)) > 5


def test_lengths_are_drawn_like_the_toolkits():
    rng = np.random.RandomState(7)
    found = lengths(10_000, seed=7)
    assert found[:-1] == [draw_seq_len(rng, 35) for _ in found[:-1]]


def test_cap():
    assert max(lengths(50_000)) > 40
    assert max(lengths(50_000, cap=5)) == 40


def test_chunks_in_the_texts_order():
    data = torch.arange(1000).view(2, 500).t()
    chunks = get_batches(data, lengths())
    text = torch.cat([x for x, _ in chunks])
    assert torch.equal(text, data[:len(text)])
    for x, y in chunks:
        assert x.shape == y.shape
        assert torch.equal(y, x + 1)


def test_chunks_sorted_as_published():
    data = torch.arange(1000).view(2, 500).t()
    chunks = get_batches(data, lengths(cap=5), sort=True)
    sizes = [len(x) for x, _ in chunks]
    assert sizes == sorted(sizes, reverse=True)
    starts = [x[0, 0].item() for x, _ in chunks]
    assert starts != sorted(starts)
    for a, b in zip(range(len(chunks) - 1), range(1, len(chunks)), strict=True):
        assert sizes[a] > sizes[b] or starts[a] < starts[b]  # equals keep their order
