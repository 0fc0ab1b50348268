"""The circular convolution of toeplitz.py on a CPU, some rows at a time, so that what lies between
two transforms stays in the cache: fresh memory costs as much as the transforms themselves.

Letters: B batch, R rows (each with its own coefficients), n length, L coefficients, N length of the
FFT, F = N / 2 + 1 frequencies. The sequence is the last axis everywhere.
"""

import torch
from torch import Tensor

CACHE = 1 << 16  # floats of one array; a handful of such arrays fit a core's second-level cache


def spectrum(t: Tensor, p: int, size: int) -> Tensor:
    """t (R, L) -> A (R, F), the transform of the circulant's first column: lags 0 .. p-1 first,
    negative lags at the end."""
    rows, lags = t.shape
    A = torch.empty(rows, size // 2 + 1, dtype=_complex(t))
    column = _zeros(t, rows, size)
    for chunk in _chunks(rows, size):
        part, filled = t[chunk], column[: chunk.stop - chunk.start]
        filled[:, :p] = part[:, :p]
        if lags > p:
            filled[:, size - (lags - p):] = part[:, p:]
        torch.fft.rfft(filled, out=A[chunk])
    return A


def forward(x: Tensor, A: Tensor, size: int, keep: bool) -> tuple[Tensor, Tensor | None]:
    """x (B, R, n), A (R, F) -> y (B, R, n) and, if keep, the spectra X (B, R, F) of x."""
    batch, rows, n = x.shape
    y, source = _output_and_source(x)
    X = torch.empty(batch, rows, size // 2 + 1, dtype=A.dtype) if keep else None
    padded = _zeros(x, rows, size)
    for chunk in _chunks(rows, size):
        for b in range(batch):
            spectrum = _padded_rfft(source[b, chunk], padded)
            if keep:
                X[b, chunk] = spectrum
            y[b, chunk] = torch.fft.irfft(spectrum.mul_(A[chunk]), size)[:, :n]
    return _laid_out_as(x, y), X


def backward(dy: Tensor, X: Tensor | None, A: Tensor | None, lags: int, size: int,
             positive: int | None = None):
    """dy (B, R, n) -> dx (B, R, n), or None without A, and dt (R, lags), or None without X; the
    first `positive` (n) of the lags are 0, 1, 2 ..., the others end with -1."""
    batch, rows, n = dy.shape
    p = positive or n
    dx, source = _output_and_source(dy)
    dt = None if X is None else dy.new_empty(rows, lags)
    padded = _zeros(dy, rows, size)
    for chunk in _chunks(rows, size):
        conj_A = None if A is None else A[chunk].conj_physical()
        total = 0  # of X conj(G) over the batch: the spectrum of dt, conjugated
        for b in range(batch):
            G = _padded_rfft(source[b, chunk], padded)
            if A is not None:
                dx[b, chunk] = torch.fft.irfft(G * conj_A, size)[:, :n]
            if X is not None:
                total = G.conj_physical_().mul_(X[b, chunk]).add_(total)
        if X is not None:
            column = torch.fft.irfft(total.conj_physical_(), size)
            dt[chunk, :p] = column[:, :p]
            if lags > p:
                dt[chunk, p:] = column[:, size - (lags - p):]
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


def _zeros(x, rows, size):
    return x.new_zeros(min(_rows_at_a_time(size), rows), size)


def _complex(x):
    return torch.complex128 if x.dtype == torch.float64 else torch.complex64


def _padded_rfft(rows, padded):
    padded = padded[: len(rows)]
    padded[:, : rows.shape[1]] = rows  # the rest stays zero
    return torch.fft.rfft(padded)

