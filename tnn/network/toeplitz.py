"""Products with Toeplitz matrices: y_i = sum_j t(i - j) x_j (section 3.2, equation 5).

Notation: n length; K number of lags 0 .. K-1 with coefficients; L number of coefficients; N length
of the FFT; ... any further axes.

The coefficients t lie along one axis in the order of a circulant's first column:

    causal         L = K        t(0) t(1) .. t(K-1)                       t(-k) = 0
    bidirectional  L = 2K - 1   t(0) t(1) .. t(K-1)  t(-(K-1)) .. t(-1)

so their number says which of the two is meant. K = n unless `lags` says that all coefficients from
some lag on are zero and left out: the circulant is then shorter, and so are the transforms.

toeplitz_plain is the equation, a product with the dense matrix: O(n^2). toeplitz_product gives the
same numbers in O(n log n): a Toeplitz matrix is the corner of a circulant one, which the Fourier
transform makes diagonal. Which is faster depends on how many lines share a matrix. Here a matrix
belongs to one channel and serves the batch alone, so that building it costs more than two
transforms from n = 4 on; on the grid of an image it serves all rows at once, and dense products
win up to a hundred or so positions (grid.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

from kernels.library import exporting
from kernels.second_derivatives import plain_gradients, shadow
from tnn.network import toeplitz_cpu

HALF = (torch.float16, torch.bfloat16)
# Up to here the dense product is used: at n = 1 there is nothing to transform. On a CPU transforms
# win from n = 4 on whatever the batch (benchmarks/tnn_operator.py --dense), and at 2 and 3 neither
# takes time.
DENSE_UP_TO = 1


def toeplitz_matrix(t: Tensor, n: int) -> Tensor:
    """Coefficients t (..., L) -> matrix T (..., n, n), T[i, j] = t(i - j).

    Raises ValueError unless L is n or 2n - 1.
    """
    _check_length(t.shape[-1], n)
    before = t[..., n:] if t.shape[-1] > n else t.new_zeros(*t.shape[:-1], n - 1)
    by_lag = torch.cat([before, t[..., :n]], dim=-1)  # lags -(n-1) .. n-1
    # window i of the reversed list starts at lag i; rows i = n-1 .. 0 of T, hence the second flip
    return by_lag.flip(-1).unfold(-1, n, 1).flip(-2)  # (..., n, n)


def toeplitz_plain(x: Tensor, t: Tensor, dim: int = -2) -> Tensor:
    """The equation itself, with the dense matrix: the reference for toeplitz_product."""
    _check_length(t.shape[dim], x.shape[dim])
    return _along_last(_dense, x, t, dim)


def toeplitz_product(x: Tensor, t: Tensor, dim: int = -2, lags: int | None = None) -> Tensor:
    """y_i = sum_j t(i - j) x_j along axis `dim`, counted from the end (negative).

    x (..., n, d) and t (..., L, d) for the default dim = -2; on every other axis they broadcast
    against each other, so t (h, L, d) serves x (b, h, n, d). For an axis further left give t the
    axes between: rows of images x (b, h, H, W, d) take t (h, L, 1, d) and dim = -3.
    Returns y in x's shape and dtype; half precision is computed in float32.
    Raises ValueError if L is neither K nor 2K - 1, K = lags or n.
    """
    n = x.shape[dim]
    K = _number_of_lags(t.shape[dim], n, lags)
    if n <= DENSE_UP_TO:
        return _along_last(_dense, x, t, dim)
    if exporting():
        return _along_last(lambda x, t: _as_convolution(x, t, K), x, t, dim)
    return _along_last(lambda x, t: _CircularConvolution.apply(x, t, K, shadow(x)), x, t, dim)


def toeplitz_with_spectrum(x: Tensor, spectrum: Tensor, dim: int = -2,
                           lags: int | None = None) -> Tensor:
    """toeplitz_product without gradients, for coefficients kept as
    kernel_spectrum(t, n, dim, lags)."""
    size = fft_length(x.shape[dim], lags)
    return _along_last(lambda x, A: _with_spectrum(x, A, size), x, spectrum, dim)


def kernel_spectrum(t: Tensor, n: int, dim: int = -2, lags: int | None = None) -> Tensor:
    """Coefficients t (L on axis dim) -> the spectrum of the circulant's first column, with
    fft_length(n, lags) // 2 + 1 frequencies on that axis."""
    K = _number_of_lags(t.shape[dim], n, lags)
    last = _widened(t.movedim(dim, -1))
    A = _spectrum(last.flatten(0, -2), K, fft_length(n, K))
    return A.view(*last.shape[:-1], -1).movedim(-1, dim)


def fft_length(n: int, lags: int | None = None) -> int:
    """The shortest even N >= n + K - 1 (K = lags or n) with no prime factor above 5.

    With N >= n + K - 1 nothing wraps around into the first n outputs; the FFTs of other lengths
    take up to several times as long.
    """
    size = (n + (lags or n)) // 2 * 2
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2


def _along_last(product, x, t, dim):
    """Calls product(x (B, R, n), t (R, L)), which returns y in x's type: axes over which t is
    shared become one batch axis, the others one axis of rows."""
    x, t = x.movedim(dim, -1), _widened(t.movedim(dim, -1))
    t = t[(None,) * (x.ndim - t.ndim)]
    x = x.expand(*torch.broadcast_shapes(x.shape[:-1], t.shape[:-1]), x.shape[-1])
    shared = [i for i in range(x.ndim - 1) if t.shape[i] == 1 != x.shape[i]]
    order = shared + [i for i in range(x.ndim) if i not in shared]
    moved = x.permute(order)
    rows = t.permute(order).flatten(0, -2)  # (R, L)
    # Autocast would compute the products in half precision.
    with torch.autocast(x.device.type, enabled=False):
        y = product(moved.reshape(-1, len(rows), x.shape[-1]), rows)  # (B, R, n)
    y = y.reshape(moved.shape).permute([order.index(i) for i in range(x.ndim)])
    return y.movedim(-1, dim)


