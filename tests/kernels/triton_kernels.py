"""The Triton kernels against the plain forms, in Triton's interpreter. Run by test_triton.py, in a
process with TRITON_INTERPRET=1. Prints `equal`."""

import torch

from kernels import gates_triton, rms_norm_triton
from kernels.rms_norm import rms_normalized_plain

EPS = 1e-8


def check_gates(T, N, H, masked, dtype, tolerance):
    from trellisnet import gates as plain
    draw = torch.Generator().manual_seed(T + N + H)

    def random(*shape, scale=1.0):
        return torch.randn(*shape, generator=draw, dtype=dtype) * scale

    a, below, dh, dc = random(T, N, 4 * H, scale=2), *(random(T, N, H) for _ in range(3))
    a[..., ::3] *= 1e-3   # where tanh is nearly the identity
    mask = (torch.rand(N, H, generator=draw) > 0.3).to(dtype) / 0.7 if masked else None
    expected = plain.gates_forward(a.clone(), below, mask, dtype)
    found = gates_triton.forward(a.clone(), below, mask, dtype)
    grads = plain.gates_backward(*expected[:1], below, expected[1], mask, dh, dc, dtype)
    found_grads = gates_triton.backward(*expected[:1], below, expected[1], mask, dh, dc, dtype)
    given = expected[0], below, expected[1], mask, dh, dc, dtype, True
    sums = [random(T, N, 4 * H), random(2, T + 3, N, H)], []
    sums[1].extend(x.clone() for x in sums[0])
    masked_grads = gates_triton.backward(*given, *sums[0], 2)
    of_masked = plain.gates_backward(*given[:4], dh.clone(), *given[5:], *sums[1], 2)
    part, more = random(T, N, 4 * H), random(T, N, 4 * H)
    into = tuple(torch.full((2, T, N, H), torch.nan, dtype=dtype))
    summed = gates_triton.forward(a.clone(), below, mask, dtype, part, more, into)
    assert all(y is place for y, place in zip(summed[1:], into, strict=True))
    as_one = plain.gates_forward(a + part + more, below, mask, dtype)
    for x, y in zip((*found, *found_grads, *masked_grads, *sums[0], *summed),
                    (*expected, *grads, *of_masked, *sums[1], *as_one), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)
        assert x.dtype == y.dtype
    if dtype == torch.float64:
        return
    halves = a.bfloat16(), more.bfloat16()
    rounded = gates_triton.forward(halves[0], below, mask, dtype, part, halves[1])
    for x, y in zip(rounded, plain.gates_forward(halves[0], below, mask, dtype, part, halves[1]),
                    strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)
        assert x.dtype == y.dtype == dtype
    half, _, _ = gates_triton.backward(*given, da_dtype=torch.bfloat16)
    torch.testing.assert_close(half, masked_grads[0].bfloat16(), rtol=1e-2, atol=1e-2)


def check_norm(shape, dtype, tolerance, to=None):
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)
    x[0] = 0                       # the norm has no derivative there: 1 / eps is meant
    dy = torch.randn(*shape, generator=draw, dtype=torch.float64).to(to or dtype)
    leaf = x.clone().requires_grad_()
    expected = rms_normalized_plain(leaf, EPS, to)
    gradient, = torch.autograd.grad(expected, leaf, dy)
    y, r = rms_norm_triton.forward(x, EPS, to)
    dx = rms_norm_triton.backward(x, r, dy, EPS)
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(dx, gradient, rtol=tolerance, atol=tolerance)


def main():
    for T, N, H in ((1, 1, 1), (3, 2, 7), (2, 3, 130)):
        for masked in (False, True):
            check_gates(T, N, H, masked, torch.float32, 2e-6)
    check_gates(2, 3, 5, True, torch.float64, 1e-12)
    for shape in ((4, 1), (3, 7), (2, 3, 64)):
        check_norm(shape, torch.float32, 5e-6)
    check_norm((3, 33), torch.float64, 1e-12)
    check_norm((3, 33), torch.bfloat16, 2e-2)
    check_norm((3, 33), torch.float32, 2e-2, torch.bfloat16)
    print("equal")


if __name__ == "__main__":
    main()
