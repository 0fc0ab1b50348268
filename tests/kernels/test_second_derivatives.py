"""Every autograd function of kernels/ and common/ can be differentiated twice. A gradient penalty
whose second derivative is lost looks like a penalty of zero: no error, wrong training."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from common.splitcross import linear_cross_entropy, linear_cross_entropy_plain
from kernels import lstm as lstm_module
from kernels.forget_mult import forget_mult, forget_mult_plain
from kernels.log_softmax import log_softmax_
from kernels.lstm import lstm, lstm_plain
from kernels.product import linear, linear_plain, product, product_plain
from kernels.qrnn_gates import qrnn_gates, qrnn_gates_plain
from kernels.reused import Reused
from tests.products import products_by

TARGETS = torch.tensor([2, 0, 129, 5, 5])


def lstm_flat(x, h, c, *weights):
    output, (h, c) = lstm(x, (h, c), *weights)
    return output, h, c


def with_targets(function):
    return lambda *inputs: function(*inputs, TARGETS)


def all_gates(function):
    return lambda y, c0: function(y, c0, None, 0.9, 3)


def used_twice(prepare):
    def call(x, w, b):
        times = prepare(w, b)
        return times(times(x).tanh())
    return call


OPERATIONS = {  # fast form, plain form, shapes of the inputs
    "forget_mult": (forget_mult, forget_mult_plain, [(5, 3, 7), (5, 3, 7), (3, 7)]),
    "forget_mult without state": (forget_mult, forget_mult_plain, [(1, 3, 7), (1, 3, 7)]),
    "qrnn_gates": (all_gates(qrnn_gates), all_gates(qrnn_gates_plain), [(5, 3, 21), (3, 7)]),
    "lstm": (lstm_flat, lstm_plain,
             [(5, 3, 4), (1, 3, 7), (1, 3, 7), (28, 4), (28, 7), (28,), (28,)]),
    "product": (product, product_plain, [(5, 63), (63, 3)]),
    "reused": (used_twice(lambda w, b: partial(Reused(w), bias=b)),
               used_twice(lambda w, b: partial(F.linear, weight=w, bias=b)),
               [(5, 3), (3, 3), (3,)]),
    "linear": (linear, linear_plain, [(5, 2, 3), (7, 3), (7,)]),
    "log_softmax_": (lambda x, y: log_softmax_(x * y), lambda x, y: F.log_softmax(x * y, -1),
                     [(5, 7), (7,)]),
    "linear_cross_entropy": (with_targets(linear_cross_entropy),
                             with_targets(linear_cross_entropy_plain), [(5, 3), (130, 3), (130,)]),
}
every_operation = pytest.mark.parametrize("name", OPERATIONS)


@pytest.fixture(autouse=True)
def fast_forms_at_any_size(monkeypatch):
    """On any CPU."""
    monkeypatch.setattr(lstm_module, "SHORT", 0)
    with products_by("onednn"):
        yield


def leaves_of(shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(len(shapes))
    return [torch.randn(shape, generator=generator, dtype=dtype).mul_(0.5).requires_grad_()
            for shape in shapes]


def loss_of(result, used=slice(None)):
    results = (result,) if isinstance(result, torch.Tensor) else result
    return sum(y.sin().sum() for y in results[used])


def penalised(function, leaves, used=slice(None)):
    """Loss, first gradients, and gradients of the loss plus a penalty on the first gradients."""
    wanted = [t for t in leaves if t.requires_grad]
    loss = loss_of(function(*leaves), used)
    first = torch.autograd.grad(loss, wanted, create_graph=True)
    penalty = sum((g.norm() - 1).square() for g in first)
    return [loss, *first, *torch.autograd.grad(loss + 10 * penalty, wanted)]


def assert_same(actual, expected, tolerance=2e-5):
    for a, e in zip(actual, expected, strict=True):
        scale = max(1, e.abs().max().item())
        torch.testing.assert_close(a / scale, e / scale, rtol=tolerance, atol=tolerance)


@every_operation
def test_penalty_on_the_gradient_equals_the_plain_form(backend, name):
    fast, plain, shapes = OPERATIONS[name]
    leaves = leaves_of(shapes)
    actual = penalised(fast, leaves)
    assert_same(actual, penalised(plain, leaves))
    without = torch.autograd.grad(loss_of(fast(*leaves)), leaves)
    for a, b in zip(without, actual[-len(leaves):], strict=True):
        assert not torch.allclose(a, b, rtol=1e-3)  # the penalty counts


@every_operation
def test_penalty_of_a_linear_loss(backend, name):
    """Its incoming gradient requires none, which is where once_differentiable says nothing."""
    fast, plain, shapes = OPERATIONS[name]
    seconds = []
    for function in (fast, plain):
        leaves = leaves_of(shapes)
        result = function(*leaves)
        total = result.sum() if isinstance(result, torch.Tensor) else sum(y.sum() for y in result)
        first = torch.autograd.grad(total, leaves, create_graph=True)
        penalty = sum((g.norm() - 1).square() for g in first)
        seconds.append(torch.autograd.grad(penalty, leaves, allow_unused=True))
    for a, e in zip(*seconds, strict=True):
        assert (a is None) == (e is None)
        if a is not None:
            assert_same([a], [e])


SMALL = {"forget_mult": [(3, 1, 2), (3, 1, 2), (1, 2)], "qrnn_gates": [(3, 1, 6), (1, 2)],
         "lstm": [(2, 1, 1), (1, 1, 2), (1, 1, 2), (8, 1), (8, 2), (8,), (8,)],
         "linear": [(3, 2), (2, 2), (2,)]}


@pytest.mark.parametrize("name", SMALL)  # what is fast in float64 too
def test_gradgradcheck(backend, name):
    assert torch.autograd.gradgradcheck(OPERATIONS[name][0], leaves_of(SMALL[name], torch.float64))


@every_operation
def test_frozen_inputs(backend, name):
    fast, plain, shapes = OPERATIONS[name]
    for frozen in range(len(shapes)):
        leaves = leaves_of(shapes)
        leaves[frozen].requires_grad_(False)
        assert_same(penalised(fast, leaves), penalised(plain, leaves))


def test_one_of_several_outputs(backend):
    fast, plain, shapes = OPERATIONS["lstm"]
    for used in (slice(0, 1), slice(1, 2), slice(2, 3)):
        leaves = leaves_of(shapes)
        assert_same(penalised(fast, leaves, used), penalised(plain, leaves, used))


def test_one_tensor_as_two_inputs_and_one_made_from_another(backend):
    for function in (lambda f: forget_mult(f, f), lambda f: forget_mult(f, f.sin(), f[0])):
        assert torch.autograd.gradgradcheck(function, leaves_of([(3, 2, 5)], torch.float64))


def test_without_create_graph_the_plain_form_is_not_used(monkeypatch):
    for module in ("kernels.lstm", "kernels.forget_mult", "kernels.qrnn_gates",
                   "common.splitcross"):
        monkeypatch.setattr(f"{module}.plain_gradients", None)
    for fast, _, shapes in OPERATIONS.values():
        leaves = leaves_of(shapes)
        loss_of(fast(*leaves)).backward()
        assert all(t.grad is not None for t in leaves)
