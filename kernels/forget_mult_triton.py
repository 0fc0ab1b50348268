"""Forget-mult on a GPU: the two functions that forget_mult.py needs, as Triton kernels.

Notation: T time, N = B * H columns. A program owns a block of columns and walks through time, so
that the arrays are read and written once. Sums are kept in float32, or in float64 for float64
arrays. Imported only when a CUDA tensor arrives; TRITON_INTERPRET=1 runs it on a CPU (the tests).
"""

import torch
import triton
import triton.language as tl

BLOCK = 128
# One for each 32 columns: no thread needs another's numbers then, and the loop over time has no
# barrier.
WARPS = BLOCK // 32


@triton.jit
def _forward_kernel(
    f, x, c0, c, T, N, HAS_C0: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr
):
    # in 64 bits, because t * N can pass 2^31
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < N
    state = tl.zeros([BLOCK], dtype=SUM)
    if HAS_C0:
        state = tl.load(c0 + at, mask=inside, other=0.0).to(SUM)
    for _ in range(T):
        f_t = tl.load(f + at, mask=inside, other=0.0).to(SUM)
        x_t = tl.load(x + at, mask=inside, other=0.0).to(SUM)
        state = f_t * x_t + (1 - f_t) * state
        tl.store(c + at, state, mask=inside)
        at += N


@triton.jit
def _backward_kernel(
    f, x, c0, c, dc, df, dx, dc0, T, N, HAS_C0: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr
):
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < N
    at = column + tl.full([BLOCK], N, tl.int64) * (T - 1)
    r = tl.zeros([BLOCK], dtype=SUM)
    for _ in range(T):
        r += tl.load(dc + at, mask=inside, other=0.0).to(SUM)
        f_t = tl.load(f + at, mask=inside, other=0.0).to(SUM)
        x_t = tl.load(x + at, mask=inside, other=0.0).to(SUM)
        # c_{t-1}; the first row has offsets below N
        previous = tl.load(c + at - N, mask=inside & (at >= N), other=0.0).to(SUM)
        if HAS_C0:
            previous += tl.load(c0 + column, mask=inside & (at < N), other=0.0).to(SUM)
        tl.store(dx + at, f_t * r, mask=inside)
        tl.store(df + at, (x_t - previous) * r, mask=inside)
        r -= f_t * r
        at -= N
    if HAS_C0:
        tl.store(dc0 + column, r, mask=inside)


def _launch(kernel, f, c0, *arrays):
    T, N = len(f), f[0].numel()
    total = tl.float64 if f.dtype == torch.float64 else tl.float32
    options = {"HAS_C0": c0 is not None, "SUM": total, "BLOCK": BLOCK, "num_warps": WARPS}
    with torch.cuda.device_of(f):  # Triton launches on the current device, which need not be f's
        kernel[(triton.cdiv(N, BLOCK),)](*arrays, T, N, **options)


def forward(f, x, c0):
    """f, x (T,B,H), c0 (B,H) or None, all contiguous -> c (T,B,H)."""
    c = torch.empty_like(f)
    _launch(_forward_kernel, f, c0, f, x, c0, c)
    return c


def backward(f, x, c0, c, dc):
    """The gradients of f, x (T,B,H) and c0 (B,H, or None), given dc (T,B,H)."""
    df, dx = torch.empty_like(f), torch.empty_like(x)
    dc0 = None if c0 is None else torch.empty_like(c0)
    _launch(_backward_kernel, f, c0, f, x, c0, c, dc, df, dx, dc0)
    return df, dx, dc0
