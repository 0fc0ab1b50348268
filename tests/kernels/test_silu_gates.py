"""The compiled gates silu(a) b, alone and around the Toeplitz products of a grid, against PyTorch's
operations."""

import ctypes
import subprocess

import pytest
import torch
import torch.nn.functional as F

from kernels import build, library, silu_gates

# C, H, b, W: of 1, below a register, above it, a multiple of it, and none.
GRIDS = [(1, 1, 1, 1), (2, 3, 5, 2), (3, 7, 1, 7), (130, 14, 8, 14), (2, 13, 1, 20), (1, 16, 2, 32),
         (3, 1, 3, 9), (2, 9, 3, 1)]
OPERATIONS = ["gated_grid_forward", "gated_grid_backward", "silu_product_forward",
              "silu_product_backward"]


@pytest.fixture(scope="module")
def wide_library(tmp_path_factory):
    """In AVX-512's shapes, which the compiler makes of smaller registers."""
    path = tmp_path_factory.mktemp("shapes") / "silu_gates.so"
    subprocess.run([*build._compiler(), *build.FLAGS, "-DSHAPED_LIKE_AVX512", "-Wno-psabi",
                    str(build.FOLDER / "silu_gates.cpp"), "-o", str(path)], check=True,
                   timeout=300)
    return library.declared(ctypes.CDLL(str(path)), OPERATIONS)


@pytest.fixture(params=["this CPU", "AVX-512's shapes"], autouse=True)
def shapes(request, compiled, monkeypatch):
    if request.param != "this CPU":
        wide = request.getfixturevalue("wide_library")
        monkeypatch.setattr(library, "loaded", lambda: wide)


def random(*shape, dtype=torch.float64, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def grid(C, H, b, W, dtype=torch.float64):
    return (random(2, C, H, b, W, dtype=dtype), random(C, H, H, dtype=dtype, seed=2),
            random(C, W, W, dtype=dtype, seed=3))


def gated_grid_plain(z, T_H, T_W):
    u, v = F.silu(z)
    return u * (torch.einsum("cij,cjbw->cibw", T_H, v) + torch.einsum("cij,chbj->chbi", T_W, v))


def gradients_of(function, inputs, d):
    leaves = [x.clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(function(*leaves), leaves, d)


def assert_same(actual, expected):
    """To the rounding of the type, relative to the largest number."""
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        assert a.shape == e.shape
        error = (a - e).abs().max().item() / max(1, e.abs().max().item())
        assert error < 20 * torch.finfo(e.dtype).eps, error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sizes", GRIDS, ids=str)
def test_grid(poisoned_memory, sizes, dtype):
    inputs, d = grid(*sizes, dtype=dtype), random(*sizes, dtype=dtype, seed=4)
    assert silu_gates.has_grid_kernel(*inputs)
    assert_same([silu_gates.gated_grid(*inputs)], [gated_grid_plain(*inputs)])
    assert_same(silu_gates.gated_grid_backward(*inputs, d),
                gradients_of(gated_grid_plain, inputs, d))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("G", "N"), [(1, 1), (3, 7), (5, 64), (2, 101)])
def test_product(poisoned_memory, G, N, dtype):
    z, d = random(2 * G, N, dtype=dtype), random(N, G, dtype=dtype, seed=2).t()  # d not contiguous

    def plain(z):
        return F.silu(z[:G]) * z[G:]

    assert_same([silu_gates.silu_product(z)], [plain(z)])
    assert_same([silu_gates.silu_product_backward(z, d)], gradients_of(plain, [z], d))


def test_the_number_of_threads_changes_no_bit(threads):
    inputs, d = grid(7, 5, 3, 9, dtype=torch.float32), random(7, 5, 3, 9, dtype=torch.float32)
    z = random(10, 33, dtype=torch.float32)
    found = []
    for n in (1, 2, 3):
        threads(n)
        found.append([silu_gates.gated_grid(*inputs), *silu_gates.gated_grid_backward(*inputs, d),
                      silu_gates.silu_product(z), silu_gates.silu_product_backward(z, z[:5])])
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_nan_stays_and_large_numbers_do_not_become_it():
    z = torch.tensor([[-200.0, -90, 0, 90, 200, torch.nan], [1.0] * 6])
    expected = torch.tensor([[0.0, 0, 0, 90, 200, torch.nan]])
    torch.testing.assert_close(silu_gates.silu_product(z), expected, equal_nan=True, atol=1e-30,
                               rtol=1e-6)
    inputs = grid(2, 3, 2, 4)
    inputs[0][1, 0, 1, 1, 2] = torch.nan  # v: spreads along its line and its column, in its channel
    spoilt = silu_gates.gated_grid(*inputs).isnan()
    assert torch.equal(spoilt, gated_grid_plain(*inputs).isnan())
    assert spoilt.any()
    assert not spoilt.all()


def test_what_the_kernels_are_not_for(monkeypatch):
    z, T_H, T_W = grid(2, 3, 2, 4)
    assert not silu_gates.has_kernel(z.bfloat16())
    assert not silu_gates.has_kernel(z.mT)
    assert not silu_gates.has_grid_kernel(z.float(), T_H, T_W)
    long = silu_gates.LINE + 1
    assert not silu_gates.has_grid_kernel(*grid(1, long, 1, 2))
    monkeypatch.setenv("KERNELS", "0")
    assert not silu_gates.has_kernel(z)
