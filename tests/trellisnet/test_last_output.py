"""Only the positions that the last output sees: the same numbers."""

import pytest
import torch

from trellisnet import first_level, last_output
from trellisnet.last_output import strides, trellis_last
from trellisnet.looks import give, looked_at, values
from trellisnet.trellisnet import trellis_plain


def test_strides():
    """The first is the drawing in strides(); no dilation but the first's is looked at below it."""
    assert strides((1, 1, 2, 4)) == [1, 2, 4, 0]
    assert strides((1, 2, 3)) == [1, 3, 0]
    assert strides((5,)) == [0]


def test_values():
    """The drawing in looked_at(): every second of nine positions is kept, two steps back."""
    kept = torch.tensor([0.0, 2, 4, 6, 8]).view(5, 1, 1)
    initial = torch.full((1, 1), -1.0)

    def found(positions, look):
        return values(kept, looked_at(positions, look, stride=2, steps=9), initial)
    assert found(range(0, 9, 4), 2).flatten().tolist() == [-1, 2, 6]
    assert found([8], 8).item() == 0
    assert found([8], 9).item() == -1


def test_give():
    """Where a value was taken its gradient goes back to."""
    look = looked_at(range(0, 9, 4), 2, stride=2, steps=9)
    dkept, dinitial = torch.zeros(5, 1, 1), torch.zeros(1, 1)
    give(look, torch.tensor([10.0, 20, 30]).view(3, 1, 1), dkept, dinitial)
    assert dkept.flatten().tolist() == [0, 20, 0, 30, 0]
    assert dinitial.item() == 10


@pytest.mark.parametrize(("dilations", "kernel", "steps", "with_mask"), [
    ((1, 1, 2, 4, 8), 2, 16, True),      # sees position 0 exactly
    ((1, 1, 2, 4, 8), 2, 15, False),     # one position too few
    ((1, 1, 2, 4, 8), 2, 29, True), ((1, 1, 2, 4, 8), 3, 29, True),
    ((1, 1, 2, 4, 8), 3, 2, False), ((1, 1, 2, 4, 8), 1, 16, True),
    ((1, 1, 1), 2, 15, True),            # nothing can be skipped
    ((4, 2), 2, 16, False), ((2, 6, 3), 2, 29, True), ((2, 6, 3), 3, 15, False),
    ((3,), 2, 29, True), ((3,), 3, 2, False), ((1, 2, 4, 32), 2, 29, True),  # beyond the start
    ((1, 2, 4, 32), 1, 15, False), ((1, 2, 4), 2, 1, True)], ids=str)
@pytest.mark.parametrize("x_too", [True, False], ids=["x too", "not x"])
def test_equals_plain(dilations, kernel, steps, with_mask, x_too):
    """Where x needs no gradient, as in classification, the first level is an operation of its own.
    """
    assert_equals_plain(dilations, kernel, steps, with_mask, x_too)


def assert_equals_plain(dilations, kernel, steps, with_mask, x_too, inputs=2, hidden=5):
    torch.manual_seed(steps + kernel)
    batch = 3

    def tensor(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    given = [tensor(steps, batch, inputs), tensor(4 * hidden, inputs, kernel),
             tensor(4 * hidden, hidden, kernel), tensor(4 * hidden), tensor(batch, hidden),
             tensor(batch, hidden)]
    given[0].requires_grad_(x_too)
    leaves = given[not x_too:]
    mask = torch.rand(batch, hidden, dtype=torch.float64) if with_mask else None
    out, _, h, c = trellis_plain(*given, mask, dilations, 4, steps - 1)
    fast = trellis_last(*given, mask, dilations, 4)
    weights = [torch.randn_like(t) for t in (out, h, c)]

    def gradients(results):
        loss = sum((w * r).sum() for w, r in zip(weights, results, strict=True))
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        return [torch.zeros_like(t) if grad is None else grad
                for t, grad in zip(leaves, grads, strict=True)]
    for ours, theirs in zip(fast, (out, h, c), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    for ours, theirs in zip(gradients(fast), gradients((out, h, c)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("block", [1, 2, 7])
def test_blocks_of_positions_change_nothing(monkeypatch, block):
    """Nor does a first block that sees h0 in part, or the next one too."""
    monkeypatch.setattr(last_output, "BLOCK", 3 * block)  # a batch of three
    assert_equals_plain((2, 6, 3), 3, 29, True, True)
    assert_equals_plain((1, 1, 2, 4, 8), 2, 29, False, True)


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("hidden", [1, 8, 16, 21, 32])
def test_first_level_of_any_width(kernel, hidden):
    """Registers that end before, with and after the row; inputs as wide as there are kernels for
    (k = 2: seven columns) and wider (k = 3: ten)."""
    assert_equals_plain((1, 1, 2, 4), kernel, 29, True, False, inputs=3, hidden=hidden)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_first_level_sums_many_rows(dtype):
    """More than one part of them, the last of it ragged, with any number of threads."""
    if not first_level.has_kernel(torch.zeros(1, dtype=dtype), 3):
        pytest.skip("no compiled kernels here")
    torch.manual_seed(2)
    positions, batch, hidden = 837, 3, 18
    seen, mask = torch.randn(positions, batch, 3, dtype=dtype), torch.rand(batch, hidden).to(dtype)
    weight = torch.randn(3, 3 * hidden, dtype=dtype, requires_grad=True)
    i, o, g = (seen @ weight).split(hidden, -1)
    c = i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh() * mask
    found = torch.empty(2, *c.shape, dtype=dtype)
    dh, dc = torch.randn(found.shape, dtype=dtype)
    tolerance = {"rtol": 0, "atol": 1e-4 if dtype == torch.float32 else 1e-11}
    (expected,) = torch.autograd.grad([h, c], weight, [dh, dc])
    gradients = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        first_level.forward(seen, weight.detach(), mask, *found)
        torch.testing.assert_close(found, torch.stack([c, h]), **tolerance)
        gradients.append(first_level.backward(seen, weight.detach(), mask, dh, dc))
    torch.testing.assert_close(gradients[0], expected, **tolerance)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("x_too", [True, False], ids=["x too", "not x"])
def test_products_in_half_precision(x_too):
    """Under autocast, sums and results in float32: near those of float32, and not the same. The
    pixels, and the mask that is drawn like them, may be rounded already."""
    torch.manual_seed(3)
    given = [torch.randn(15, 3, 2).bfloat16(), 0.3 * torch.randn(20, 2, 2),
             0.3 * torch.randn(20, 5, 2), torch.randn(20), torch.randn(3, 5), torch.randn(3, 5)]
    mask = torch.tensor([[0, 1.25, 1.25, 0, 1.25]]).expand(3, 5).bfloat16()
    results = []
    for enabled in (False, True):
        leaves = [(t if enabled else t.float()).clone() for t in given]
        for leaf in leaves[not x_too:]:
            leaf.requires_grad_()
        masks = mask if enabled else mask.float()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out, h, c = trellis_last(*leaves, masks, (1, 1, 2, 4, 8), 4)
        (out.sum() + c.sum()).backward()
        results.append([out, h, c, *(t.grad.float() for t in leaves[not x_too:])])
    for single, half in zip(*results, strict=True):
        assert half.dtype == torch.float32
        assert not torch.equal(single, half)
        torch.testing.assert_close(half, single, atol=0.05 * single.abs().max().item(), rtol=0)
