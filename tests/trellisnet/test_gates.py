"""The gates of a level by the compiled kernel against torch's operations."""

import pytest
import torch

from kernels import library
from trellisnet.gates import (
    by_library,
    eager_backward,
    eager_forward,
    gates_backward,
    gates_forward,
)

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}


def drawn(T, N, H, dtype):
    """a, c_below, c's and h's gradients, mask."""
    torch.manual_seed(T + H)
    a = 3 * torch.randn(T, N, 4 * H, dtype=dtype)
    return a, *(torch.randn(T, N, H, dtype=dtype) for _ in range(3)), 2 * torch.rand(N, H).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 2, 7), (2, 3, 8), (5, 2, 33), (2, 2, 130)],
                         ids=str)
@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no mask"])
def test_equals_the_eager_form(size, dtype, masked):
    if library.loaded() is None:
        pytest.skip("no compiler here")
    a, c_below, dh, dc, mask = drawn(*size, dtype)
    mask = mask if masked else None
    assert by_library(a, c_below, mask)
    eager = eager_forward(a.clone(), c_below, mask, dtype)
    ours = gates_forward(a.clone(), c_below, mask, dtype)
    limit = TOLERANCE[dtype]
    torch.testing.assert_close(ours, eager, atol=limit, rtol=limit)
    gates, c, _ = eager
    for of_masked in (True, False):
        given = gates, c_below, c, mask, dh, dc
        expected = eager_backward(*(g if g is None else g.clone() for g in given), dtype, of_masked)
        found = gates_backward(*given, dtype, of_masked)
        torch.testing.assert_close(found, expected, atol=limit, rtol=limit)
        assert gates_backward(*given, dtype, of_masked, h_too=False)[2] is None


def test_rows_between_others_are_read_as_they_lie():
    """Not contiguous: torch's operations compute them."""
    a, c_below, *_ = drawn(3, 2, 5, torch.float32)
    spread = torch.stack([c_below, c_below], -1)[..., 0]
    assert not by_library(a, spread)
    torch.testing.assert_close(gates_forward(a.clone(), spread, None, torch.float32),
                               eager_forward(a.clone(), c_below, None, torch.float32))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 200.0])
def test_extreme_gates(value):
    """nan stays nan; what saturates does so at 0 and 1."""
    a, c_below, *_ = drawn(1, 1, 9, torch.float32)
    a[..., 3] = value
    eager = eager_forward(a.clone(), c_below, None, torch.float32)
    torch.testing.assert_close(gates_forward(a, c_below, None, torch.float32), eager,
                               atol=2e-6, rtol=2e-6, equal_nan=True)
