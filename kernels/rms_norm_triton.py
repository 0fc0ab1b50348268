"""The two functions that rms_norm.py needs, as Triton kernels.

Notation: R rows, d their width. A program owns some whole rows. Sums are kept in float32, or in
float64 for float64 arrays. Imported only where a CUDA tensor arrives; TRITON_INTERPRET=1 runs it on
a CPU (the tests).
"""

import torch
import triton
import triton.language as tl

TILE = 2048  # numbers that a program holds at a time, in as many whole rows as that makes


@triton.jit
def _places(R, d, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    # in 64 bits, because R d can pass 2^31
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    return row, row[:, None] * d + column[None, :], (row < R)[:, None] & (column < d)[None, :]


@triton.jit
def _forward_kernel(x, y, r, R, d, eps, SUM: tl.constexpr, ROWS: tl.constexpr,
                    BLOCK: tl.constexpr):
    row, at, inside = _places(R, d, ROWS, BLOCK)
    values = tl.load(x + at, mask=inside, other=0.0).to(SUM)
    rms = tl.sqrt(tl.sum(values * values, axis=1) / d)
    tl.store(y + at, values / (rms + eps)[:, None], mask=inside)
    tl.store(r + row, rms, mask=row < R)


@triton.jit
def _backward_kernel(x, r, dy, dx, R, d, eps, SUM: tl.constexpr, ROWS: tl.constexpr,
                     BLOCK: tl.constexpr):
    row, at, inside = _places(R, d, ROWS, BLOCK)
    values = tl.load(x + at, mask=inside, other=0.0).to(SUM)
    grad = tl.load(dy + at, mask=inside, other=0.0).to(SUM)
    rms = tl.load(r + row, mask=row < R, other=1.0)
    scale = 1 / (rms + eps)
    # Where rms is 0 so is every value, and the second term.
    along = tl.sum(grad * values, axis=1) * scale / (d * tl.where(rms > 0, rms, 1.0))
    tl.store(dx + at, scale[:, None] * (grad - values * along[:, None]), mask=inside)


def _launch(kernel, x, eps, *arrays):
    width = x.shape[-1]
    block, rows = triton.next_power_of_2(width), x.numel() // width
    each = max(TILE // block, 1)
    total = tl.float64 if x.dtype == torch.float64 else tl.float32
    with torch.cuda.device_of(x):  # Triton launches on the current device, which need not be x's
        kernel[(triton.cdiv(rows, each),)](*arrays, rows, width, eps, SUM=total, ROWS=each,
                                           BLOCK=block, num_warps=min(max(block // 512, 4), 16))


def forward(x, eps, dtype=None):
    """x (..., d) contiguous -> y like x, in `dtype` (None: x's), and r (...) in float32 or
    float64."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    y = torch.empty_like(x, dtype=dtype or x.dtype)
    r = torch.empty(x.shape[:-1], dtype=wide, device=x.device)
    _launch(_forward_kernel, x, eps, x, y, r)
    return y, r


def backward(x, r, dy, eps):
    """The gradient of x, given dy."""
    dx = torch.empty_like(x)
    _launch(_backward_kernel, x, eps, x, r, dy, dx)
    return dx
