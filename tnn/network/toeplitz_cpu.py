"""The circular convolution of toeplitz.py on a CPU, some rows at a time.

A row's padded copy, spectrum and inverse transform then stay in the cache; over all rows at once
each of them is fresh memory, which costs as much as the transforms themselves. The batch is the
inner loop, because the spectrum A of a chunk of rows serves every sample of it.

Notation: B batch, R rows (each with its own coefficients), n length, K lags 0 .. K-1, L
coefficients, N length of the FFT (`size`), F = N / 2 + 1 frequencies. The sequence is the last
axis everywhere. x and dy may be bfloat16 or float16: the copies that pad them widen them as well,
and those that keep the first n numbers of a transform round them. Short transforms are computed in
double precision: all numbers of a transform get an error of the size of the largest one's rounding,
most of what a small model loses to single precision; there they cost little.
"""

from typing import Any

import torch
from torch import Tensor

CACHE = 1 << 16  # floats of one array; a handful of such arrays fit a core's second-level cache
SHORT = 128      # N up to which transforms are in double precision


def spectrum(t: Tensor, K: int, size: int) -> Tensor:
    """t (R, L) -> A (R, F), the transform of the circulant's first column: lags 0 .. K-1 first,
    negative lags at the end."""
    rows, length = t.shape
    dtype = torch.float64 if size <= SHORT else t.dtype
    A = torch.empty(rows, size // 2 + 1, dtype=_complex(dtype))
    column = _zeros(rows, size, dtype)
    for chunk in _chunks(rows, size):
        part, filled = t[chunk], column[: chunk.stop - chunk.start]
        filled[:, :K] = part[:, :K]
        if length > K:
            filled[:, size - (length - K):] = part[:, K:]
        torch.fft.rfft(filled, out=A[chunk])
    return A


def forward(x: Tensor, A: Tensor, size: int, keep: bool) -> tuple[Tensor, Tensor | None]:
    """x (B, R, n), A (R, F) -> y (B, R, n) and, if keep, the spectra X (B, R, F) of x."""
    batch, rows, n = x.shape
    y, source = _output_and_source(x)
    X = torch.empty(batch, rows, size // 2 + 1, dtype=A.dtype) if keep else None
    padded = _zeros(rows, size, A.real.dtype)
    for chunk in _chunks(rows, size):
        for b in range(batch):
            spectrum = _padded_rfft(source[b, chunk], padded)
            if keep:
                X[b, chunk] = spectrum
            y[b, chunk] = torch.fft.irfft(spectrum.mul_(A[chunk]), size)[:, :n]
    return _laid_out_as(x, y), X


def backward(dy: Tensor, X: Tensor | None, A: Tensor | None, t: Tensor, size: int, K: int
             ) -> tuple[Tensor | None, Tensor | None]:
    """dy (B, R, n) -> dx (B, R, n), or None without A, and dt, like t (R, L), or None without X;
    the first K coefficients are those of lags 0, 1, 2 ..., the others end with lag -1."""
    batch, rows, n = dy.shape
    length = t.shape[-1]
    dx, source = _output_and_source(dy)
    real = (X if A is None else A).real.dtype
    dt = None if X is None else torch.empty_like(t)
    padded = _zeros(rows, size, real)
    for chunk in _chunks(rows, size):
        conj_A = None if A is None else A[chunk].conj_physical()
        total: Any = 0  # of X conj(G) over the batch, the conjugate of dt's spectrum: one inverse
        for b in range(batch):
            G = _padded_rfft(source[b, chunk], padded)
            if A is not None:
                dx[b, chunk] = torch.fft.irfft(G * conj_A, size)[:, :n]
            if X is not None:
                total = G.conj_physical_().mul_(X[b, chunk]).add_(total)
        if X is not None:
            column = torch.fft.irfft(total.conj_physical_(), size)
            dt[chunk, :K] = column[:, :K]
            if length > K:
                dt[chunk, K:] = column[:, size - (length - K):]
    return (None if A is None else _laid_out_as(dy, dx)), dt


def _output_and_source(x):
    """Memory for the result, and x with the sequence axis contiguous: x itself, or else a
    transposed copy in the result's memory, where each row is read before it is overwritten."""
    y = torch.empty(x.shape, dtype=x.dtype)
    if x.stride(-1) == 1:
        return y, x
    for b in range(len(x)):  # torch transposes a matrix, not a batch of them, by blocks
        y[b].copy_(x[b])
    return y, y


def _laid_out_as(x, y):
    """y with x's order of axes in memory: element-wise operations on tensors of different orders
    are several times slower than a transposition."""
    if x.stride(-1) == 1:
        return y
    out = torch.empty(y.shape[0], y.shape[2], y.shape[1], dtype=y.dtype)
    for b in range(len(y)):
        out[b].copy_(y[b].t())
    return out.transpose(1, 2)


def _chunks(rows, size):
    step = _rows_at_a_time(size)
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]


def _rows_at_a_time(size):
    return max(CACHE // size, 1)


def _zeros(rows, size, dtype):
    return torch.zeros(min(_rows_at_a_time(size), rows), size, dtype=dtype)


def _complex(dtype):
    return torch.complex128 if dtype == torch.float64 else torch.complex64


def _padded_rfft(rows, padded):
    padded = padded[: len(rows)]
    padded[:, : rows.shape[1]] = rows  # the rest stays zero
    return torch.fft.rfft(padded)
