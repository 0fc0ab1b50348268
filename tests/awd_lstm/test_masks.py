"""The compiled dropout mask is torch's own, number for number."""

import pytest
import torch

from awd_lstm import kernels, masks
from common.dropout import dropout_mask

needs_compiled = pytest.mark.skipif(
    not kernels.available(torch.ones(1)) or not masks._same_stream(),
    reason="no compiler, or a torch build that draws in another way on this processor")


@needs_compiled
@pytest.mark.parametrize("shape", [(1,), (7, 3), (311,), (312,), (313,), (2049,), (460, 115)])
@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.999])
@pytest.mark.parametrize("words_before", [0, 1, 5, 623])
def test_same_mask_and_same_generator_afterwards(shape, p, words_before):
    torch.manual_seed(11)
    torch.rand(words_before)  # float32 numbers take one word each: odd counts split a pair
    start = torch.get_rng_state()
    expected = dropout_mask(torch.empty(1), shape, p)
    expected_state = torch.get_rng_state()
    torch.set_rng_state(start)
    mask = masks.dropout_mask(torch.empty(1), shape, p)
    assert torch.equal(mask, expected)
    assert torch.equal(torch.get_rng_state(), expected_state)


@needs_compiled
def test_stream_goes_on_over_many_masks():
    torch.manual_seed(3)
    expected = [dropout_mask(torch.empty(1), (997,), 0.5) for _ in range(5)] + [torch.rand(3)]
    torch.manual_seed(3)
    ours = [masks.dropout_mask(torch.empty(1), (997,), 0.5) for _ in range(5)] + [torch.rand(3)]
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_another_stream_falls_back_to_torch(monkeypatch):
    """Where torch draws differently (MKL on Intel), its own mask is used."""
    monkeypatch.setattr(masks, "_same_stream", lambda: False)
    torch.manual_seed(5)
    expected = dropout_mask(torch.empty(1), (50, 4), 0.5)
    torch.manual_seed(5)
    assert torch.equal(masks.dropout_mask(torch.empty(1), (50, 4), 0.5), expected)


def test_self_check_leaves_the_generator_alone():
    masks._same_stream.cache_clear()
    before = torch.get_rng_state()
    masks._same_stream()
    assert torch.equal(torch.get_rng_state(), before)
