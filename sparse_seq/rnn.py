"""SparseLSTM: a single-layer LSTM made of smaller dense ones (Demeester et al. 2018, section 3.1).

    from sparse_seq import SparseLSTM
    lstm = SparseLSTM(1725, 1725, reduce_in=2 / 3, reduce_out=2 / 3)  # as many parameters as 1150
    y, (h, c) = lstm(x)                # x (T, B, 1725); y (T, B, 1725); h, c (1, B, 1725)
    y, (h, c) = lstm(x, (h, c))        # continues from a state

The hidden state is cut into k blocks. Each block is an ordinary LSTM that reads its own part of the
state and one window of the input; together they equal a dense LSTM whose recurrent matrix is block
diagonal and whose input matrix is zero outside the windows:

    W_hh = | A1       |          W_ih = | B1 B1 .  . |     fraction delta of each row's
           |    A2    |                 | .  B2 B2 . |     columns is not zero
           |       A3 |                 | .  .  B3 B3|

Notation: T time, B batch, I input size, H hidden size, D directions (1 or 2), k blocks, delta the
share of the input that a block reads; h, c the hidden and the cell state.
"""

import math
import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from common.dropout import WeightDrop, check_rate, dropout_mask
from kernels.lstm import LSTM
from sparse_seq.blocks import FORMS, States, choose_form, sequential

Range = tuple[int, int]

# Options of nn.LSTM that have a single value here, and what to do instead.
FIXED_OPTIONS = {
    "num_layers": (1, "it is one layer: stack several"),
    "bias": (True, "its blocks always have biases"),
    "batch_first": (False, "time comes first: give x.transpose(0, 1)"),
    "dropout": (0, "that acts between layers, and it is one: put nn.Dropout behind it"),
    "proj_size": (0, "its states are not projected: put nn.Linear behind it"),
}


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
    for window in range(k):
        begin = window * (total * density - overlap)
        # Truncated as in the original, whose 1e-7 keeps 2.9999999 from becoming 2.
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
    def ranges(self) -> list[tuple[Range, Range]]:
        """Per block: its window of the input, its part of the state."""
        return list(zip(self.inputs, self.outputs, strict=True))

    @property
    def parameters(self) -> int:
        """Of one direction: 4 (delta I H + H H / k + 2 H), up to rounding."""
        return sum(4 * (o1 - o0) * ((i1 - i0) + (o1 - o0) + 2)
                   for (i0, i1), (o0, o1) in self.ranges)


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


def _reduced(size_in: int, size: int, reduce_in: float, reduce_out: float
             ) -> tuple[int, float, bool]:
    """k and delta of the sparse layer I -> H with the parameters of the dense one a I -> b H, where
    a, b are reduce_in, reduce_out:

        4 (delta I H + H H / k + 2 H) = 4 (a I b H + (b H)^2 + 2 b H)

    k is the least number of blocks for which delta >= 1/k. Third: delta had to be cut to 1.
    """
    # The right side over 4 H is a b I + b^2 H + 2 b; with delta = 1/k at its least, the left one is
    # (I + H) / k + 2. So k >= (I + H) / (right side - 2).
    dense = reduce_in * reduce_out * size_in + reduce_out * reduce_out * size + 2 * reduce_out
    bound = (size_in + size) / (dense - 2) if dense > 2 else math.inf
    k = math.ceil(bound) if bound <= size else size_in
    if k >= size_in:
        raise ValueError(f"reduce_in {reduce_in} and reduce_out {reduce_out} are too small for a "
                         f"layer {size_in} -> {size}")
    delta = (dense - size / k - 2) / size_in
    if delta < 1 / k:
        raise ValueError(f"reduce_in {reduce_in} and reduce_out {reduce_out} leave a layer "
                         f"{size_in} -> {size} with density {delta:.3f} below 1/{k}")
    return k, min(delta, 1.0), delta > 1


def dense_parameters(size_in: float, size: float) -> float:
    """Parameters of a dense LSTM layer I -> H, one direction."""
    return 4 * (size_in * size + size * size + 2 * size)


# --------------------------------------------------------------------------------------- module
def _check_options(options: dict[str, Any]) -> None:
    for name, value in options.items():
        if name not in FIXED_OPTIONS:
            raise TypeError(f"SparseLSTM has no argument {name!r}")
        only, remedy = FIXED_OPTIONS[name]
        if value != only:
            raise ValueError(f"SparseLSTM has no {name}={value!r}: {remedy}")