def _check_length(length, n):
    if length not in (n, 2 * n - 1):
        raise ValueError(f"toeplitz: {length} coefficients for length {n}; a causal matrix takes "
                         f"{n}, a bidirectional one {2 * n - 1}")


def _number_of_lags(length, n, lags):
    """K, once `length` is seen to fit it."""
    if lags is not None and not 0 < lags <= n:
        raise ValueError(f"toeplitz: {lags} lags for length {n}; there are 1 to {n}")
    _check_length(length, lags or n)
    return lags or n


def _wide_type(x):
    return torch.float32 if x.dtype in HALF else x.dtype


def _widened(x):
    return x.to(_wide_type(x))


def _dense(x, t):
    matrices = toeplitz_matrix(t, x.shape[-1])  # (R, n, n)
    y = torch.bmm(matrices, _widened(x).permute(1, 2, 0))
    return y.permute(2, 0, 1).contiguous().to(x.dtype)  # (B, R, n)


def _as_convolution(x, t, K):
    """The equation as a depthwise convolution, for exported graphs: other runtimes have no
    transform of complex numbers. x (B, R, n), t (R, L) -> (B, R, n)."""
    ahead = 0 if t.shape[-1] == K else K - 1
    falling = torch.cat([t[:, K:], t[:, :K]], dim=-1).flip(-1)  # lags K-1 .. 0 or -(K-1)
    wide = F.pad(_widened(x), (K - 1, ahead))
    return F.conv1d(wide, falling[:, None], groups=len(t)).to(x.dtype)


def _spectrum(t, K, size):
    """t (R, L) -> A (R, F)."""
    if t.device.type == "cpu":
        return toeplitz_cpu.spectrum(t, K, size)
    return torch.fft.rfft(_circulant(t, K, size))


def _with_spectrum(x, A, size):
    """x (B, R, n), A (R, F) -> (B, R, n)."""
    if x.device.type == "cpu":
        return toeplitz_cpu.forward(x, A, size, keep=False)[0]
    return _inverse(_padded_rfft(x, size) * A, size, x)


def _circulant(t, K, size):
    """t (..., L) -> first column (..., size): positive lags first, negative lags at the end."""
    column = t.new_zeros(*t.shape[:-1], size)
    column[..., :K] = t[..., :K]
    if t.shape[-1] > K:
        column[..., size - K + 1:] = t[..., K:]
    return column


def _padded_rfft(x, size):
    # The copy makes the sequence axis contiguous: along a strided one the FFT takes several times
    # as long. It widens half precision, too.
    padded = x.new_zeros(*x.shape[:-1], size, dtype=_wide_type(x))
    padded[..., : x.shape[-1]] = x
    return torch.fft.rfft(padded)


def _inverse(spectrum, size, like):
    """The first n numbers of the inverse transform, contiguous, in the type of `like` (..., n)."""
    return torch.fft.irfft(spectrum, size)[..., : like.shape[-1]].to(like.dtype).contiguous()


def _circular_convolution_plain(x, t, K):
    """_CircularConvolution by autograd's operations."""
    size = fft_length(x.shape[-1], K)
    A = torch.fft.rfft(_circulant(t, K, size))
    return torch.fft.irfft(_padded_rfft(x, size) * A, size)[..., : x.shape[-1]].to(x.dtype)


class _CircularConvolution(Function):
    """x (B, R, n), t (R, L) of K lags -> y (B, R, n). With X, A, G the spectra of x, t and of the
    gradient of y: y = F^-1(X A), dx = F^-1(G conj(A)), dt = F^-1(sum over B of G conj(X)). X and A
    are kept, so each operand is transformed once; autograd of the same formula transforms them
    again and keeps the padded copies too."""

    @staticmethod
    def forward(ctx, x, t, K, x_shadow):
        n = x.shape[-1]
        size = fft_length(n, K)
        keep_X, keep_A = ctx.needs_input_grad[1], ctx.needs_input_grad[0]
        A = _spectrum(t, K, size)
        if x.device.type == "cpu":
            y, X = toeplitz_cpu.forward(x, A, size, keep_X)
        else:
            X = _padded_rfft(x, size)
            y = _inverse(X * A, size, x)
        ctx.lengths = n, K, t.shape[-1], size
        ctx.save_for_backward(X if keep_X else None, A if keep_A else None, t, x_shadow)
        return y

    @staticmethod
    def backward(ctx, dy):
        X, A, t, x_shadow = ctx.saved_tensors
        n, K, length, size = ctx.lengths
        if torch.is_grad_enabled():
            # Without X the coefficients are frozen, and dx does not depend on x.
            x = torch.zeros_like(dy) if X is None else _inverse(X, size, dy)
            x = x if x_shadow is None else x + x_shadow
            return *plain_gradients(lambda x, t: _circular_convolution_plain(x, t, K), (x, t),
                                    [dy]), None, None
        if dy.device.type == "cpu":
            return *toeplitz_cpu.backward(dy, X, A, t, size, K), None, None
        G = _padded_rfft(dy, size)
        dx = dt = None
        if A is not None:
            dx = torch.fft.irfft(G * A.conj(), size)[..., :n].to(dy.dtype)
        if X is not None:
            # sum of conj(X) G in place, as the conjugate of conj(G) X
            column = torch.fft.irfft(G.conj_physical_().mul_(X).sum(0).conj_physical(), size)
            dt = column[..., :K]
            if length > K:
                dt = torch.cat([dt, column[..., size - K + 1:]], dim=-1)
        return dx, dt, None, None
