"""SparseLSTM: a single-layer LSTM made of smaller dense ones (Demeester et al. 2018, section 3.1).

    from sparse_seq import SparseLSTM
    lstm = SparseLSTM(1725, 1725, reduce_in=2 / 3, reduce_out=2 / 3)  # as many parameters as 1150
    y, (h, c) = lstm(x, (h, c))        # x (T, B, 1725); h, c (1, B, 1725); y (T, B, 1725)

The hidden state is cut into k blocks. Block c is an ordinary LSTM that reads its own part of the
state and one window of the input; together they equal a dense LSTM whose recurrent matrix is block
diagonal and whose input matrix is zero outside the windows:

    W_hh = | A1       |          W_ih = | B1 B1 .  . |     fraction delta of each row's
           |    A2    |                 | .  B2 B2 . |     columns is not zero
           |       A3 |                 | .  .  B3 B3|

Letters: T time, B batch, I input size, H hidden size, D directions (1 or 2), k blocks.
"""

import math
import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from common.dropout import WeightDrop, check_rate, dropout_mask
from sparse_seq.blocks import FORMS, choose_form, sequential

Range = tuple[int, int]


# ------------------------------------------------------------------------------------- geometry
def segments(total: int, k: int, density: float) -> list[Range]:
    """k windows of `total * density` places, evenly spread over 0..total, as (begin, end).

    Neighbours overlap where density > 1/k. Raises ValueError if that is not possible: density
    below 1/k, one window that is not everything, an empty window, or a place that none covers.
    """
    if k == 1 and density == 1:
        return [(0, total)]
    if k < 2 or not 1 / k <= density <= 1:
        raise ValueError(f"{k} blocks of density {density}: the density must be at least 1/blocks "
                         "and at most 1, and a single block has density 1")
    if k > total and total * density < 1:  # some window is empty: no need to try all
        raise ValueError(f"{k} blocks of density {density} do not cover a size of {total}")
    overlap = total * (k * density - 1) / (k - 1)
    found = []
    for i in range(k):
        begin = i * (total * density - overlap)
        found.append((int(begin), int(begin + total * density + 1e-7)))
    found[-1] = (found[-1][0], total)
    reached = 0
    for begin, end in found:
        if begin >= end or begin > reached:
            raise ValueError(f"{k} blocks of density {density} do not cover a size of {total}")
        reached = end
    return found


@dataclass(frozen=True)
class Composition:
    """How a sparse layer is put together: k blocks, their input windows and state ranges."""

    blocks: int                  # k
    density: float               # delta, the share of the input that each block reads
    inputs: tuple[Range, ...]
    outputs: tuple[Range, ...]
    clamped: bool = False        # delta would have had to exceed 1: fewer parameters than asked for

    @property
    def parameters(self) -> int:
        """Of one direction: 4 (delta I H + H H / k + 2 H), up to rounding."""
        return sum(4 * (o1 - o0) * ((i1 - i0) + (o1 - o0) + 2)
                   for (i0, i1), (o0, o1) in zip(self.inputs, self.outputs, strict=True))


def compose(input_size: int, hidden_size: int, blocks: int = 0, density: float = 0,
            reduce_in: float = -1, reduce_out: float = -1) -> Composition:
    """The composition that is asked for, by blocks and density or else by reduction factors.

    Raises ValueError if neither is given or if there is no such composition.
    """
    clamped = False
    if blocks > 0 and 1 / blocks <= density <= 1:
        k, delta = blocks, density
    elif 0 < reduce_in <= 1 and 0 < reduce_out <= 1:
        k, delta, clamped = _reduced(input_size, hidden_size, reduce_in, reduce_out)
    else:
        raise ValueError(
            f"SparseLSTM needs blocks > 0 with 1/blocks <= density <= 1 (given: {blocks}, "
            f"{density}), or reduce_in and reduce_out in (0, 1] (given: {reduce_in}, {reduce_out})")
    outputs = segments(hidden_size, k, 1 / k)
    edges = [0, *(end for _, end in outputs)]  # a partition, whatever 1/k was rounded to
    return Composition(k, delta, tuple(segments(input_size, k, delta)),
                       tuple(pairwise(edges)), clamped)


