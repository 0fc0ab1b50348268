"""The Toeplitz operator of the Long Range Arena models: coefficients with the original's options.

Product, decay, lag cut and cache are those of tnn/network/toeplitz_operator.py, which also says why
the language models have another class.

Notation: b batch, h heads, d channels per head, E = h d rows, n length, K number of lags 0 .. K-1
with coefficients, L = K coefficients if causal, else 2K - 1; `limit` the number of lags that the
encoder is asked about.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tnn.lra.rpe import RpeV4
from tnn.network.activations import activation
from tnn.network.rpe import Rpe
from tnn.network.toeplitz import HALF
from tnn.network.toeplitz_operator import ToeplitzOperator


def relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


MORE_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu2": relu2, "cos": torch.cos, "sin": torch.sin, "swish": F.silu}


class Toeplitz(ToeplitzOperator):
    """x (b, h, n, d) -> the same shape, or with the sequence on another axis.

    n: the published max_l. With use_pad the encoder is asked about lags |k| < n only, and t is
    act(0) beyond; otherwise `n` has no effect. dpb_type 8 is an encoder of `layers` stages with
    parameter-free norms, every other number RpeV4. par_type says what the encoder sees of lag k:
    1 k, 2 k / (number of lags), 3 exp of that, causal only. use_exp makes t(k) =
    exp(clip(log g^|k| + r(k), -60, 30)), with use_neg_exp of -exp(r) in place of r. The encoder's
    activation is ReLU whatever `act` says. key: its name in the state_dict. Raises ValueError for
    other par_types and an unknown act_type.
    """

    def __init__(self, h: int, n: int, dim: int, dpb_dim: int, causal: bool = False,
                 use_exp: bool = False, use_neg_exp: bool = False, use_decay: bool = False,
                 use_multi_decay: bool = False, residual: bool = False, act: str = "relu",
                 use_pad: bool = False, par_type: int = 1, dpb_type: int = 4,
                 gamma: float = 0.999, bias: bool = True, act_type: str = "none",
                 layers: int = 3, key: str = "dpb"):
        super().__init__(h, dim, causal, par_type, gamma, activation(act_type, MORE_ACTIVATIONS))
        self.max_l, self.use_pad = n, use_pad
        self.use_exp, self.use_neg_exp = use_exp, use_neg_exp
        self.add_decay(use_decay, use_multi_decay)
        self.key = key
        self.add_module(key, Rpe(dpb_dim, h * dim, residual, "relu", bias, layers)
                        if dpb_type == 8 else RpeV4(dpb_dim, h * dim, residual, bias))

    def forward(self, x: Tensor, dim: int = -2, normalize: bool = False) -> Tensor:
        """Along axis `dim` (negative); further axes may lie between heads and channels. With
        normalize each output is divided by its matrix row's sum."""
        moved = x.movedim(dim, -1)  # (b, h, ..., d, n)
        order = [0, *range(2, moved.ndim - 2), 1, moved.ndim - 2, moved.ndim - 1]
        rows = moved.permute(order)  # (b, ..., h, d, n)
        y = self.mix(rows.reshape(-1, self.h * self.dim, x.shape[dim]), normalize)
        y = y.reshape(rows.shape).permute([order.index(i) for i in range(moved.ndim)])
        return y.movedim(-1, dim)

    # With what these ask of the host (the size of a decay, a cache) a graph would break at every
    # line of them; outside the graph they are as fast.
    mix = torch.compiler.disable(ToeplitzOperator.mix)
    matrices = torch.compiler.disable(ToeplitzOperator.matrices)

    def kernel(self, n: int, lags: int | None = None) -> Tensor:
        K, limit = lags or n, self._limit(n)
        near = self._lags(0, min(K, limit))
        t = self._values(self._encoded(near, limit), near)
        if limit < K:  # the lags beyond stand between the positive and the negative ones
            beyond = self._values_beyond(limit, K, t)
            t = torch.cat([t[:limit], beyond, t[limit:]])
        return t.t().contiguous()

    def vanished(self, dtype: torch.dtype) -> float:
        """The square of the precision, far below the rounding of any way to compute the product.
        Sequences are short here and the decays strong, so that 1e-9 would save next to nothing."""
        return torch.finfo(torch.float32 if dtype in HALF else dtype).eps ** 2

    def reach(self, dtype: torch.dtype) -> float:
        return math.inf if self.use_exp else super().reach(dtype)

    def lags_that_count(self, n: int, dtype: torch.dtype) -> int:
        """Of those beyond `limit` none, unless act makes something of zero."""
        if self.use_exp or self.act_of_zero:
            return n
        return min(self._limit(n), super().lags_that_count(n, dtype))

    @property
    def _encoder(self) -> nn.Module:
        return getattr(self, self.key)

    def _limit(self, n):
        return min(n, self.max_l) if self.use_pad else n

    def _lags(self, start, stop):
        return self.lag_list(start, stop, self._encoder.pos_proj.weight.device)

    def _encoded(self, lags, limit):
        """r (L, E)."""
        return self._encoder(self.positions(lags, limit))

    def _values(self, r, lags):
        """r (L, E) at lags that begin with 0 -> t (L, E)."""
        if self.use_exp:
            return self._exponential(r, lags)
        damping = self.damping(len(lags) if self.causal else len(lags) // 2 + 1)
        return self.activated(r if damping is None else r * damping)

    def _exponential(self, r, lags):
        z = -r.exp() if self.use_neg_exp else r
        g = self.decay()
        if g is not None:
            z = z + lags.abs().unsqueeze(-1) * g.flatten().log()
        return z.clamp(-60, 30).exp()

    def _values_beyond(self, start, stop, like):
        """t of lags start .. stop-1 and their negatives, where the encoder says nothing: act(0),
        or with use_exp what r = -inf gives."""
        lags = self._lags(start, stop)
        zero = like.new_zeros(len(lags), like.shape[1])
        if self.use_exp:
            return self._exponential(zero - torch.inf, lags)
        return zero + self.act_of_zero
