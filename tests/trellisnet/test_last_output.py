"""Only the positions that the last output sees: the same numbers."""

import pytest
import torch

from trellisnet.last_output import strides, trellis_last, values_before
from trellisnet.trellisnet import trellis_plain


def test_strides():
    """The first is the drawing in strides(); no dilation but the first's is looked at below it."""
    assert strides((1, 1, 2, 4)) == [1, 2, 4, 0]
    assert strides((1, 2, 3)) == [1, 3, 0]
    assert strides((5,)) == [0]


def test_values_before():
    """The drawing in values_before(): every second of nine positions is kept, two steps back."""
    kept = torch.tensor([0.0, 2, 4, 6, 8]).view(5, 1, 1)
    initial = torch.full((1, 1), -1.0)
    found = values_before(kept, range(0, 9, 4), 2, initial, stride=2, steps=9)
    assert found.flatten().tolist() == [-1, 2, 6]
    assert values_before(kept, [8], 8, initial, 2, 9).item() == 0
    assert values_before(kept, [8], 9, initial, 2, 9).item() == -1


@pytest.mark.parametrize(("dilations", "kernel", "steps", "with_mask"), [
    ((1, 1, 2, 4, 8), 2, 16, True),      # sees position 0 exactly
    ((1, 1, 2, 4, 8), 2, 15, False),     # one position too few
    ((1, 1, 2, 4, 8), 2, 29, True), ((1, 1, 2, 4, 8), 3, 29, True),
    ((1, 1, 2, 4, 8), 3, 2, False), ((1, 1, 2, 4, 8), 1, 16, True),
    ((1, 1, 1), 2, 15, True),            # nothing can be skipped
    ((4, 2), 2, 16, False), ((2, 6, 3), 2, 29, True), ((2, 6, 3), 3, 15, False),
    ((3,), 2, 29, True), ((3,), 3, 2, False), ((1, 2, 4, 32), 2, 29, True),  # beyond the start
    ((1, 2, 4, 32), 1, 15, False), ((1, 2, 4), 2, 1, True)], ids=str)
def test_equals_plain(dilations, kernel, steps, with_mask):
    torch.manual_seed(steps + kernel)
    hidden, batch, inputs = 5, 3, 2

    def tensor(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    given = [tensor(steps, batch, inputs), tensor(4 * hidden, inputs, kernel),
             tensor(4 * hidden, hidden, kernel), tensor(4 * hidden), tensor(batch, hidden),
             tensor(batch, hidden)]
    mask = torch.rand(batch, hidden, dtype=torch.float64) if with_mask else None
    out, _, h, c = trellis_plain(*given, mask, dilations, 4, steps - 1)
    fast = trellis_last(*given, mask, dilations, 4)
    weights = [torch.randn_like(t) for t in (out, h, c)]

    def gradients(results):
        loss = sum((w * r).sum() for w, r in zip(weights, results, strict=True))
        grads = torch.autograd.grad(loss, given, allow_unused=True)
        return [torch.zeros_like(t) if grad is None else grad
                for t, grad in zip(given, grads, strict=True)]
    for ours, theirs in zip(fast, (out, h, c), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    for ours, theirs in zip(gradients(fast), gradients((out, h, c)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
