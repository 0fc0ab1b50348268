"""The compiled norm with bfloat16 results, alone and behind a sum, against PyTorch's operations."""

import pytest
import torch

from kernels import rms_norm
from kernels.rms_norm import added, added_and_normalized, rms_normalized, rms_normalized_plain

EPS = 1e-8
SIZES = [(1, 1), (3, 7), (2, 3, 64), (5, 100), (300, 129)]
pytestmark = pytest.mark.usefixtures("compiled")


def random(shape, seed, dtype=torch.float32):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    values.view(-1, shape[-1])[0] = 0  # where the norm has no derivative: 1 / eps is meant
    return values.to(dtype).requires_grad_()


def sums(x, y):
    """added_and_normalized by PyTorch's operations."""
    total = x + y
    return total, rms_normalized_plain(total, EPS, y.dtype)


def results(function, inputs):
    outputs = function(*inputs)
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    # No gradient of 1 / eps on the zero row, which would drown the other part of the sum.
    weights = [random(y.shape, 7 + i).detach().to(y.dtype) for i, y in enumerate(outputs)]
    return [*outputs, *torch.autograd.grad(outputs, inputs, weights)]


def assert_same(actual, expected):
    """To a rounding of bfloat16 where it is that, else of float32."""
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        scale = max(1, e.abs().max().item())
        tolerance = 2**-7 if e.dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(a / scale, e / scale, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_norm(poisoned_memory, size, dtype):
    x = random(size, 1, dtype)
    assert rms_norm.has_kernel(x, torch.bfloat16)
    assert_same(results(lambda x: rms_normalized(x, EPS, torch.bfloat16), [x]),
                results(lambda x: rms_normalized_plain(x, EPS, torch.bfloat16), [x]))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sums(poisoned_memory, size):
    inputs = random(size, 1), random(size, 2, torch.bfloat16)
    assert_same(results(lambda x, y: added_and_normalized(x, y, EPS), inputs),
                results(sums, inputs))
    total, expected = added(*inputs), inputs[0] + inputs[1]
    assert torch.equal(total, expected)
    assert "Added" in total.grad_fn.name()
    for a, e in zip(results(added, inputs), results(torch.add, inputs), strict=True):
        assert torch.equal(a, e)


def test_strided_arrays_and_one_output(poisoned_memory):
    x, y = random((6, 40), 1), random((6, 40), 2, torch.bfloat16)
    for used in (0, 1):
        found = [torch.autograd.grad(function(x.t(), y.t())[used].float().sin().sum(), (x, y))
                 for function in (lambda x, y: added_and_normalized(x, y, EPS), sums)]
        assert_same(*found)
    assert torch.equal(added(x.t(), y.t()), x.t() + y.t())


def test_float32_results_are_pytorchs():
    """Their last bits stay."""
    x = random((5, 12), 3)
    assert not rms_norm.has_kernel(x, torch.float32)
    total, normed = added_and_normalized(x, x, EPS)
    assert torch.equal(total, x + x)
    assert torch.equal(normed, rms_normalized_plain(x + x, EPS))


def test_threads(threads):
    x, y = random((400, 200), 1), random((400, 200), 2, torch.bfloat16)
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append(results(lambda x, y: added_and_normalized(x, y, EPS), (x, y)))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_nan_passes_through():
    x = torch.ones(2, 9)
    x[1, 4] = torch.nan
    y = rms_normalized(x, EPS, torch.bfloat16)
    assert y[0].isfinite().all()
    assert y[1].isnan().all()
