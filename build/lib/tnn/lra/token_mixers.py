"""Token mixers: gated Toeplitz units in one and two dimensions (section 3.1).

Notation: b batch, n length, D width, E = ratio * D rounded down to a multiple of the heads; H W the
grid. Inside a unit channels come first, (b, E, n) or (E, H, b, W), so that transforms and matrices
run along contiguous axes; the projections read and write the transposed layout at no cost.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tnn.lra.toeplitz import MORE_ACTIVATIONS, Toeplitz
from tnn.network.activations import activation
from tnn.network.fused import (
    activated,
    channels_first,
    channels_last,
    dropout,
    gated_output,
)
from tnn.network.grid import along_both, along_columns, along_rows
from tnn.network.norms import norm


class TNO(nn.Module):
    """x (b, n, D) -> o( norm?( silu(u_proj x) * T silu(v_proj x) ) ), same shape.

    The arguments have the original's names and defaults; dropout, dpb_act, tno_type, tno_H and
    tno_W have no effect in one dimension, and neither has the module pre_norm, which checkpoints
    hold. token_shift_type 1 shifts x by one position, 2 takes the mean of x and its shift.
    """

    OPERATORS: tuple[str, ...] = ("toep",)
    USE_PAD = True

    def __init__(self, d_model: int, n_heads: int, dropout: float = 0.0, bias: bool = True,
                 act_fun: str = "silu", causal: bool = False, tno_expand_ratio: float = 2,
                 resi_param: bool = False, use_norm: bool = False, norm_type: str = "layernorm",
                 use_exp: bool = False, use_neg_exp: bool = False, tno_max_l: int = 512,
                 use_decay: bool = False, use_multi_decay: bool = False, dpb_embedding: int = 512,
                 dpb_act: str = "relu", dpb_use_pad: bool | None = None, normalize: bool = False,
                 par_type: int = 1, dpb_type: int = 1, dpb_layers: int = 3,
                 residual: bool = False, gamma: float = 0.999, act_type: str = "none",
                 token_shift_type: int = -1, tno_type: int = 1, tno_H: int = 32, tno_W: int = 32,
                 key: str = "dpb"):
        super().__init__()
        self.act, self.dropout = activation(act_fun, MORE_ACTIVATIONS), dropout
        self.normalize = normalize
        self.published = act_fun == "silu" and not use_norm  # what fused.py covers
        self.shift, self.tno_type, self.grid = token_shift_type, tno_type, (tno_H, tno_W)
        inner = int(tno_expand_ratio * d_model) // n_heads * n_heads
        if resi_param:
            self.d = nn.Parameter(torch.randn(d_model))
        self.v_proj = nn.Linear(d_model, inner, bias=bias)
        self.u_proj = nn.Linear(d_model, inner, bias=bias)
        self.o = nn.Linear(inner, d_model, bias=bias)
        for name in self.OPERATORS:
            self.add_module(name, Toeplitz(
                n_heads, tno_max_l, inner // n_heads, dpb_embedding, causal, use_exp, use_neg_exp,
                use_decay, use_multi_decay, residual, dpb_act,
                self.USE_PAD if dpb_use_pad is None else dpb_use_pad, par_type, dpb_type, gamma,
                bias, act_type, dpb_layers, key))
        self.pre_norm = norm(norm_type, d_model)
        self.norm = norm(norm_type, inner) if use_norm else None
        if not self._norms_itself():  # no effect, hence no gradient
            self.pre_norm.requires_grad_(False)
            if resi_param:
                self.d.requires_grad_(False)
        for linear in (self.u_proj, self.v_proj, self.o):
            for parameter in linear.parameters():
                nn.init.normal_(parameter, std=0.02)

    def _norms_itself(self):
        return False

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """padding (b, n), where given, is true where a position must not reach the others."""
        x = shifted(x, self.shift)
        v = self._values(x)  # (b, E, n)
        if padding is not None:
            v = v.masked_fill(padding.unsqueeze(1), 0)
        return self._gated(x, self.toep.mix(v, self.normalize), 0.0)

    def _values(self, x):
        """act(v_proj x), channels first."""
        if self.published:
            return activated(x, self.v_proj)
        return self.act(channels_first(x, self.v_proj))

    def _gated(self, x, m, rate):
        """o( norm?( act(u_proj x) * drop(m) ) )."""
        if self.published:
            return gated_output(x, m, self.u_proj, self.o, rate)
        y = self.act(channels_first(x, self.u_proj)) * dropout(m, rate)
        if self.norm is not None:
            y = self.norm(y.transpose(1, 2)).transpose(1, 2)
        return channels_last(y, self.o)


class TNO2d(TNO):
    """The tokens are a grid of H = floor(sqrt n) rows; with R = toep1 along a row and C = toep2
    along a column, by tno_type:

    4 (published)  m = C R v + R C v, computed as 2 C R v: on different axes, with the same
                   coefficients for each channel, R and C commute
    2, 3           m = C R v, the unit norms its input (pre_norm) and adds it (times d, with
                   resi_param); the grid is tno_H x tno_W
    6              m = C v + R v

    then o( norm?( u * drop(m) ) ). Raises ValueError for other types (1 and 5 crashed), and if n
    tokens are no grid.
    """

    OPERATORS = ("toep1", "toep2")
    USE_PAD = False

    def __init__(self, *args, tno_type: int = 1, **kw):
        if tno_type not in (2, 3, 4, 6):
            raise ValueError(f"tno_type {tno_type}: in two dimensions it is 2, 3, 4 or 6")
        super().__init__(*args, tno_type=tno_type, **kw)

    def _norms_itself(self):
        return self.tno_type in (2, 3)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        b, n, width = x.shape
        inside = self._norms_itself()
        h, w = self.grid if inside else (math.isqrt(n), n // math.isqrt(n))
        if h * w != n:
            raise ValueError(f"{n} tokens are no grid of {h} x {w}")
        kept = x
        if inside:
            x, kept = self.pre_norm(x), x * self.d if hasattr(self, "d") else x
        # The batch goes between the axes (grid.py) here, while x is D wide; u, v, m are E wide.
        x = x.view(b, h, w, width).transpose(0, 1).reshape(1, h * b * w, width)
        m = self._mix(self._values(x).view(-1, h, b, w)).reshape(1, -1, h * b * w)
        y = self._gated(x, m, self.dropout if self.training else 0.0).view(h, b, w, width)
        y = y.transpose(0, 1).reshape(b, n, width)
        return y + kept if inside else y

    def _mix(self, v):
        """v (E, H, b, W) -> the same shape."""
        if self.tno_type == 6:
            return along_both(v, self.toep2, self.toep1, self.normalize)
        m = along_columns(along_rows(v, self.toep1, self.normalize), self.toep2, self.normalize)
        return 2 * m if self.tno_type == 4 else m


def gtu_arguments(expand_ratio: float = 2, rpe_embedding: int = 512, rpe_layers: int = 3,
                  rpe_act: str = "relu", rpe_use_pad: bool | None = None, **kw) -> dict:
    """The `gtu` family's argument names -> TNO's. Its encoder is always RpeV4, named rpe."""
    return dict(kw, tno_expand_ratio=expand_ratio, dpb_embedding=rpe_embedding,
                dpb_act=rpe_act, dpb_use_pad=rpe_use_pad, dpb_type=1, key="rpe")


class Gtu(TNO):
    """The same unit under the names of the newer package."""

    def __init__(self, d_model: int, n_heads: int, **kw):
        super().__init__(d_model, n_heads, **gtu_arguments(**kw))


class Gtu2d(TNO2d):
    """The same as TNO2d of type 4."""

    def __init__(self, d_model: int, n_heads: int, **kw):
        super().__init__(d_model, n_heads, **gtu_arguments(**kw), tno_type=4)


MIXERS = {"tno": TNO, "tno2d": TNO2d, "gtu": Gtu, "gtu2d": Gtu2d}


def shifted(x: Tensor, kind: int) -> Tensor:
    if kind not in (1, 2):
        return x
    moved = F.pad(x, (0, 0, 1, -1))  # position i holds x_{i-1}, the first one 0
    return moved if kind == 1 else (x + moved) / 2
