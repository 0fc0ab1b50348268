"""log softmax in its argument's memory: torch's bits, whatever is asked of the graph afterwards."""

import pytest
import torch
import torch.nn.functional as F

from kernels.log_softmax import log_softmax_

SHAPES = [(1, 1), (3, 7), (64, 33), (2, 3, 1000), (5, 50_260)]


def both(shape, dtype=torch.float32):
    """(log probabilities, gradient of the scores) by torch and by ours."""
    torch.manual_seed(1)
    scores, outgoing = torch.randn(shape, dtype=dtype) * 5, torch.randn(shape, dtype=dtype)
    for form in (lambda x: F.log_softmax(x, -1), log_softmax_):
        leaf = scores.clone().requires_grad_()
        found = form(leaf * 1)
        kept = found.detach().clone()
        found.backward(outgoing)
        yield kept, leaf.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_bits_are_torchs(shape, dtype):
    theirs, ours = both(shape, dtype)
    for a, b in zip(theirs, ours, strict=True):
        assert torch.equal(a, b)


def test_nothing_is_allocated():
    """Neither forward nor backward: both results are where the scores were."""
    scores = torch.randn(3, 7, requires_grad=True) * 1
    place = scores.data_ptr()
    seen = []
    scores.register_hook(lambda grad: seen.append(grad.data_ptr()))
    found = log_softmax_(scores)
    assert found.data_ptr() == place
    found.sum().backward()
    assert seen == [place]


def test_a_graph_that_is_kept_keeps_its_values():
    leaf = torch.randn(3, 7, requires_grad=True)
    found = log_softmax_(leaf * 1)
    before = found.detach().clone()
    (once,) = torch.autograd.grad(found[0, 1], leaf, retain_graph=True)
    assert torch.equal(found, before)
    (again,) = torch.autograd.grad(found[0, 1], leaf)
    assert torch.equal(once, again)


def test_half_precision_is_widened():
    scores = torch.randn(3, 7).bfloat16()
    assert torch.equal(log_softmax_(scores), F.log_softmax(scores.float(), -1))


def test_weights_are_not_written_over():
    with pytest.raises(RuntimeError, match="leaf"):
        log_softmax_(torch.randn(3, 7, requires_grad=True))


def test_values_that_an_earlier_operation_needs_are_missed():
    scores = torch.randn(3, 7, requires_grad=True).exp()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        log_softmax_(scores).sum().backward()