def _reduced(i: int, h: int, a: float, b: float) -> tuple[int, float, bool]:
    """k and delta of the sparse layer i -> h with the parameters of the dense one a*i -> b*h.

    4 (delta i h + h h / k + 2 h) = 4 (a i b h + (b h)^2 + 2 b h); k is the least number of blocks
    for which delta >= 1/k. Third: delta had to be cut to 1.
    """
    denominator = a * b * i + b * b * h + 2 * b - 2
    bound = (i + h) / denominator if denominator > 0 else math.inf
    k = math.ceil(bound) if bound <= h else i
    if k >= i:
        raise ValueError(f"reduce_in {a} and reduce_out {b} are too small for a layer {i} -> {h}")
    delta = (a * b * i + b * b * h + 2 * b - h / k - 2) / i
    if delta < 1 / k:
        raise ValueError(f"reduce_in {a} and reduce_out {b} leave a layer {i} -> {h} with density "
                         f"{delta:.3f} below 1/{k}")
    return k, min(delta, 1.0), delta > 1


def dense_parameters(i: float, h: float) -> float:
    """Parameters of a dense LSTM layer i -> h, one direction."""
    return 4 * (i * h + h * h + 2 * h)


# --------------------------------------------------------------------------------------- module
class SparseLSTM(nn.Module):
    """One LSTM layer with predefined sparseness; stands in for a time-major torch.nn.LSTM.

    Args:
        input_size, hidden_size: I and H.
        bidirectional: each block runs both ways; the output columns are then fwd_0, bwd_0, fwd_1,
            bwd_1, ... (the original's order), the states (2, B, H) in plain block order.
        wdrop: weight drop on the recurrent matrices of the forward direction.
        blocks, density: compose by number of blocks and share of the input that each reads, or
        reduce_in, reduce_out: compose so that the layer has the parameters of a dense one of sizes
            reduce_in * I and reduce_out * H (warns where even a full input falls short of that).
        form: how it is computed, a name of sparse_seq.blocks.FORMS or "auto"; the numbers are the
            same.

    Parameters are named LSTMs.{c}.weight_ih_l0 ... as in the original, with weight drop
    LSTMs.{c}.module.weight_hh_l0_raw ...; an alias LSTMs.{c}.module.weight_hh_l0 beside a _raw
    entry, which the original left on recent PyTorch, is ignored on loading.
    Raises ValueError if there is no such composition.
    """

    def __init__(self, input_size: int, hidden_size: int, bidirectional: bool = False,
                 wdrop: float = 0, blocks: int = 0, density: float = 0, reduce_in: float = -1,
                 reduce_out: float = -1, form: str = "auto"):
        super().__init__()
        check_rate("wdrop", wdrop)
        if form != "auto" and form not in FORMS:
            raise ValueError(f"unknown form {form!r}; choose from auto, {', '.join(FORMS)}")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.bidirectional, self.wdrop, self.form = bidirectional, wdrop, form
        self.composition = compose(input_size, hidden_size, blocks, density, reduce_in, reduce_out)
        by_reduction = not (blocks > 0 and 1 / blocks <= density <= 1)
        self.reduce: tuple[float, float] | None = \
            (reduce_in, reduce_out) if by_reduction else None
        self.LSTMs = nn.ModuleList(
            self._block(i1 - i0, o1 - o0) for (i0, i1), (o0, o1)
            in zip(self.composition.inputs, self.composition.outputs, strict=True))
        if self.composition.clamped:
            warnings.warn(self._shortfall(), stacklevel=2)

    def _block(self, size_in: int, size: int) -> nn.Module:
        lstm = nn.LSTM(size_in, size, bidirectional=self.bidirectional)
        return WeightDrop(lstm, ["weight_hh_l0"], self.wdrop) if self.wdrop else lstm

    def _load_from_state_dict(self, state, prefix, *rest):
        for c in range(len(self.LSTMs)):
            key = f"{prefix}LSTMs.{c}.module.weight_hh_l0"
            if f"{key}_raw" in state:
                state.pop(key, None)
        super()._load_from_state_dict(state, prefix, *rest)

    def forward(self, input: Tensor, hidden: tuple[Tensor, Tensor]):
        """input (T, B, I), hidden (h, c) each (D, B, H) -> output (T, B, D*H), (h, c)."""
        form = choose_form(self, input) if self.form == "auto" else self.form
        if form == "sequential":
            return sequential(self.LSTMs, input, hidden, self.composition)
        weights = [self.block_weights(c) for c in range(len(self.LSTMs))]
        return FORMS[form](weights, input, hidden, self.composition)

    def block_weights(self, c: int) -> list[Tensor]:
        """The tensors that block c computes with: weight_ih, weight_hh, bias_ih, bias_hh, and these
        of the other direction. Draws the block's dropout mask: call it once a forward, in order."""
        block: Any = self.LSTMs[c]
        lstm = block.module if self.wdrop else block
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        names = [f"{name}_l0{suffix}" for suffix in suffixes
                 for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        if not self.wdrop:
            return [getattr(lstm, name) for name in names]
        raw = lstm.weight_hh_l0_raw
        if self.training and block.dropout:
            raw = raw * dropout_mask(raw, tuple(raw.shape), block.dropout)
        return [raw if name == "weight_hh_l0" else getattr(lstm, name) for name in names]

    # --------------------------------------------------------------------------- what it is
    def n_parameters(self) -> int:
        """Trainable parameters, both directions."""
        return self.composition.parameters * (2 if self.bidirectional else 1)

    def _shortfall(self) -> str:
        i, h = self.input_size, self.hidden_size
        a, b = self.reduce or (1, 1)
        asked = dense_parameters(a * i, b * h)
        return (f"SparseLSTM {i} -> {h} with reduce_in {a:g}, reduce_out {b:g}: every block "
                f"already reads the whole input, so it has {self.composition.parameters:,} "
                f"parameters, not the {asked:,.0f} of the dense layer")

    def info_dict(self) -> dict:
        """The facts of the layer, under the original's names. "sparseness" is its density:
        parameters divided by those of a dense layer of the same sizes."""
        i, h, comp = self.input_size, self.hidden_size, self.composition
        info: dict[str, object] = {"ninp": i, "nhid": h, "wdrop": self.wdrop,
                                   "density": comp.density}
        if self.reduce:
            a, b = self.reduce
            info |= {"reduce_in": a, "reduce_out": b}
            if comp.blocks > 1:
                small = (round(a * i), round(b * h))
                info["equiv_dense_lstm"] = {
                    "ninp": small[0], "nhid": small[1],
                    "params": f"{dense_parameters(*small) / 1e6:.2f}M"}
        info["sizes_input"] = [end - begin for begin, end in comp.inputs]
        info["sizes_output"] = [end - begin for begin, end in comp.outputs]
        info["sparseness"] = comp.parameters / dense_parameters(i, h)
        info["params"] = f"{self.n_parameters() / 1e6:.2f}M"
        return info

    def info(self) -> str:
        """A small table: one line per block."""
        facts = self.info_dict()
        lines = [f"SparseLSTM {self.input_size} -> {self.hidden_size}: {self.composition.blocks} "
                 f"blocks, {facts['params']} parameters, density {facts['sparseness']:.3f}"]
        for c, ((i0, i1), (o0, o1)) in enumerate(
                zip(self.composition.inputs, self.composition.outputs, strict=True)):
            lines.append(f"  block {c:2d}: input {i0:5d}..{i1:<5d} -> state {o0:5d}..{o1:<5d}")
        if self.composition.clamped:
            lines.append(f"  {self._shortfall()}")
        return "\n".join(lines)

    def extra_repr(self) -> str:
        return (f"{self.input_size}, {self.hidden_size}, blocks={self.composition.blocks}, "
                f"density={self.composition.density:.4g}, wdrop={self.wdrop}")
