"""The Toeplitz operator of the Long Range Arena models: y_i = sum_j t(i - j) x_j per channel, with
t(k) = act( g^|k| phi(k) ), phi the position encoder (sections 3.2 to 3.4).

Letters: b batch, h heads, d channels per head, E = h d rows (channels with coefficients of their
own), n length, p number of lags 0 .. p-1; there are p coefficients if causal, else 2p-1.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tnn.lra.rpe import RpeV4
from tnn.network.activations import activation
from tnn.network.rpe import Rpe
from tnn.network.toeplitz import (
    DENSE_UP_TO,
    kernel_spectrum,
    toeplitz_matrix,
    toeplitz_plain,
    toeplitz_product,
    toeplitz_with_spectrum,
)


def relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


MORE_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu2": relu2, "cos": torch.cos, "sin": torch.sin, "swish": F.silu}


def lra_activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of that name; any other name is the identity, as in the original."""
    return MORE_ACTIVATIONS.get(name) or activation(name)


def all_lags(t: Tensor, p: int, n: int) -> Tensor:
    """Coefficients (E, p or 2p-1) with zeros for the lags p .. n-1: (E, n or 2n-1)."""
    zeros = t.new_zeros(len(t), n - p)
    if p == t.shape[1] > 1 or n == 1:
        return torch.cat([t, zeros], dim=1)
    return torch.cat([t[:, :p], zeros, zeros, t[:, p:]], dim=1)


