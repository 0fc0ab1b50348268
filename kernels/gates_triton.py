"""The four gates and the cell of a recurrence-like layer on a GPU, one Triton kernel each way:

    i, o, g, f = sigmoid(a_i), sigmoid(a_o), tanh(a_g), sigmoid(a_f)
    c = f c' + i g                     h = m o tanh(c)

c' is the cell that the step starts from, m a mask or 1. Backward, given Dh (of o tanh(c)) and Dc:

    Dc += Dh o (1 - tanh(c)^2)         Dc' = f Dc
    Da  = [Dc g i(1-i), Dh tanh(c) o(1-o), Dc i (1-g^2), Dc c' f(1-f)]

Notation: R rows (time and batch), H columns; a (R,4H) holds i, o, g, f side by side. Each number is
read and written once. Imported only where a CUDA tensor arrives; TRITON_INTERPRET=1 runs it on a
CPU (the tests).
"""

import torch
import triton
import triton.language as tl

BLOCK, WARPS = 512, 4


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _tanh(x):
    # By exp alone small x would lose its digits to 1 - t; the series is exact to 1e-13 there.
    y = x * x
    series = x * (1 + y * (-1 / 3 + y * (2 / 15 + y * (-17 / 315 + y * (62 / 2835)))))
    t = tl.exp(-2 * tl.abs(x))
    far = (1 - t) / (1 + t)
    return tl.where(tl.abs(x) < 0.1, series, tl.where(x < 0, -far, far))


@triton.jit
def _forward_kernel(a, c_below, mask, c, h, count, H, columns, HAS_MASK: tl.constexpr,
                    BLOCK: tl.constexpr):
    # in 64 bits, because 4 R H can pass 2^31
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    first = a + at + at // H * (3 * H)            # of i; o, g and f follow in steps of H
    i = _sigmoid(tl.load(first, mask=inside, other=0.0))
    o = _sigmoid(tl.load(first + H, mask=inside, other=0.0))
    g = _tanh(tl.load(first + 2 * H, mask=inside, other=0.0))
    f = _sigmoid(tl.load(first + 3 * H, mask=inside, other=0.0))
    cell = f * tl.load(c_below + at, mask=inside, other=0.0) + i * g
    hidden = o * _tanh(cell)
    if HAS_MASK:
        hidden *= tl.load(mask + at % columns, mask=inside, other=0.0)
    tl.store(first, i, mask=inside)
    tl.store(first + H, o, mask=inside)
    tl.store(first + 2 * H, g, mask=inside)
    tl.store(first + 3 * H, f, mask=inside)
    tl.store(c + at, cell, mask=inside)
    tl.store(h + at, hidden, mask=inside)


@triton.jit
def _backward_kernel(gates, c_below, c, mask, dh, dc, da, dc_below, h, count, H, columns,
                     HAS_MASK: tl.constexpr, OF_MASKED: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    first = at + at // H * (3 * H)
    i = tl.load(gates + first, mask=inside, other=0.0)
    o = tl.load(gates + first + H, mask=inside, other=0.0)
    g = tl.load(gates + first + 2 * H, mask=inside, other=0.0)
    f = tl.load(gates + first + 3 * H, mask=inside, other=0.0)
    below = tl.load(c_below + at, mask=inside, other=0.0)
    tanh_c = _tanh(tl.load(c + at, mask=inside, other=0.0))
    d_hidden = tl.load(dh + at, mask=inside, other=0.0)
    if OF_MASKED:
        d_hidden *= tl.load(mask + at % columns, mask=inside, other=0.0)
    d_cell = tl.load(dc + at, mask=inside, other=0.0) + d_hidden * o * (1 - tanh_c * tanh_c)
    tl.store(da + first, d_cell * g * i * (1 - i), mask=inside)
    tl.store(da + first + H, d_hidden * tanh_c * o * (1 - o), mask=inside)
    tl.store(da + first + 2 * H, d_cell * i * (1 - g * g), mask=inside)
    tl.store(da + first + 3 * H, d_cell * below * f * (1 - f), mask=inside)
    tl.store(dc_below + at, d_cell * f, mask=inside)
    hidden = o * tanh_c
    if HAS_MASK:
        hidden *= tl.load(mask + at % columns, mask=inside, other=0.0)
    tl.store(h + at, hidden, mask=inside)


def _launch(kernel, mask, c, *arrays, **options):
    options |= {"HAS_MASK": mask is not None, "BLOCK": BLOCK, "num_warps": WARPS}
    with torch.cuda.device_of(c):  # Triton launches on the current device, which need not be c's
        kernel[(triton.cdiv(c.numel(), BLOCK),)](*arrays, c.numel(), c.shape[-1],
                                                 c[0].numel(), **options)


def forward(a, c_below, mask, dtype):
    """a (T,N,4H), which becomes the gates, c_below (T,N,H), mask (N,H) or None -> the gates, c, and
    h in `dtype`."""
    a, c_below = a.contiguous(), c_below.contiguous()
    mask = None if mask is None else mask.contiguous()
    c = torch.empty_like(c_below)
    h = torch.empty_like(c_below, dtype=dtype)
    _launch(_forward_kernel, mask, c, a, c_below, mask, c, h)
    return a, c, h


def backward(gates, c_below, c, mask, dh, dc, dtype, of_masked=False, into=None):
    """The gradients of a (T,N,4H) and c_below (T,N,H), given dh and dc; and h again. dh is of the
    masked h, or of the unmasked. into: dense memory for the gradient of c_below, or None."""
    c_below, dh, dc = (t.contiguous() for t in (c_below, dh, dc))
    mask = None if mask is None else mask.contiguous()
    da, dc_below = torch.empty_like(gates), torch.empty_like(c) if into is None else into
    h = torch.empty_like(c, dtype=dtype)
    _launch(_backward_kernel, mask, c, gates, c_below, c, mask, dh, dc, da, dc_below, h,
            OF_MASKED=of_masked and mask is not None)
    return da, dc_below, h
