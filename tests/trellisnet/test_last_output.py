"""Only the positions that the last output sees: the same numbers."""

import pytest
import torch

from trellisnet.last_output import strides, trellis_last
from trellisnet.trellisnet import trellis_plain


def test_strides():
    assert strides((1, 1, 2, 4, 8)) == [1, 2, 4, 8, 0]
    assert strides((1, 2, 3)) == [1, 3, 0]
    assert strides((5,)) == [0]


@pytest.mark.parametrize("steps", [1, 2, 15, 16, 29])
@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("dilations", [(1, 1, 2, 4, 8), (1, 1, 1), (4, 2), (2, 6, 3), (3,),
                                       (1, 2, 4, 32)])
@pytest.mark.parametrize("with_mask", [False, True])
def test_equals_plain(steps, kernel, dilations, with_mask):
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
