"""What both Toeplitz operators share: decay, lag cut, product and cache (sections 3.2 to 3.4).

Notation: B batch, h heads, d channels per head, E = h d rows (channels with coefficients of their
own), n length, K number of lags 0 .. K-1 with coefficients, L = K coefficients of a row if causal,
else 2K - 1, in toeplitz.py's order.

    y_i = sum_j t(i - j) x_j        t(k) = act( g^|k| r(k) )        r: a small network

Two classes say what r is: Tno for the language and image models, tnn.lra.toeplitz.Toeplitz for the
Long Range Arena. They stay two because their checkpoints do: the originals are two code bases,
with other encoders under other names in the state_dict (rpe.layers, or dpb.pos1), other options,
and other draws from a seed.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tnn.network.kept import KeepingModule
from tnn.network.toeplitz import (
    DENSE_UP_TO,
    HALF,
    kernel_spectrum,
    toeplitz_matrix,
    toeplitz_plain,
    toeplitz_product,
    toeplitz_with_spectrum,
)

VANISHED = 1e-9


def lags_until(g: float, vanished: float = VANISHED) -> float:
    """Number of lags k with g^k >= vanished (and the next one); infinite without decay."""
    if g >= 1 or not vanished:
        return math.inf
    return math.ceil(math.log(vanished) / math.log(g)) + 1 if g else 1


def powers(g: Tensor, n: int) -> Tensor:
    """g (..., d) -> (..., n, d), row k = g^k to half a unit in the last place.

    One power for each entry. Products of powers are off by k roundings (3e-5 at k = 4096 in single
    precision), and in double precision they take twice the time of this.
    """
    return g.unsqueeze(-2) ** torch.arange(n, device=g.device).unsqueeze(-1)


class ToeplitzOperator(KeepingModule):
    """Base of the two. A subclass has an encoder and a method kernel(n, lags) for t (E, L)."""

    def __init__(self, h: int, dim: int, causal: bool, par_type: int, gamma: float,
                 act: Callable[[Tensor], Tensor]):
        super().__init__()
        if par_type not in (1, 2, 3):
            raise ValueError(f"{type(self).__name__}: par_type is 1, 2 or 3, not {par_type}")
        if par_type == 3 and not causal:
            raise ValueError(f"{type(self).__name__}: par_type 3 needs causal=True")
        self.h, self.dim, self.causal, self.par_type = h, dim, causal, par_type
        self.act, self.lam = act, gamma
        self.act_of_zero = act(torch.zeros(1, device="cpu")).item()
        self.use_decay = self.use_multi_decay = False

    def add_decay(self, fixed: bool, learnt: bool) -> None:
        """The parameter gamma (h, 1, d). If both kinds are asked for, the fixed one is meant."""
        self.use_decay, self.use_multi_decay = fixed, learnt
        # Frozen, yet a parameter: checkpoints and published parameter counts hold it.
        if fixed:
            self.gamma = nn.Parameter(torch.full((self.h, 1, self.dim), float(self.lam)),
                                      requires_grad=False)
        elif learnt:
            self.gamma = nn.Parameter(torch.randn(self.h, 1, self.dim))

    def kernel(self, n: int, lags: int | None = None) -> Tensor:
        """t (E, L) for length n: of all n lags, or of the first K = lags of them."""
        raise NotImplementedError

    # ------------------------------------------------------------------------ coefficients
    def lag_list(self, start: int, stop: int, device: torch.device) -> Tensor:
        """start .. stop-1 and, unless causal, -(stop-1) .. -start, no lag twice: integers (L,)."""
        ahead = torch.arange(start, stop, device=device)
        if self.causal:
            return ahead
        return torch.cat([ahead, torch.arange(1 - stop, 1 - max(start, 1), device=device)])

    def positions(self, lags: Tensor, count: int) -> Tensor:
        """What the encoder sees of integer lags (L,) out of `count`: floats (L, 1)."""
        if self.par_type == 1:
            seen = lags.float()
        else:
            share = lags.float() / max(count - 1, 1)
            seen = share if self.par_type == 2 else share.exp()
        return seen.unsqueeze(-1)

    def decay(self) -> Tensor | None:
        """g (h, 1, d), or None."""
        if self.use_decay:
            return self.gamma
        if self.use_multi_decay:
            gamma = self.gamma.float() if self.gamma.dtype in HALF else self.gamma
            return self.lam + (1 - self.lam) * torch.sigmoid(gamma)
        return None

    def damping(self, K: int) -> Tensor | None:
        """g^|k| (L, E), or None without decay. That of a fixed decay is kept, in training too: it
        takes as long as an FFT of a sequence, and K E numbers."""
        if self._decay_is_frozen():
            return self.kept.get("damping", K, [self.gamma], lambda: self._damping(K))
        return self._damping(K)

    def _decay_is_frozen(self):
        """Can what follows from it be kept?"""
        return (self.use_decay and not self.gamma.requires_grad
                and not torch.compiler.is_compiling())

    def _damping(self, K):
        g = self.decay()
        if g is None:
            return None
        ahead = powers(g.flatten(), K)
        return ahead if self.causal else torch.cat([ahead, ahead[1:].flip(0)])

    def activated(self, t: Tensor) -> Tensor:
        """act over the channels of each head: (L, E) -> (L, E)."""
        return self.act(t.unflatten(-1, (self.h, -1))).flatten(-2)

    # ------------------------------------------------------------------------- the lag cut
    def vanished(self, dtype: torch.dtype) -> float:
        """A coefficient that decay has made smaller than this, t(0) being of the order of 1, is
        taken for zero.

        With 1e-9 those of one output sum to 1e-9 / (1 - g): 1e-7 for the published 0.99, which is
        the rounding of float32 and below that of the transforms; of 8192 lags 2063 are left. In
        double precision nothing is left out.
        """
        return 0.0 if dtype == torch.float64 else VANISHED

    def reach(self, dtype: torch.dtype) -> float:
        """Number of lags until decay has made the coefficients vanish; infinite if it does not,
        or if act makes something of zero."""
        g = self.decay()
        if g is None or self.act_of_zero:
            return math.inf
        return lags_until(g.abs().max().item(), self.vanished(dtype))

    def lags_that_count(self, n: int, dtype: torch.dtype) -> int:
        """How many of n lags need coefficients. Only a fixed decay leaves some out: a learnt one
        changes with every update, and to look at it stops a GPU."""
        if not self._decay_is_frozen():
            return n
        return min(n, self.kept.get("reach", self.vanished(dtype), [self.gamma],
                                    lambda: self.reach(dtype)))

    # ------------------------------------------------------------------------- the product
    def mix(self, x: Tensor, normalize: bool = False) -> Tensor:
        """x (B, E, n) -> the same. With normalize each output is divided by its matrix row's sum.

        In evaluation without gradients the coefficients' spectrum is kept (kept.py). Raises
        ValueError for no position.
        """
        n = x.shape[-1]
        if n == 0:
            raise ValueError(f"{type(self).__name__} takes sequences of at least one position, not "
                             f"x (B, E, n) = {tuple(x.shape)}")
        K = self.lags_that_count(n, x.dtype)
        if (self.training or torch.is_grad_enabled() or n <= DENSE_UP_TO
                or torch.compiler.is_compiling()):
            t = self.kernel(n, K)

            def product(x):
                return toeplitz_product(x, t, dim=-1, lags=K)
        else:
            A = self.kept.get("spectrum", (n, K), self.parameters(), lambda: kernel_spectrum(
                self.kernel(n, K), n, dim=-1, lags=K))

            def product(x):
                return toeplitz_with_spectrum(x, A, dim=-1, lags=K)
        y = product(x)
        return y / product(x.new_ones(1, *x.shape[1:])) if normalize else y

    def matrices(self, n: int, normalize: bool = False) -> Tensor:
        """The dense matrices T (E, n, n)."""
        T = toeplitz_matrix(self.kernel(n), n)
        return T / T.sum(-1, keepdim=True) if normalize else T

    def plain(self, x: Tensor) -> Tensor:
        """mix as the equation stands, by dense matrices and with all lags: the reference."""
        return toeplitz_plain(x, self.kernel(x.shape[-1]), dim=-1)

    def _apply(self, fn, *args, **kwargs):
        """What .to() and .half() call. The frozen decay stays in single precision: 0.99 would be
        0.988 in bfloat16, half as much after 512 positions."""
        exact = self.gamma.detach().clone() if self.use_decay else None
        super()._apply(fn, *args, **kwargs)
        if exact is not None and self.gamma.dtype in HALF:
            self.gamma.data = exact.float().to(self.gamma.device)
        return self
