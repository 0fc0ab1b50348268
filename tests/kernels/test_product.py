"""product and linear against torch's own: values, first and second gradients."""

import pytest
import torch

from kernels import product as module
from kernels.product import linear, linear_plain, product, product_plain

SIZES = [(1, 1, 1), (3, 1, 63), (63, 127, 3), (127, 63, 130), (2, 300, 1)]


def matrices(M, K, N, dtype=torch.float32):
    generator = torch.Generator().manual_seed(M + K + N)
    return (torch.randn(M, K, generator=generator, dtype=dtype).requires_grad_(),
            torch.randn(K, N, generator=generator, dtype=dtype).requires_grad_())


def assert_same(fast, plain, leaves, tolerance):
    """The value, and each leaf's gradient of a loss that is not linear in it."""
    results = []
    for function in (fast, plain):
        y = function(*leaves)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for a, e in zip(*results, strict=True):
        scale = max(1, e.abs().max().item())  # a sum over many products
        torch.testing.assert_close(a / scale, e / scale, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_product_equals_torch(size):
    assert_same(product, product_plain, matrices(*size), 2e-6)
    assert_same(product, product_plain, matrices(*size, dtype=torch.float64), 1e-13)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_product_of_transposed_matrices(size):
    M, K, N = size
    leaves = [t.detach().clone().requires_grad_() for t in (matrices(K, M, 1)[0],
                                                            matrices(N, K, 1)[0])]
    assert_same(lambda a, b: product(a.t(), b.t()), lambda a, b: a.t() @ b.t(), leaves, 2e-6)


@pytest.mark.parametrize("shape", [(1,), (7, 63), (3, 1, 127), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("outputs", [1, 3, 130])
def test_linear_equals_torch(shape, outputs):
    torch.manual_seed(0)
    leaves = [torch.randn(*shape), torch.randn(outputs, shape[-1]), torch.randn(outputs)]
    leaves = [t.requires_grad_() for t in leaves]
    assert linear(*leaves).shape == (*shape[:-1], outputs)
    assert_same(linear, linear_plain, leaves, 2e-6)


@pytest.mark.parametrize("frozen", range(3))
def test_linear_with_one_frozen_input(frozen):
    torch.manual_seed(0)
    leaves = [torch.randn(5, 3), torch.randn(4, 3), torch.randn(4)]
    for i, t in enumerate(leaves):
        t.requires_grad_(i != frozen)
    linear(*leaves).sum().backward()
    assert [t.grad is not None for t in leaves] == [i != frozen for i in range(3)]


def test_linear_without_rows_and_under_autocast():
    weight, bias = torch.randn(4, 3), torch.randn(4)
    assert linear(torch.empty(0, 2, 3), weight, bias).shape == (0, 2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.randn(2, 3), weight, bias).dtype == torch.bfloat16


def test_without_onednn(monkeypatch):
    monkeypatch.setattr(module, "_onednn_linear", lambda: None)
    assert_same(product, product_plain, matrices(7, 9, 5), 2e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    leaves = [t.detach().cuda().requires_grad_() for t in matrices(63, 127, 3, torch.float64)]
    assert_same(product, product_plain, leaves, 1e-12)