class Toeplitz(nn.Module):
    """x (b, h, n, d) -> the same shape, or with the sequence on another axis.

    n: the published max_l. With use_pad the encoder is asked about lags |k| < n only, and t is
    act(0) beyond; otherwise `n` has no effect. dpb_type 8 is an encoder of `layers` stages with
    parameter-free norms, every other number RpeV4. par_type says what the encoder sees of lag k:
    1 k, 2 k / (number of lags), 3 exp of that, causal only (ValueError otherwise). use_exp makes
    t(k) = exp(clip(log g^|k| + phi(k), -60, 30)), with use_neg_exp of -exp(phi) in place of phi.
    The encoder's activation is ReLU whatever `act` says. key: its name in the state_dict.
    """

    def __init__(self, h: int, n: int, dim: int, dpb_dim: int, causal: bool = False,
                 use_exp: bool = False, use_neg_exp: bool = False, use_decay: bool = False,
                 use_multi_decay: bool = False, residual: bool = False, act: str = "relu",
                 use_pad: bool = False, par_type: int = 1, dpb_type: int = 4,
                 gamma: float = 0.999, bias: bool = True, act_type: str = "none",
                 layers: int = 3, key: str = "dpb"):
        super().__init__()
        if par_type not in (1, 2, 3) or (par_type == 3 and not causal):
            raise ValueError(f"Toeplitz: par_type is 1, 2 or, if causal, 3; not {par_type}")
        self.h, self.dim, self.max_l, self.use_pad = h, dim, n, use_pad
        self.causal, self.par_type = causal, par_type
        self.use_exp, self.use_neg_exp = use_exp, use_neg_exp
        self.act = lra_activation(act_type)
        self.act_of_zero = self.act(torch.zeros(1)).item()
        self.use_decay, self.use_multi_decay, self.lam = use_decay, use_multi_decay, gamma
        if use_decay:  # frozen, yet a parameter: checkpoints and parameter counts hold it
            self.gamma = nn.Parameter(torch.full((h, 1, dim), float(gamma)), requires_grad=False)
        elif use_multi_decay:
            self.gamma = nn.Parameter(torch.randn(h, 1, dim))
        self.key = key
        self.add_module(key, Rpe(dpb_dim, h * dim, residual, "relu", bias, layers)
                        if dpb_type == 8 else RpeV4(dpb_dim, h * dim, residual, bias))
        self._kept: dict[str, tuple] = {}

    def forward(self, x: Tensor, dim: int = -2, normalize: bool = False) -> Tensor:
        """Along axis `dim` (negative); further axes may lie between heads and channels. With
        normalize each output is divided by its matrix row's sum."""
        moved = x.movedim(dim, -1)  # (b, h, ..., d, n)
        order = [0, *range(2, moved.ndim - 2), 1, moved.ndim - 2, moved.ndim - 1]
        rows = moved.permute(order)  # (b, ..., h, d, n)
        y = self.rows(rows.reshape(-1, self.h * self.dim, x.shape[dim]), normalize)
        y = y.reshape(rows.shape).permute([order.index(i) for i in range(moved.ndim)])
        return y.movedim(-1, dim)

    @torch.compiler.disable
    def rows(self, x: Tensor, normalize: bool = False) -> Tensor:
        """x (B, E, n) -> (B, E, n), the sequence contiguous."""
        y = self._product(x)
        if normalize:
            y = y / self._product(x.new_ones(1, *x.shape[1:]))
        return y

    @torch.compiler.disable
    def matrix(self, n: int, normalize: bool = False) -> Tensor:
        """The dense matrices (E, n, n)."""
        matrix = toeplitz_matrix(all_lags(*self.coefficients(n), n), n)
        return matrix / matrix.sum(-1, keepdim=True) if normalize else matrix

    def plain(self, x: Tensor) -> Tensor:
        """`rows` as the equation stands: x (B, E, n), no lag left out, dense matrices."""
        n = x.shape[-1]
        return toeplitz_plain(x, all_lags(*self.coefficients(n, whole=True), n), dim=-1)

    def coefficients(self, n: int, whole: bool = False) -> tuple[Tensor, int]:
        """t (E, p or 2p-1) in the order 0 .. p-1 and, unless causal, -(p-1) .. -1; and p. Lags at
        which t is zero are left out and so are, without `whole`, those damped below all rounding
        errors."""
        limit = min(n, self.max_l) if self.use_pad else n  # the encoder is asked about 0 .. limit-1
        p = limit if whole else min(limit, self._audible())
        t = self._values(self._phi(self._lags(0, p), limit), self._lags(0, p))
        if limit < n and (self.use_exp or self.act_of_zero):
            lags = self._lags(limit, n)
            zero = torch.zeros(len(lags), self.h * self.dim, device=t.device, dtype=t.dtype)
            beyond = (self._values(zero - torch.inf, lags) if self.use_exp
                      else zero + self.act_of_zero)
            t, p = torch.cat([t[:p], beyond, t[p:]]), n
        return t.t().contiguous(), p

    def _lags(self, start, stop):
        """start .. stop-1 and, unless causal, -(stop-1) .. -start, no lag twice."""
        lags = torch.arange(start, stop, device=self._encoder.pos_proj.weight.device)
        return lags if self.causal else torch.cat([lags, -lags[lags > 0].flip(0)])

    @property
    def _encoder(self) -> nn.Module:
        return getattr(self, self.key)

    def _phi(self, lags, limit):
        """The encoder's coefficients at those lags (L,): (L, E)."""
        if self.par_type > 1:
            lags = lags / max(limit - 1, 1)
        if self.par_type == 3:
            lags = lags.exp()
        return self._encoder(lags.unsqueeze(-1))

    def _values(self, phi, lags):
        """phi (L, E) at those lags -> t (L, E)."""
        if self.use_exp:
            phi = -phi.exp() if self.use_neg_exp else phi
            if self.use_decay or self.use_multi_decay:
                phi = phi + lags.abs().unsqueeze(-1) * self._g().log()
            return phi.clamp(-60, 30).exp()
        if self.use_decay:
            phi = phi * self._keep("damping", len(lags), [self.gamma],
                                   lambda: self._g() ** lags.abs().unsqueeze(-1))
        elif self.use_multi_decay:
            phi = phi * self._g() ** lags.abs().unsqueeze(-1)
        return self.act(phi.unflatten(-1, (self.h, -1))).flatten(-2)

    def _g(self):
        """g (E,)."""
        g = self.gamma if self.use_decay else (
            self.lam + (1 - self.lam) * torch.sigmoid(self.gamma))
        return g.flatten()

    def _audible(self):
        """How many lags a fixed decay leaves above the square of the machine's precision. What is
        left out is far below the rounding errors of any way to compute the product."""
        if not self.use_decay or self.use_exp or self.act_of_zero:
            return math.inf
        g = self._keep("largest", None, [self.gamma], lambda: self.gamma.abs().max().item())
        if not 0 < g < 1:
            return math.inf
        return math.ceil(2 * math.log(torch.finfo(self.gamma.dtype).eps) / math.log(g)) + 1

    def _product(self, x):
        n = x.shape[-1]
        if torch.is_grad_enabled() or n <= DENSE_UP_TO:
            t, p = self.coefficients(n)
            return toeplitz_product(x, t, dim=-1, lags=p)
        spectrum, p = self._keep("spectrum", n, self.parameters(), lambda: self._spectrum(n))
        return toeplitz_with_spectrum(x, spectrum, dim=-1, lags=p)

    def _spectrum(self, n):
        t, p = self.coefficients(n)
        return kernel_spectrum(t, n, dim=-1, lags=p), p

    def _keep(self, name, length, weights, make):
        """make(), or what it gave for the same length and state of the weights."""
        key = (length, *((w.data_ptr(), w.dtype, 0 if w.is_inference() else w._version)
                         for w in weights))
        if name not in self._kept or self._kept[name][0] != key:
            self._kept[name] = key, make()
        return self._kept[name][1]
