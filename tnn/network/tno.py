"""The Toeplitz neural operator of the language and image models (sections 3.2 to 3.4).

Notation: b batch, h heads, n length, d channels per head, L coefficients (n if causal, else
2n - 1); rows (E, L) with E = h d inside (toeplitz_operator.py).
"""

import torch
from torch import Tensor

from tnn.network.activations import activation
from tnn.network.rpe import Rpe
from tnn.network.toeplitz_operator import ToeplitzOperator


class Tno(ToeplitzOperator):
    """Mixes along the sequence: x (b, h, n, d) -> (b, h, n, d).

    h heads of dim channels; rpe_dim, layers, residual, act, bias, norm_type describe the position
    encoder. use_decay keeps the factor g = gamma fixed (equation 10), use_multi_decay learns it
    within (gamma, 1). act_type is applied to the damped coefficients. par_type says what the
    encoder sees of lag k: 1 k itself, 2 k / (n-1), 3 exp(k / (n-1)); only with 1 do the
    coefficients not depend on n. par_type 3 is causal only. far_lags=True keeps the lags whose
    coefficients decay makes vanish, too. Raises ValueError for other par_types and unknown names.
    """

    given: Tensor | None = None   # what the encoder says, where it is known (together.py)

    def __init__(self, h: int, dim: int, rpe_dim: int, causal: bool = False,
                 use_decay: bool = False, use_multi_decay: bool = False, residual: bool = False,
                 act: str = "relu", par_type: int = 1, gamma: float = 0.999, bias: bool = True,
                 act_type: str = "none", layers: int = 3, norm_type: str = "simplermsnorm",
                 far_lags: bool = False):
        super().__init__(h, dim, causal, par_type, gamma, activation(act_type))
        self.act_type, self.far_lags = act_type, far_lags
        self.rpe = Rpe(rpe_dim, h * dim, residual, act, bias, layers, norm_type)
        self.add_decay(use_decay, use_multi_decay)

    def forward(self, x: Tensor, dim: int = -2, normalize: bool = False) -> Tensor:
        """x (b, h, n, d), or with the sequence on another axis `dim` -> the same shape. With
        normalize each output is divided by its matrix row's sum."""
        return self._by_rows(x, dim, lambda rows: self.mix(rows, normalize))

    def kernel(self, n: int, lags: int | None = None) -> Tensor:
        r, damping = self._encoded(n, lags or n), self.damping(lags or n)
        return self.activated(r if damping is None else r * damping).t()

    def coefficients(self, n: int) -> Tensor:
        """t (h, L, d): lags 0 .. n-1 and, unless causal, -(n-1) .. -1."""
        return self._by_heads(self.kernel(n))

    def undecayed(self, n: int) -> Tensor:
        """r (h, L, d): what the position encoder says of these lags."""
        return self._by_heads(self._encoded(n, n).t())

    def toeplitz_matrix(self, x: Tensor, dim: int = -2) -> Tensor:
        """forward by the dense matrix: O(n^2), for checks."""
        return self._by_rows(x, dim, self.plain)

    toeplizt_matrix = toeplitz_matrix  # the original's spelling

    def matrix(self, n: int) -> Tensor:
        """The dense matrices T (h, n, n, d)."""
        return self.matrices(n).unflatten(0, (self.h, -1)).movedim(1, -1)

    def lags_that_count(self, n: int, dtype: torch.dtype) -> int:
        return n if self.far_lags else super().lags_that_count(n, dtype)

    def _encoded(self, n, K):
        """r (L, E) of the first K lags of length n."""
        if self.given is not None and len(self.given) == (K if self.causal else 2 * K - 1):
            return self.given
        lags = self.lag_list(0, K, self.rpe.pos_proj.weight.device)
        return self.rpe(self.positions(lags, n))

    def _by_heads(self, rows):
        """(E, L) -> (h, L, d)"""
        return rows.unflatten(0, (self.h, -1)).transpose(1, 2)

    def _by_rows(self, x, dim, function):
        """function(x (b, E, n)) on x (b, h, n, d)."""
        rows = x.movedim(dim, -1).flatten(1, 2)
        return function(rows).unflatten(1, (self.h, -1)).movedim(-1, dim)
