"""The fast Toeplitz product equals the dense one."""

import pytest
import torch

from tnn.network import toeplitz, toeplitz_cpu
from tnn.network.toeplitz import (
    fft_length,
    kernel_spectrum,
    toeplitz_matrix,
    toeplitz_plain,
    toeplitz_product,
    toeplitz_with_spectrum,
)


def lags(n, kind):
    return n if kind == "causal" else 2 * n - 1


def value_and_gradients(product, x, t, w):
    x, t = x.clone().requires_grad_(), t.clone().requires_grad_()
    y = product(x, t)
    return y.detach(), *torch.autograd.grad((y * w).sum(), (x, t))


@pytest.mark.parametrize("kind", ["causal", "bidirectional"])
def test_equals_dense_at_every_length_to_129(kind):
    torch.manual_seed(1)
    for n in range(1, 130):
        x, w = torch.randn(2, 2, 2, n, 3, dtype=torch.float64)
        t = torch.randn(2, lags(n, kind), 3, dtype=torch.float64)
        results = zip(value_and_gradients(toeplitz_plain, x, t, w),
                      value_and_gradients(toeplitz_product, x, t, w), strict=True)
        for dense, fast in results:
            torch.testing.assert_close(fast, dense, atol=1e-10, rtol=0, msg=f"n = {n}")


def test_matrix_is_the_equation():
    """T[i, j] = t(i - j), with negative lags at the end of the list."""
    t = torch.arange(7.0)  # t(0) t(1) t(2) t(3) t(-3) t(-2) t(-1)
    expected = [[0, 6, 5, 4], [1, 0, 6, 5], [2, 1, 0, 6], [3, 2, 1, 0]]
    assert toeplitz_matrix(t, 4).tolist() == expected
    assert toeplitz_matrix(t[:4], 4).tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [2, 1, 0, 0],
                                                  [3, 2, 1, 0]]


@pytest.mark.parametrize("n", [1, 63, 300])
def test_float32_and_bfloat16(n):
    torch.manual_seed(2)
    x, w = torch.randn(2, 3, 1, n, 5)
    t = torch.randn(1, n, 5) * 0.9 ** torch.arange(n).unsqueeze(-1)
    exact = value_and_gradients(toeplitz_plain, x.double(), t.double(), w.double())
    for fast, dense in zip(value_and_gradients(toeplitz_product, x, t, w), exact, strict=True):
        torch.testing.assert_close(fast.double(), dense, atol=2e-5, rtol=1e-5)
    half = toeplitz_product(x.bfloat16(), t.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), exact[0], atol=0.1, rtol=0.02)


@pytest.mark.parametrize("dim", [-1, -2, -3, -4])
def test_any_axis(dim):
    """Along the rows of images, say: t has the axes between, of size 1 where it is shared."""
    torch.manual_seed(3)
    x = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    n = x.shape[dim]
    shape = [2 * n - 1 if i == dim else size for i, size in zip(range(-4, 0), x.shape, strict=True)]
    for shared in [(), *((i,) for i in range(-4, 0) if i != dim)]:
        t = torch.randn([1 if i in shared else s for i, s in zip(range(-4, 0), shape, strict=True)],
                        dtype=torch.float64)
        expected = torch.einsum(
            "...ij,...j->...i", toeplitz_matrix(t.movedim(dim, -1), n), x.movedim(dim, -1))
        y = toeplitz_product(x, t, dim=dim)
        assert y.shape == x.shape
        torch.testing.assert_close(y, expected.movedim(-1, dim), atol=1e-10, rtol=0)


def test_kept_spectrum():
    x, t = torch.randn(2, 3, 40, 5), torch.randn(3, 79, 5)
    torch.testing.assert_close(toeplitz_with_spectrum(x, kernel_spectrum(t, 40)),
                               toeplitz_product(x, t), atol=2e-5, rtol=0)


def test_only_one_gradient_asked_for():
    x, t = torch.randn(2, 1, 20, 3), torch.randn(1, 20, 3)
    both = value_and_gradients(toeplitz_product, x, t, torch.ones_like(x))
    toeplitz_product(x.requires_grad_(), t).sum().backward()
    assert torch.equal(x.grad, both[1])
    toeplitz_product(x.detach(), t.requires_grad_()).sum().backward()
    assert torch.equal(t.grad, both[2])


def test_gradcheck():
    x = torch.randn(2, 1, 6, 2, dtype=torch.float64, requires_grad=True)
    t = torch.randn(1, 11, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(toeplitz_product, (x, t))


def test_rows_in_chunks_are_the_whole(monkeypatch):
    """The form for other devices, on the whole array at once, gives the CPU's numbers."""
    x, t, w = torch.randn(3, 1, 50, 7), torch.randn(1, 99, 7), torch.randn(3, 1, 50, 7)
    whole = value_and_gradients(toeplitz_product, x, t, w)
    monkeypatch.setattr(toeplitz_cpu, "CACHE", 200)
    for a, b in zip(whole, value_and_gradients(toeplitz_product, x, t, w), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["causal", "bidirectional"])
@pytest.mark.parametrize(("n", "p"), [(2, 1), (9, 4), (30, 29), (64, 5), (100, 60), (7, 7), (1, 1)])
def test_fewer_lags_are_zeros_beyond(kind, n, p):
    x, w = torch.randn(2, 3, 2, n, 4, dtype=torch.float64)
    t = torch.randn(2, lags(p, kind), 4, dtype=torch.float64)
    zeros = t.new_zeros(2, n - p, 4)

    def filled(x, t):
        ahead = [] if kind == "causal" else [zeros, t[:, p:]]
        return toeplitz_plain(x, torch.cat([t[:, :p], zeros, *ahead], dim=1))

    def few(x, t):
        return toeplitz_product(x, t, lags=p)

    for a, b in zip(value_and_gradients(few, x, t, w), value_and_gradients(filled, x, t, w),
                    strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
    if n > 1:
        kept = toeplitz_with_spectrum(x, kernel_spectrum(t, n, lags=p), lags=p)
        torch.testing.assert_close(kept, few(x, t), atol=1e-10, rtol=0)
    assert n + p - 1 <= fft_length(n, p) <= fft_length(n)


@pytest.mark.parametrize("n", [1, 2, 3, 511, 512, 513, 8192])
def test_fft_length(n):
    size = fft_length(n)
    assert size >= 2 * n - 1
    assert size % 2 == 0
    for factor in (2, 3, 5):
        while size % factor == 0:
            size //= factor
    assert size == 1


def test_wrong_number_of_coefficients():
    with pytest.raises(ValueError, match="5 coefficients for length 4"):
        toeplitz_product(torch.randn(1, 4, 2), torch.randn(1, 5, 2))
    with pytest.raises(ValueError, match="5 lags for length 4"):
        toeplitz_product(torch.randn(1, 4, 2), torch.randn(1, 5, 2), lags=5)
    assert toeplitz.DENSE_UP_TO >= 1  # n = 1 is never transformed
