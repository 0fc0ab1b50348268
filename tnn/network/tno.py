"""The Toeplitz neural operator (sections 3.2 to 3.4): a Toeplitz matrix per channel, its
coefficients from the relative position encoder, damped by g^|lag|.

Letters: b batch, h heads, n length, d channels per head, L lags (n causal, else 2n - 1).
"""

import math

import torch
from torch import Tensor, nn

from tnn.network.activations import activation
from tnn.network.rpe import Rpe
from tnn.network.toeplitz import (
    DENSE_UP_TO,
    HALF,
    kernel_spectrum,
    toeplitz_matrix,
    toeplitz_plain,
    toeplitz_product,
    toeplitz_with_spectrum,
)

# A coefficient that decay has made smaller than this, the first being 1, is taken for zero: with
# g = 0.99 all those of one output sum to 1e-7 at most, float32 rounding and below that of the
# transforms. Lags are cut in float32 only, and only where that makes the transforms faster.
VANISHED = 1e-9
SHORTEST_CUT = 2500  # positions, from where on shorter transforms were measured to be faster


def lags_until(g: float) -> float:
    """Number of lags k with g^k >= VANISHED (and the next one); infinite without decay."""
    if g >= 1:
        return math.inf
    return math.ceil(math.log(VANISHED) / math.log(g)) + 1 if g else 1


def powers(g: Tensor, n: int) -> Tensor:
    """g (h, 1, d) -> (h, n, d), row k = g^k. By doubling: some ten products of whole blocks in
    place of a power for each entry, which costs as much as an FFT."""
    rows, top = torch.ones_like(g), g
    while rows.shape[1] < n:
        rows, top = torch.cat([rows, rows * top], dim=1), top * top
    return rows[:, :n]