class SparseLSTM(nn.Module):
    """One LSTM layer with predefined sparseness; stands in for a time-major torch.nn.LSTM
    (Demeester et al. 2018, section 3.1).

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
        lstm_options: further options of nn.LSTM, refused unless they have the value that they have
            here (FIXED_OPTIONS), so that a layer can be put in the place of another by name.

    torch.compile traces it whole with torch._dynamo.config.allow_rnn = True, as any nn.LSTM.

    Parameters are named LSTMs.{c}.weight_ih_l0 ... as in the original, with weight drop
    LSTMs.{c}.module.weight_hh_l0_raw ...; an alias LSTMs.{c}.module.weight_hh_l0 beside a _raw
    entry, which the original left on recent PyTorch, is ignored on loading.
    Raises ValueError if there is no such composition, or for an option that is not supported.
    """

    def __init__(self, input_size: int, hidden_size: int, bidirectional: bool = False,
                 wdrop: float = 0, blocks: int = 0, density: float = 0, reduce_in: float = -1,
                 reduce_out: float = -1, form: str = "auto", **lstm_options):
        super().__init__()
        _check_options(lstm_options)
        check_rate("wdrop", wdrop)
        if form != "auto" and form not in FORMS:
            raise ValueError(f"unknown form {form!r}; choose from auto, {', '.join(FORMS)}")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.bidirectional, self.wdrop, self.form = bidirectional, wdrop, form
        self.composition = compose(input_size, hidden_size, blocks, density, reduce_in, reduce_out)
        by_reduction = not (blocks > 0 and 1 / blocks <= density <= 1)
        self.reduce: tuple[float, float] | None = \
            (reduce_in, reduce_out) if by_reduction else None
        self.LSTMs = nn.ModuleList(self._block(i1 - i0, o1 - o0)
                                   for (i0, i1), (o0, o1) in self.composition.ranges)
        if self.composition.clamped:
            warnings.warn(self._shortfall(), stacklevel=2)

    def _block(self, size_in: int, size: int) -> nn.Module:
        lstm = LSTM(size_in, size, bidirectional=self.bidirectional)
        return WeightDrop(lstm, ["weight_hh_l0"], self.wdrop) if self.wdrop else lstm

    def _load_from_state_dict(self, state, prefix, *rest):
        for index in range(len(self.LSTMs)):
            key = f"{prefix}LSTMs.{index}.module.weight_hh_l0"
            if f"{key}_raw" in state:
                state.pop(key, None)
        super()._load_from_state_dict(state, prefix, *rest)

    def forward(self, input: Tensor, hidden: States | None = None) -> tuple[Tensor, States]:
        """input (T, B, I), hidden (h, c) each (D, B, H), zeros if left out -> the
        outputs of all steps (T, B, D*H) and the states after the last, (h, c) each (D, B, H).

        Raises ValueError for other shapes, TypeError for a PackedSequence.
        """
        hidden = self.checked(input, hidden)
        form = choose_form(self, input) if self.form == "auto" else self.form
        if form == "sequential":
            return sequential(self.LSTMs, input, hidden, self.composition)
        weights = [self.block_weights(index) for index in range(len(self.LSTMs))]
        return FORMS[form](weights, input, hidden, self.composition)

    def checked(self, input: Tensor, hidden: States | None) -> States:
        """`hidden`, or zeros. The blocks would complain of their own sizes, not of the layer's."""
        if isinstance(input, PackedSequence):
            raise TypeError("SparseLSTM takes a tensor (T, B, I), not a PackedSequence: give "
                            "pad_packed_sequence(input)[0]")
        if input.dim() != 3 or input.shape[2] != self.input_size or input.shape[0] == 0:
            raise ValueError(f"SparseLSTM takes an input (T, B, {self.input_size}), T at least 1, "
                             f"got {tuple(input.shape)}")
        wanted = (2 if self.bidirectional else 1, input.shape[1], self.hidden_size)
        if hidden is None:
            zeros = input.new_zeros(wanted)
            return zeros, zeros
        for state in hidden:
            if state.shape != wanted:
                raise ValueError(f"SparseLSTM takes states {wanted}, got {tuple(state.shape)}")
        return hidden

    def block_weights(self, index: int) -> list[Tensor]:
        """The tensors that a block computes with: weight_ih, weight_hh, bias_ih, bias_hh, and these
        of the other direction. Draws the block's dropout mask: call it once a forward, in order."""
        block: Any = self.LSTMs[index]
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
        reduce_in, reduce_out = self.reduce or (1, 1)
        asked = dense_parameters(reduce_in * self.input_size, reduce_out * self.hidden_size)
        return (f"SparseLSTM {self.input_size} -> {self.hidden_size} with reduce_in {reduce_in:g}, "
                f"reduce_out {reduce_out:g}: every block already reads the whole input, so it has "
                f"{self.composition.parameters:,} parameters, not the {asked:,.0f} of the dense "
                "layer")

    def info_dict(self) -> dict:
        """The facts of the layer, under the original's names. "sparseness" is its density:
        parameters divided by those of a dense layer of the same sizes."""
        size_in, size, found = self.input_size, self.hidden_size, self.composition
        info: dict[str, object] = {"ninp": size_in, "nhid": size, "wdrop": self.wdrop,
                                   "density": found.density}
        if self.reduce:
            reduce_in, reduce_out = self.reduce
            info |= {"reduce_in": reduce_in, "reduce_out": reduce_out}
            if found.blocks > 1:
                small = (round(reduce_in * size_in), round(reduce_out * size))
                info["equiv_dense_lstm"] = {
                    "ninp": small[0], "nhid": small[1],
                    "params": f"{dense_parameters(*small) / 1e6:.2f}M"}
        info["sizes_input"] = [end - begin for begin, end in found.inputs]
        info["sizes_output"] = [end - begin for begin, end in found.outputs]
        info["sparseness"] = found.parameters / dense_parameters(size_in, size)
        info["params"] = f"{self.n_parameters() / 1e6:.2f}M"
        return info

    def info(self) -> str:
        """A small table: one line per block."""
        facts = self.info_dict()
        lines = [f"SparseLSTM {self.input_size} -> {self.hidden_size}: {self.composition.blocks} "
                 f"blocks, {facts['params']} parameters, density {facts['sparseness']:.3f}"]
        for index, ((i0, i1), (o0, o1)) in enumerate(self.composition.ranges):
            lines.append(f"  block {index:2d}: input {i0:5d}..{i1:<5d} -> state {o0:5d}..{o1:<5d}")
        if self.composition.clamped:
            lines.append(f"  {self._shortfall()}")
        return "\n".join(lines)

    def extra_repr(self) -> str:
        return (f"{self.input_size}, {self.hidden_size}, blocks={self.composition.blocks}, "
                f"density={self.composition.density:.4g}, wdrop={self.wdrop}")
