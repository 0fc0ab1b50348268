"""Gated Toeplitz units: the token mixers (section 3.1, figure 2).

Notation: b batch, n length, e width, k = expand_ratio * e rounded down to a multiple of the heads.
"""

import torch
from torch import Tensor, nn

from tnn.network.activations import activation
from tnn.network.norms import norm
from tnn.network.tno import Tno


class Gtu(nn.Module):
    """The published unit (version 2): y = o( norm?( u * Tno(v) ) ), u = act(u_proj x),
    v = act(v_proj x); x (b, n, e) -> (b, n, e).

    num_heads heads share a position encoder of width rpe_embedding and depth rpe_layers; use_norm
    adds a norm before the last projection; the other arguments are Tno's. Raises ValueError for
    resi_param, which only version 1 has, and for unknown names of norms and activations.
    """

    def __init__(self, embed_dim: int, num_heads: int, bias: bool = True, act_fun: str = "silu",
                 causal: bool = False, expand_ratio: float = 3, resi_param: bool = False,
                 use_norm: bool = False, norm_type: str = "simplermsnorm",
                 use_decay: bool = False, use_multi_decay: bool = False, rpe_layers: int = 3,
                 rpe_embedding: int = 512, rpe_act: str = "relu", normalize: bool = False,
                 par_type: int = 1, residual: bool = False, gamma: float = 0.99,
                 act_type: str = "none"):
        super().__init__()
        if resi_param and not self.has_residual:
            raise ValueError("resi_param: only the first version of the unit has a residual")
        self.heads, self.normalize = num_heads, normalize
        self.act = activation(act_fun)
        inner = int(expand_ratio * embed_dim) // num_heads * num_heads
        # The order of construction decides what a seed draws.
        self._add_projections(embed_dim, inner, bias)
        self._add_operators(lambda: Tno(
            num_heads, inner // num_heads, rpe_embedding, causal, use_decay, use_multi_decay,
            residual, rpe_act, par_type, gamma, bias, act_type, rpe_layers, norm_type))
        self.norm = self.make_norm(norm_type, inner) if use_norm else None
        self._add_residual(embed_dim, norm_type, resi_param)

    has_residual = False
    make_norm = staticmethod(norm)

    def _add_projections(self, e, k, bias):
        self.v_proj = nn.Linear(e, k, bias=bias)
        self.u_proj = nn.Linear(e, k, bias=bias)
        self.o = nn.Linear(k, e, bias=bias)

    def _add_operators(self, make):
        self.toep = make()

    def _add_residual(self, e, norm_type, resi_param):
        pass

    def forward(self, x: Tensor, padding: Tensor | None = None, memory=None) -> Tensor:
        """padding (b, n), where given, is true where a position must not reach the others; memory
        (recurrence.py) continues a sequence whose earlier positions it has seen. Raises ValueError
        for a memory with normalize."""
        u, v = self.act(self.u_proj(x)), self.act(self.v_proj(x))
        return self.o(self._gated(u, self._mix(v, padding, memory)))

    def _mix(self, v, padding, memory):
        """Tno by heads: v (b, n, k) -> (b, n, k)."""
        if memory is not None:
            if self.normalize:
                raise ValueError("normalize: row sums are not computed one position at a time")
            return memory(v)
        if padding is not None:
            v = v.masked_fill(padding.unsqueeze(-1), 0)
        v = v.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (b, h, n, k/h)
        return self.toep(v, normalize=self.normalize).transpose(1, 2).flatten(-2)  # (b, n, k)

    def _gated(self, u, mixed):
        y = u * mixed
        return y if self.norm is None else self.norm(y)


class GtuV1(Gtu):
    """Version 1: the unit norms its input and adds it back itself: x + f(pre_norm(x)), or with
    resi_param d * x + f(pre_norm(x))."""

    has_residual = True

    def _add_residual(self, e, norm_type, resi_param):
        self.pre_norm = norm(norm_type, e)
        self.d = nn.Parameter(torch.randn(e)) if resi_param else None

    def forward(self, x: Tensor, padding: Tensor | None = None, memory=None) -> Tensor:
        kept = x if self.d is None else x * self.d
        return kept + super().forward(self.pre_norm(x), padding, memory)


class GtuV3(Gtu):
    """Version 3, one projection for both: y = out_proj( norm?( u * Tno(u) ) ), u = in_proj x."""

    def _add_projections(self, e, k, bias):
        self.in_proj = nn.Linear(e, k, bias=bias)
        self.out_proj = nn.Linear(k, e, bias=bias)

    def forward(self, x: Tensor, padding: Tensor | None = None, memory=None) -> Tensor:
        u = self.in_proj(x)
        return self.out_proj(self._gated(u, self._mix(u, padding, memory)))


GTUS = {1: GtuV1, 2: Gtu, 3: GtuV3}