class Tno(nn.Module):
    """Mixes along the sequence: x (b, h, n, d) -> (b, h, n, d).

    h heads of dim channels; rpe_dim, layers, residual, act, bias, norm_type describe the position
    encoder. use_decay keeps the factor g = gamma fixed (equation 10), use_multi_decay learns it
    within (gamma, 1). act_type is applied to the damped coefficients. par_type says what the
    encoder sees of lag k: 1 k itself, 2 k / (n-1), 3 exp(k / (n-1)); only with 1 do the
    coefficients not depend on n. par_type 3 is causal only: ValueError otherwise. far_lags=True
    keeps the lags whose coefficients decay makes smaller than VANISHED, too.
    """

    def __init__(self, h: int, dim: int, rpe_dim: int, causal: bool = False,
                 use_decay: bool = False, use_multi_decay: bool = False, residual: bool = False,
                 act: str = "relu", par_type: int = 1, gamma: float = 0.999, bias: bool = True,
                 act_type: str = "none", layers: int = 3, norm_type: str = "simplermsnorm",
                 far_lags: bool = False):
        super().__init__()
        if par_type not in (1, 2, 3):
            raise ValueError(f"Tno: par_type is 1, 2 or 3, not {par_type}")
        if par_type == 3 and not causal:
            raise ValueError("Tno: par_type 3 needs causal=True")
        self.h, self.dim, self.causal, self.par_type = h, dim, causal, par_type
        self.act_type, self.far_lags = act_type, far_lags
        self.use_decay, self.use_multi_decay = use_decay, use_multi_decay
        self.lam = gamma
        self.rpe = Rpe(rpe_dim, h * dim, residual, act, bias, layers, norm_type)
        # Frozen, yet a parameter: checkpoints and published parameter counts hold it.
        if use_decay:
            self.gamma = nn.Parameter(torch.full((h, 1, dim), gamma), requires_grad=False)
        elif use_multi_decay:
            self.gamma = nn.Parameter(torch.randn(h, 1, dim))
        self._kept = None  # (key, coefficients or spectrum) of the last length, in evaluation
        self._vanishing = None  # (key, first lag whose coefficients have vanished)

    def forward(self, x: Tensor, dim: int = -2, normalize: bool = False) -> Tensor:
        """x (b, h, n, d), or with the sequence on another axis `dim` -> the same shape. With
        normalize each output is divided by its matrix row's sum."""
        x = x.movedim(dim, -2)
        y = self._product(x)
        if normalize:
            y = y / self._product(x.new_ones(x.shape[-3:]))
        return y.movedim(-2, dim)

    def coefficients(self, n: int) -> Tensor:
        """t (h, L, d): lags 0 .. n-1 and, unless causal, -(n-1) .. -1."""
        t, g = self.undecayed(n), self.decay()
        if g is not None:
            damping = powers(g, n)
            if not self.causal:
                damping = torch.cat([damping, damping[:, 1:].flip(1)], dim=1)
            t = t * damping
        return activation(self.act_type)(t)

    def undecayed(self, n: int) -> Tensor:
        """r (h, L, d): what the position encoder says of these lags."""
        lags = torch.arange(n, device=self.rpe.pos_proj.weight.device)
        if not self.causal:
            lags = torch.cat([lags, torch.arange(1 - n, 0, device=lags.device)])
        r = self.rpe(self._positions(lags, n).unsqueeze(-1))  # (L, h d)
        return r.view(len(lags), self.h, self.dim).transpose(0, 1)

    def decay(self) -> Tensor | None:
        """g (h, 1, d), or None. If both kinds are asked for, the fixed one is meant."""
        if self.use_decay:
            return self.gamma
        if self.use_multi_decay:
            gamma = self.gamma.float() if self.gamma.dtype in HALF else self.gamma
            return self.lam + (1 - self.lam) * torch.sigmoid(gamma)
        return None

    def toeplitz_matrix(self, x: Tensor, dim: int = -2) -> Tensor:
        """forward by the dense matrix: O(n^2), for checks."""
        x = x.movedim(dim, -2)
        return toeplitz_plain(x, self.coefficients(x.shape[-2])).movedim(-2, dim)

    toeplizt_matrix = toeplitz_matrix  # the original's spelling

    def matrix(self, n: int) -> Tensor:
        """The dense matrices T (h, n, n, d)."""
        return toeplitz_matrix(self.coefficients(n).transpose(-1, -2), n).movedim(1, -1)

    def _apply(self, fn, *args, **kwargs):
        """What .to() and .half() call. The frozen decay stays in single precision: 0.99 would be
        0.988 in bfloat16, half as much after 512 positions."""
        exact = self.gamma.detach().clone() if self.use_decay else None
        super()._apply(fn, *args, **kwargs)
        if exact is not None and self.gamma.dtype in HALF:
            self.gamma.data = exact.float().to(self.gamma.device)
        return self

    def train(self, mode: bool = True):
        self._forget()
        return super().train(mode)

    def _load_from_state_dict(self, *args, **kwargs):
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)

    def _positions(self, lags, n):
        if self.par_type == 1:
            return lags.float()
        share = lags.float() / max(n - 1, 1)
        return share if self.par_type == 2 else share.exp()

    def _product(self, x):
        n = x.shape[-2]
        lags = self._lags(n, x.dtype)
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return toeplitz_product(x, self.coefficients(lags), lags=lags)
        kept = self._kept_for(n, lags)
        if n <= DENSE_UP_TO:
            return toeplitz_product(x, kept)
        return toeplitz_with_spectrum(x, kept, lags=lags)

    def _lags(self, n, dtype):
        """How many lags need coefficients: n, or fewer where decay has made the others vanish."""
        if (self.far_lags or not self.use_decay or self.par_type != 1 or self.act_type != "none"
                or dtype == torch.float64 or n < SHORTEST_CUT or torch.compiler.is_compiling()):
            return n
        key = self.gamma.data_ptr(), 0 if self.gamma.is_inference() else self.gamma._version
        if self._vanishing is None or self._vanishing[0] != key:
            self._vanishing = key, lags_until(self.gamma.abs().max().item())
        return min(self._vanishing[1], n)

    def _kept_for(self, n, lags):
        """Coefficients (short n) or their spectrum, computed once per length and state of the
        weights."""
        key = (n, lags, *((p.data_ptr(), 0 if p.is_inference() else p._version)
                          for p in self.parameters()))
        if self._kept is None or self._kept[0] != key:
            t = self.coefficients(lags)
            if n > DENSE_UP_TO:
                t = kernel_spectrum(t, n, lags=lags)
            self._kept = key, t
        return self._kept[1]

    def _forget(self):
        self._kept = None
