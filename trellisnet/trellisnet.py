"""TrellisNet (Bai, Kolter, Koltun 2019, section 3): a temporal convolutional network whose levels
share one kernel, with the input injected at every level and an LSTM cell as its nonlinearity.

    a(t) = sum_j W1_j x(t - (k-1-j)d) + sum_j W2_j [m * h'(t - (k-1-j)d)] + b2
    i, o, g, f = sigmoid, sigmoid, tanh, sigmoid of the four quarters of a(t)
    c(t) = f * c'(t-d) + i * g          h(t) = o * tanh(c(t))           (equations 8 to 12)

where h', c' are those of the level below: zero below the first, the given h0, c0 left of time 0.
The paper's equation (12) orders the gates differently, which only permutes the rows of the weights.

Notation: L time steps, t one of them, N batch, E input channels, H hidden channels, k kernel size,
j a tap of the kernel (k-1 is the present step), d dilation, m hidden dropout's mask.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.dropout import check_rate, dropout_mask
from kernels.library import exporting
from trellisnet.gates import compiled_gates
from trellisnet.last_output import strides, trellis_last
from trellisnet.levels import trellis_levels
from trellisnet.levels_plain import trellis_plain

Hidden = tuple[Tensor, Tensor]


class TrellisNet(nn.Module):
    """x (L, N, E) -> the last `nout` hidden channels of the top level.

    Args:
        ninp: E, channels of the input.
        nhid: H, hidden channels of a level, the output channels among them.
        nout: the last `nout` hidden channels are the output.
        nlevels: number of levels.
        kernel_size: k.
        dropouth: variational hidden-to-hidden dropout, one mask for all time steps and levels.
        wnorm: weight normalisation, row by row: W = g v / |v|.
        aux_frequency: every so many levels the output channels are given out as auxiliary output;
            0: never.
        dilation: d of each level, repeated as often as needed.
        wdrop: weight dropout, one mask for all levels.
        temporalwdrop: drop only weights of past time steps (taps 0 to k-2), if k > 1.

    Attributes that choose how, not what, is computed: `checkpoint_levels`, `fir`, `fuse` are those
    of `trellis_levels`; `plain` takes `trellis_plain` in its place.

    Parameters bear the original's names, without its prefixes: bias2 (4H), and weight1_raw
    (4H, E, k), weight2_raw (4H, H, k), or with weight norm weight*_g (4H, 1, 1), weight*_v_raw.
    """

    def __init__(self, ninp: int, nhid: int, nout: int, nlevels: int, kernel_size: int = 2,
                 dropouth: float = 0.0, wnorm: bool = True, aux_frequency: float = 0,
                 dilation: Sequence[int] = (1,), wdrop: float = 0.0, temporalwdrop: bool = True):
        super().__init__()
        check_rate("dropouth", dropouth)
        check_rate("wdrop", wdrop)
        if not 1 <= nout <= nhid:
            raise ValueError(f"nout must be in 1..{nhid}, the hidden channels; got {nout}")
        if nlevels < 1 or kernel_size < 1 or not dilation or min(dilation) < 1:
            raise ValueError("nlevels, kernel_size and every dilation must be at least 1")
        self.ninp, self.nhid, self.nout = ninp, nhid, nout
        self.nlevels, self.kernel_size = nlevels, kernel_size
        self.dropouth, self.wnorm = dropouth, wnorm
        self.wdrop, self.temporalwdrop = wdrop, temporalwdrop
        self.dilations = tuple(dilation[i % len(dilation)] for i in range(nlevels))
        self.aux_levels = choose_aux_levels(nlevels, aux_frequency)
        self.plain, self.checkpoint_levels, self.fir = False, 0, False
        self.fuse: tuple | None = None
        self._make_parameters()

    def _make_parameters(self) -> None:
        """The original's start, drawn in its order: a seed gives the same numbers."""
        rows, k = 4 * self.nhid, self.kernel_size
        nn.Conv1d(self.ninp, rows, k), nn.Conv1d(self.nhid, rows, k)  # drawn, never used
        weights = {"weight1": torch.empty(rows, self.ninp, k), "weight2":
                   torch.empty(rows, self.nhid, k)}
        for weight in weights.values():
            weight.normal_(0, 0.01)
        self.bias2 = nn.Parameter(torch.empty(rows).normal_(0, 0.01))
        if self.wnorm:
            for name, weight in weights.items():
                self.register_parameter(f"{name}_g", nn.Parameter(row_norm(weight)))
        for name, weight in weights.items():
            self.register_parameter(f"{name}{'_v' if self.wnorm else ''}_raw",
                                    nn.Parameter(tap_major(weight)))

    def effective_weight(self, name: str) -> Tensor:
        """`weight1` or `weight2` as this pass uses it: weight dropout, then weight norm. Done once
        per pass, since all levels share the weights."""
        raw = getattr(self, f"{name}_v_raw" if self.wnorm else f"{name}_raw")
        if self.training and self.wdrop:
            raw = raw * self.weight_mask(name, raw)
        if not self.wnorm:
            return raw
        norm = row_norm(raw)  # zero where all of a short row is dropped, as with one channel
        return getattr(self, f"{name}_g") * raw / norm.masked_fill(norm == 0, 1)

    def weight_mask(self, name: str, raw: Tensor) -> Tensor:
        """Weight dropout's mask, in the shape of the weight; the present step's tap is kept whole
        (`temporalwdrop`)."""
        rows, channels, k = raw.shape
        if not self.temporalwdrop or k == 1:
            return tap_major(dropout_mask(raw, (rows, channels, k), self.wdrop))
        mask = torch.ones_like(raw)
        mask[..., :-1] = dropout_mask(raw, (rows, channels, k - 1), self.wdrop)
        return mask

    def hidden_mask(self, x: Tensor) -> Tensor | None:
        """m (N, H), or None for ones."""
        if not self.training or not self.dropouth:
            return None
        return dropout_mask(x, (x.shape[1], self.nhid), self.dropouth)

    def init_hidden(self, batch_size: int) -> Hidden:
        """Zero h0, c0, each (N, H)."""
        zeros = self.bias2.new_zeros(batch_size, self.nhid)
        return zeros, zeros

    def forward(self, x: Tensor, hidden: Hidden | None = None, start: int = 0
                ) -> tuple[Tensor, Tensor, Hidden]:
        """x (L, N, E), hidden (h0, c0) each (N, H); outputs before `start` are not wanted.

        Returns output (L-start, N, nout), auxiliary outputs (M, L-start, N, nout) and the top
        level's (h, c) at the last time step, each (N, H). Raises ValueError for other inputs.
        """
        if (not isinstance(x, Tensor) or x.dim() != 3 or x.shape[2] != self.ninp
                or x.shape[0] == 0):
            got = tuple(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise ValueError(f"TrellisNet takes a tensor (L, N, {self.ninp}), time first and L at "
                             f"least 1, not {got}")
        weights = self.effective_weight("weight1"), self.effective_weight("weight2")
        h0, c0 = self.init_hidden(x.shape[1]) if hidden is None else hidden
        given = (x, *weights, self.bias2, h0, c0, self.hidden_mask(x), self.dilations, self.nout,
                 start, self.aux_levels)
        if self.plain or exporting():
            out, aux, h, c = trellis_plain(*given)
        elif start == len(x) - 1 and self.skips_positions:
            out, h, c = trellis_last(*given[:9])
            aux = out.new_zeros(0, *out.shape)
        else:
            out, aux, h, c = trellis_levels(*given, checkpoint=self.checkpoint_levels,
                                            fir=self.fir, fuse=self.fuse)
        return out, aux, (h, c)

    @property
    def skips_positions(self) -> bool:
        """Would the last output alone see only some positions of the levels? Then a forward pass
        from the last step on goes through `trellis_last`."""
        return not self.aux_levels and max(strides(self.dilations)) > 1

    def compile_gates(self) -> None:
        """Fuses the gates into one compiled pass (torch.compile)."""
        self.fuse = compiled_gates()


def choose_aux_levels(nlevels: int, frequency: float) -> tuple[int, ...]:
    """Levels (from 0) with an auxiliary output: every `frequency`-th; none if frequency <= 0."""
    if frequency <= 0:
        return ()
    return tuple(i for i in range(nlevels) if i % frequency == frequency - 1)


def row_norm(weight: Tensor) -> Tensor:
    """Euclidean norm of each row: (R, C, k) -> (R, 1, 1)."""
    return torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)


def tap_major(weight: Tensor) -> Tensor:
    """The same (R, C, k) tensor, laid out in memory as k matrices R x C, which the matrix products
    of `trellis_levels` take without copying."""
    return weight.permute(2, 0, 1).contiguous().permute(1, 2, 0)
