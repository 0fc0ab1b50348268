"""The compiled dropout mask is torch's own, number for number."""

import pytest
import torch

from kernels import library, masks
from kernels.masks import dropout_mask_plain

needs_compiled = pytest.mark.skipif(
    not library.available(torch.ones(1)) or not masks._same_stream(),
    reason="no compiler, or a torch build that draws in another way on this processor")


@pytest.fixture(autouse=True)
def even_small_masks(monkeypatch):
    """The compiled form is used for any size, so that small masks test it too."""
    monkeypatch.setattr(masks, "SMALL", 0)


@needs_compiled
@pytest.mark.parametrize("shape", [(1,), (7, 3), (311,), (312,), (313,), (2049,), (127, 63),
                                   (460, 115)])
@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.999])
@pytest.mark.parametrize("words_before", [0, 1, 5, 623])
def test_same_mask_and_same_generator_afterwards(shape, p, words_before):
    torch.manual_seed(11)
    torch.rand(words_before)  # float32 numbers take one word each: odd counts split a pair
    start = torch.get_rng_state()
    expected = dropout_mask_plain(torch.empty(1), shape, p)
    expected_state = torch.get_rng_state()
    torch.set_rng_state(start)
    mask = masks.dropout_mask(torch.empty(1), shape, p)
    assert torch.equal(mask, expected)
    assert torch.equal(torch.get_rng_state(), expected_state)


@needs_compiled
def test_stream_goes_on_over_many_masks():
    torch.manual_seed(3)
    expected = [dropout_mask_plain(torch.empty(1), (997,), 0.5) for _ in range(5)]
    expected.append(torch.rand(3))
    torch.manual_seed(3)
    ours = [masks.dropout_mask(torch.empty(1), (997,), 0.5) for _ in range(5)] + [torch.rand(3)]
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@needs_compiled
def test_large_masks_alone_are_drawn_by_the_compiled_form(monkeypatch):
    monkeypatch.setattr(masks, "SMALL", 100)
    monkeypatch.setattr(masks, "dropout_mask_plain", lambda like, shape, p: "plain")
    assert masks.dropout_mask(torch.empty(1), (99,), 0.5) == "plain"
    assert masks.dropout_mask(torch.empty(1), (10, 10), 0.5).shape == (10, 10)


@pytest.mark.parametrize("like", [torch.empty(1, dtype=torch.float64), torch.empty(1).bfloat16(),
                                  torch.empty(1, device="meta")], ids=lambda t: f"{t.dtype}"[6:])
def test_what_the_compiled_form_does_not_know_is_drawn_by_torch(like):
    mask = masks.dropout_mask(like, (3000,), 0.5)
    assert (mask.dtype, mask.device) == (like.dtype, like.device)


def test_another_stream_falls_back_to_torch(monkeypatch):
    """Where torch draws differently (MKL on Intel), its own mask is used."""
    monkeypatch.setattr(masks, "_same_stream", lambda: False)
    torch.manual_seed(5)
    expected = dropout_mask_plain(torch.empty(1), (50, 4), 0.5)
    torch.manual_seed(5)
    assert torch.equal(masks.dropout_mask(torch.empty(1), (50, 4), 0.5), expected)


def test_self_check_leaves_the_generator_alone():
    masks._same_stream.cache_clear()
    before = torch.get_rng_state()
    masks._same_stream()
    assert torch.equal(torch.get_rng_state(), before)
