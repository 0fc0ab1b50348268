"""A weight that is used many times: as F.linear at each use."""

import pytest
import torch
import torch.nn.functional as F

from kernels.reused import Reused
from tests.products import products_by

LEAVES = [(5, 3, 4), (7, 4), (7,)]  # inputs of five uses, weight, bias


@pytest.fixture(autouse=True, params=["onednn", "mkl"])
def chosen(request):
    """oneDNN for products of any size, or for none, whatever the CPU."""
    with products_by(request.param):
        yield request.param


def leaves(dtype=torch.float32):
    torch.manual_seed(1)
    return [torch.randn(size, dtype=dtype).requires_grad_() for size in LEAVES]


def recurrent(function, x, w, b):
    """Each use reads what the one before it has made."""
    h, outputs = torch.zeros_like(x[0]), []
    for x_t in x:
        h = (x_t + function(h, w, b)[:, :4]).tanh()
        outputs.append(h)
    return torch.stack(outputs).square().sum()


def ours(x, w, b):
    reused = Reused(w * 2)
    return recurrent(lambda h, _, b: reused(h, b), x, w, b)


def plain(x, w, b):
    return recurrent(lambda h, w, b: F.linear(h, w * 2, b), x, w, b)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_equals_linear(dtype, tolerance):
    given = leaves(dtype)
    found, expected = ours(*given), plain(*given)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    for a, b in zip(torch.autograd.grad(found, given), torch.autograd.grad(expected, given),
                    strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_second_derivatives():
    given = leaves(torch.float64)
    assert torch.autograd.gradcheck(ours, given)
    assert torch.autograd.gradgradcheck(ours, given)


def test_a_second_backward_pass_counts_its_own_uses():
    given = leaves()
    y = ours(*given)
    first = torch.autograd.grad(y, given, retain_graph=True)
    torch.autograd.grad(y, given[:1], retain_graph=True)  # the weight is not asked for
    again = torch.autograd.grad(y, given)
    assert all(map(torch.equal, first, again))


def test_a_frozen_weight_and_one_that_is_not_used():
    x, w, b = leaves()
    reused = Reused(w.detach())
    y = reused(x[0], b)
    y.sum().backward()
    torch.testing.assert_close(x.grad[0], w.detach().sum(0).expand(3, 4))
    assert not reused.uses
    Reused(w)
    assert w.grad is None
    with torch.no_grad():
        assert not Reused(w)(x[0]).requires_grad


def test_autocast_rounds_once_and_sums_in_float32():
    x, w, b = leaves()
    torch.manual_seed(2)
    many = torch.randn(400, 3, 4)

    def gradient(function):
        w.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            sum(function(x_t, b).float().sum() for x_t in many).backward()
        assert w.grad.dtype == torch.float32
        return w.grad

    with torch.autocast("cpu", torch.bfloat16):
        reused = Reused(w)
        assert reused(x[0]).dtype == torch.bfloat16
        torch.testing.assert_close(reused(x[0], b), F.linear(x[0], w, b), rtol=2e-2, atol=2e-2)
    exact = many.bfloat16().double().sum((0, 1)).expand(7, 4)
    found = gradient(reused)
    assert (found - exact).abs().max() <= 2 ** -8 * exact.abs().max()


@pytest.mark.parametrize(("weights", "dtype"), [(torch.float32, torch.float16),
                                                (torch.float64, torch.bfloat16)], ids=str)
def test_autocast_rounds_what_it_rounds_elsewhere(weights, dtype):
    x, w, b = leaves(weights)
    with torch.autocast("cpu", dtype):
        found, expected = Reused(w)(x[0], b), F.linear(x[0], w, b)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    found.sum().backward()
    assert w.grad.dtype == weights
    torch.testing.assert_close(w.grad, x[0].detach().sum(0).expand(7, 4), rtol=1e-2, atol=1e-2)


def test_the_weights_gradient_is_one_product(monkeypatch):
    from kernels import reused as module
    calls, own = [], module.product
    monkeypatch.setattr(module, "product", lambda a, b: calls.append(a.shape) or own(a, b))
    given = leaves()
    reused = Reused(given[1])
    sum(reused(x_t).sum() for x_t in given[0].detach()).backward()
    assert calls.count((7, 5 * 3)) == 1


def test_torch_func_and_compilers_get_torchs_operations():
    x, w, b = (t.detach() for t in leaves())
    found = torch.func.vmap(lambda x: Reused(w)(x, b))(x)
    torch.testing.assert_close(found, F.linear(x, w, b))
