"""The two functions that rms_norm.py needs, as Triton kernels.

Notation: R rows, d their width. A program owns a row. Sums are kept in float32, or in float64 for
float64 arrays. Imported only where a CUDA tensor arrives; TRITON_INTERPRET=1 runs it on a CPU (the
tests).
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _forward_kernel(x, y, r, d, eps, SUM: tl.constexpr, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = at < d
    values = tl.load(x + row * d + at, mask=inside, other=0.0).to(SUM)
    rms = tl.sqrt(tl.sum(values * values) / d)
    tl.store(y + row * d + at, values / (rms + eps), mask=inside)
    tl.store(r + row, rms)


@triton.jit
def _backward_kernel(x, r, dy, dx, d, eps, SUM: tl.constexpr, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = at < d
    values = tl.load(x + row * d + at, mask=inside, other=0.0).to(SUM)
    grad = tl.load(dy + row * d + at, mask=inside, other=0.0).to(SUM)
    rms = tl.load(r + row)
    scale = 1 / (rms + eps)
    # Where rms is 0 so is every value, and the second term.
    along = tl.sum(grad * values) * scale / (d * tl.where(rms > 0, rms, 1.0))
    tl.store(dx + row * d + at, scale * (grad - values * along), mask=inside)


def _launch(kernel, x, eps, *arrays):
    width = x.shape[-1]
    block = triton.next_power_of_2(width)
    total = tl.float64 if x.dtype == torch.float64 else tl.float32
    with torch.cuda.device_of(x):  # Triton launches on the current device, which need not be x's
        kernel[(x.numel() // width,)](*arrays, width, eps, SUM=total, BLOCK=block,
                                      num_warps=min(max(block // 256, 1), 16))


def forward(x, eps):
    """x (..., d) contiguous -> y like x, and r (...) in float32 or float64."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    y, r = torch.empty_like(x), torch.empty(x.shape[:-1], dtype=wide, device=x.device)
    _launch(_forward_kernel, x, eps, x, y, r)
    return y, r


def backward(x, r, dy, eps):
    """The gradient of x, given dy."""
    dx = torch.empty_like(x)
    _launch(_backward_kernel, x, eps, x, r, dy, dx)
    return dx
