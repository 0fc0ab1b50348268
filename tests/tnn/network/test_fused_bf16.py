"""The gates in pieces under bfloat16 autocast: as far from the exact numbers as bfloat16 is, in one
piece or many, and with the masks of float32."""

import pytest
import torch
from torch import nn

from tnn.network import fused

D, E, N = 12, 20, 40


def layers(*sizes, bias=True):
    torch.manual_seed(1)
    return [nn.Linear(a, b, bias) for a, b in sizes]


def glu(x, l1, l2, l3):
    return fused.glu(x, l1, l2, l3, 0.25)


def activated(x, v):
    return fused.activated(x, v)


def gated_output(x, v, u, o):
    return fused.gated_output(x, fused.activated(x, v), u, o, 0.25)


FORMS = {"glu": (glu, [(D, E), (D, E), (E, D)]), "activated": (activated, [(D, E)]),
         "gated_output": (gated_output, [(D, E), (D, E), (E, D)])}


def results(form, modules, x, bf16):
    """Output, and the gradients of input and parameters."""
    x = x.clone().requires_grad_()
    for module in modules:
        module.zero_grad()
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = form(x, *modules)
    torch.manual_seed(4)
    (y * torch.randn(y.shape, dtype=torch.float64).to(x.dtype)).sum().backward()
    return y, [x.grad] + [p.grad for module in modules for p in module.parameters()]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("cache", [1 << 18, 1])  # one piece a sample, or of 32 rows each
def test_equals_the_exact_numbers_to_bfloat16(name, bias, cache, monkeypatch):
    monkeypatch.setattr(fused, "CACHE", cache)
    form, sizes = FORMS[name]
    modules = layers(*sizes, bias=bias)
    x = torch.randn(3, N, D)
    y, gradients = results(form, modules, x, bf16=True)
    assert y.dtype == torch.bfloat16
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    exact, exact_gradients = results(form, [m.double() for m in modules], x.double(), bf16=False)
    for found, expected in zip([y, *gradients], [exact, *exact_gradients], strict=True):
        assert (found - expected).norm() < 0.01 * expected.norm()


def test_gradients_of_weights_are_summed_in_float32(monkeypatch):
    """Of 2,000 pieces; in bfloat16 sums stop growing at 256 times a summand."""
    monkeypatch.setattr(fused, "CACHE", 1)
    (linear,) = layers((4, 4))
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.fill_(1.0)
    x = torch.ones(1, 32 * 2000, 4)
    with torch.autocast("cpu", torch.bfloat16):
        fused.activated(x, linear).sum().backward()
    slope = torch.ops.aten.silu_backward(torch.ones(()), torch.ones(())).bfloat16().float().item()
    for gradient in (linear.weight.grad, linear.bias.grad):
        expected = torch.full_like(gradient, 64_000 * slope)
        torch.testing.assert_close(gradient, expected, rtol=2 ** -8, atol=0)


def test_the_masks_are_those_of_float32():
    for rate in (0.1, 0.25, 0.5):
        bits = fused.random_bits(100_000, rate)
        narrow = fused.keep_mask(bits, rate, torch.bfloat16)
        wide = fused.keep_mask(bits, rate, torch.float32)
        assert torch.equal(narrow != 0, wide != 0)
        assert narrow.max() == wide.max().bfloat16()


def test_dropout_keeps_the_type():
    x = torch.ones(50, 50)
    torch.manual_seed(0)
    expected = fused.dropout(x, 0.5)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        found = fused.dropout(x.bfloat16(), 0.5)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found.float(), expected)
        summed = fused.add_dropped(x, x.bfloat16(), 0.5)
    assert summed.dtype == torch.float32
    assert summed.unique().tolist() == [1.0, 3.0]


def test_float16_and_others_take_the_plain_form():
    (linear,) = layers((D, E))
    x = torch.randn(2, N, D)
    with torch.autocast("cpu", torch.float16):
        assert fused.arithmetic(x) is None
        assert fused.activated(x, linear).dtype == torch.float16
    assert fused.arithmetic(x.half()) is None
    assert fused.arithmetic(x.double()) is torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert fused.arithmetic(x.double()) is None
