"""qrnn_gates against one torch operation at a time: outputs and all gradients, awkward sizes."""

import pytest
import torch

from kernels.qrnn_gates import qrnn_gates, qrnn_gates_plain

pytestmark = pytest.mark.usefixtures("poisoned_memory")
SIZES = [(1, 1, 1), (3, 2, 1), (63, 3, 7), (2, 5, 127), (3, 1, 130)]
both = pytest.mark.parametrize("gates", [3, 2], ids=["fo", "f"])


def inputs(T, B, H, gates, dtype=torch.float32):
    """y, c0 and a mask of zoneout."""
    torch.manual_seed(T + H)
    y = torch.randn(T, B, gates * H, dtype=dtype, requires_grad=True)
    c0 = torch.randn(B, H, dtype=dtype, requires_grad=True)
    return y, c0, torch.empty(T, B, H, dtype=dtype).bernoulli_(0.7)


def assert_same(leaves, *rest, tolerance):
    """Both outputs, and the gradients of losses on one of them and on both."""
    y, c0 = leaves
    actual, expected = qrnn_gates(y, c0, *rest), qrnn_gates_plain(y, c0, *rest)
    leaves = [t for t in leaves if t is not None]
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)
    weights = [torch.randn_like(t) for t in expected]
    for used in ([0], [1], [0, 1]):
        grads = [torch.autograd.grad(sum((result[i] * weights[i]).sum() for i in used), leaves,
                                     retain_graph=True) for result in (actual, expected)]
        for a, e in zip(*grads, strict=True):
            torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)


@both
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_plain_form(backend, size, gates):
    for dtype, tolerance in ((torch.float32, 4e-6), (torch.float64, 1e-13)):
        y, c0, keep = inputs(*size, gates, dtype=dtype)
        assert_same((y, c0), keep, 1.0, gates, tolerance=tolerance)
        assert_same((y, c0), None, 0.7, gates, tolerance=tolerance)
        assert_same((y, None), None, 1.0, gates, tolerance=tolerance)


@both
def test_gradcheck(backend, gates):
    y, c0, keep = inputs(4, 2, 9, gates, torch.float64)
    assert torch.autograd.gradcheck(lambda y, c: qrnn_gates(y, c, keep, 0.9, gates), (y, c0))
    assert torch.autograd.gradcheck(lambda y: qrnn_gates(y, None, None, 1.0, gates), (y,))


def test_inputs_need_not_be_contiguous(backend):
    y, c0, keep = inputs(3, 4, 7, 3)
    y = y.detach().transpose(0, 2).contiguous().transpose(0, 2).requires_grad_()
    c0 = c0.detach().t().contiguous().t().requires_grad_()
    assert_same((y, c0), keep.transpose(0, 1).contiguous().transpose(0, 1), 1.0, 3, tolerance=2e-6)
