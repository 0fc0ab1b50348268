"""The levels of a TrellisNet (Bai et al. 2019, sec. 4) as one differentiable operation.

Letters: L time steps (t from 0), N batch, E input and H hidden channels, k taps of the kernel,
d dilation of a level. Every level applies the same weights to its input x, the same for all
levels, and to the level below it:

    a(t) = sum_j W1_j x(t - (k-1-j) d) + sum_j W2_j [mask * h_below(t - (k-1-j) d)] + bias
    i, o, g, f = the four H rows of a, through sigmoid, sigmoid, tanh, sigmoid
    c(t) = f * c_below(t - d) + i * g                   h(t) = o * tanh(c(t))

Left of time 0, x is zero, and h and c are h0 and c0 at every level; under the first level they are
zero from time 0 on. What makes it fast, each of it exact:

- Time comes first in memory, so that a tap is one matrix product on a shifted view of the rows
  (time * batch), without the copies of a general convolution.
- A level computes only the positions that a wanted output can see: if outputs are wanted from
  `start` on, then the level below from start - (k-1) d on, and so down.
- The input's part of a is computed once for all levels of one dilation, the bias with it.
- The part of W2_j that meets h0 is the same product at every position and level: N rows, once.
- One backward for all levels adds each level's weight gradient into one buffer. It keeps the gates
  and c; h is made again from them, just when the gradients of the gates need tanh(c) anyway.

The products are in taps.py, the gates in gates.py. On the CPU a program should keep freed memory
(awd_lstm.environment.keep_freed_memory): with glibc's defaults a step takes 1.4 times as long.
"""

import functools
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from trellisnet.gates import compiled_gates, gates_backward, gates_forward
from trellisnet.taps import FirTaps, Taps

__all__ = ["compiled_gates", "trellis_levels"]


@torch.compiler.disable  # packed weights cannot be traced; to compile the gates there is fuse
def trellis_levels(x: Tensor, weight1: Tensor, weight2: Tensor, bias: Tensor, h0: Tensor,
                   c0: Tensor, mask: Tensor | None, dilations: tuple, nout: int, start: int = 0,
                   taps: tuple = (), *, checkpoint: int = 0, fir: bool = False, fuse=None
                   ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All levels; everything but the mask may need gradients.

    Args:
        x: input (L, N, E).
        weight1, weight2: (4H, E, k) and (4H, H, k); tap k-1 is the current step. Fastest if
            weight.permute(2, 0, 1) is contiguous.
        bias: (4H,). Its rows, and those of the weights, belong to i, o, g, f.
        h0, c0: (N, H), the state that stands left of time 0 at every level.
        mask: (N, H) dropout mask, already scaled, on what enters the hidden product; or None.
        dilations: the dilation of each level, from the first to the top.
        nout: number of last channels of h that are the output.
        start: first position of the outputs that is wanted.
        taps: levels (from 0) whose outputs are wanted too.
        checkpoint: if K > 0, keep for backward only every K-th level and recompute the others.
        fir: three products in place of four (k = 2 only), see trellisnet/taps.py.
        fuse: the gates' functions, forward and backward, such as compiled_gates(); None: eager.

    Returns:
        output of the top level (L-start, N, nout), outputs of `taps` (len(taps), L-start, N, nout),
        and h and c (N, H) of the top level at the last step.
    """
    kernel = weight2.shape[2]
    if fir and kernel != 2:
        raise ValueError(f"fir needs a kernel of 2 taps, not {kernel}")
    device = x.device.type
    autocast = torch.is_autocast_enabled(device)
    given = (x, weight1, weight2, bias, h0, c0)
    plan = _Plan(
        length=len(x), starts=_starts(len(x), start, dilations, kernel), dilations=tuple(dilations),
        kernel=kernel, start=start, taps=tuple(taps), nout=nout, checkpoint=checkpoint, fir=fir,
        dtype=torch.get_autocast_dtype(device) if autocast else x.dtype,
        gates=fuse or (gates_forward, gates_backward),
        keep=torch.is_grad_enabled() and any(t.requires_grad for t in given))
    if autocast:  # gates, cell and sums stay in float32
        given = tuple(t.float() for t in given)
    with torch.autocast(device, enabled=False):
        return _Levels.apply(*given, mask, plan)


class _Plan(NamedTuple):
    """What is to be computed."""
    length: int
    starts: tuple       # first position of each level
    dilations: tuple
    kernel: int
    start: int
    taps: tuple
    nout: int
    checkpoint: int
    fir: bool
    dtype: torch.dtype  # of the products
    gates: tuple
    keep: bool          # will there be a backward?

    def wants(self, level: int) -> bool:
        return level in self.taps or level == len(self.dilations) - 1

    def segments(self) -> list[range]:
        """The levels in groups whose gates are kept or recomputed together."""
        levels = len(self.dilations)
        step = self.checkpoint or levels
        return [range(low, min(low + step, levels)) for low in range(0, levels, step)]


def _starts(length: int, start: int, dilations: tuple, kernel: int) -> tuple:
    """First position that each level has to compute; the state at the last step is always one."""
    first = [min(start, length - 1)]
    for d in reversed(dilations[1:]):
        first.append(max(0, first[-1] - max((kernel - 1) * d, d)))
    return tuple(reversed(first))


class _Net:
    """One call's tensors, and what its levels compute with them."""

    def __init__(self, x, weight1, weight2, bias, h0, c0, mask, plan):
        self.x, self.bias, self.c0, self.mask, self.plan = x.to(plan.dtype), bias, c0, mask, plan
        self.input = Taps(weight1, plan.dtype)
        self.hidden = (FirTaps if plan.fir else Taps)(weight2, plan.dtype)
        self.masked_h0 = _masked(h0, mask).to(plan.dtype)
        self.terms, self.users = {}, Counter(plan.dilations)

    @functools.cached_property
    def pads(self) -> Tensor:
        """What each tap adds where it sees h0: (k-1, N, 4H)."""
        weight = self.hidden.weight[:self.plan.kernel - 1]
        return (self.masked_h0 @ weight.transpose(1, 2)).to(self.bias.dtype)

    def padded(self, level: int):
        """Of every tap that sees h0: its number, and how many of the level's first positions."""
        p = self.plan
        s = p.starts[level]
        for j in range(p.kernel - 1):
            pad = min((p.kernel - 1 - j) * p.dilations[level], p.length) - s
            if pad > 0:
                yield j, pad

    def c_source(self, level: int, c_below: Tensor | None) -> tuple[Tensor, int]:
        """c_below(t - d) for the level's positions t; and how many of them see c0."""
        p = self.plan
        s, d, rows = p.starts[level], p.dilations[level], p.length - p.starts[level]
        pad = min(max(d - s, 0), rows)
        if c_below is None:  # under the first level
            source = self.c0.new_zeros(rows - pad, *self.c0.shape)
        else:
            low = s + pad - d - p.starts[level - 1]
            source = c_below[low:low + rows - pad]
        return torch.cat([self.c0.expand(pad, -1, -1), source]) if pad else source, pad

    def input_term(self, level: int) -> Tensor:
        """The input's part of a with the bias, which this level may overwrite."""
        p = self.plan
        d = p.dilations[level]
        if d not in self.terms:
            s = p.starts[p.dilations.index(d)]  # the lowest level needs the most positions
            term = self.bias.repeat(p.length - s, self.x.shape[1], 1)
            self.input.forward(term, s, self.x, 0, d)
            self.terms[d] = term
        self.users[d] -= 1
        term = self.terms[d] if self.users[d] else self.terms.pop(d)
        term = term[p.starts[level] - p.length:]
        return term.clone() if self.users[d] else term

    def level_forward(self, level: int, h: Tensor | None, c_below: Tensor | None,
                      mask: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """One level on the masked h and the c of the level below (None under the first).

        Returns the gates, c, and h times the mask in that dtype.
        """
        p = self.plan
        a = self.input_term(level)                                             # (time, N, 4H)
        for j, pad in self.padded(level):
            a[:pad] += self.pads[j]
        if h is not None:
            self.hidden.forward(a, p.starts[level], h, p.starts[level - 1], p.dilations[level])
        return p.gates[0](a, self.c_source(level, c_below)[0], mask, dtype)

    def run(self, levels: range, h: Tensor | None, c: Tensor | None, visit) -> tuple:
        """Runs `levels` on the masked h and c below them; returns those of the last.

        visit(level, gates, c, h) may take what it wants; where the plan wants h, it is unmasked.
        """
        p = self.plan
        for level in levels:
            whole = (None, self.bias.dtype) if p.wants(level) else (self.mask, p.dtype)
            gates, c, h = self.level_forward(level, h, c, *whole)
            visit(level, gates, c, h)
            if p.wants(level):
                h = _masked(h, self.mask).to(p.dtype)
        return h, c


def _masked(h: Tensor, mask: Tensor | None) -> Tensor:
    return h if mask is None else h * mask


class _Levels(Function):
    @staticmethod
    def forward(ctx, x, weight1, weight2, bias, h0, c0, mask, plan):
        net = _Net(x, weight1, weight2, bias, h0, c0, mask, plan)
        kept, outputs = [], {}

        def visit(level, gates, c, h):
            if plan.keep and not plan.checkpoint:
                kept.extend((gates, c))
            if plan.wants(level):
                outputs[level] = h[plan.start - plan.starts[level]:, :, h.shape[2] - plan.nout:]
                outputs["last"] = h[-1]

        h = c = None
        for levels in plan.segments():
            if plan.keep and plan.checkpoint and h is not None:
                kept.extend((h, c))
            h, c = net.run(levels, h, c, visit)
        ctx.save_for_backward(x, weight1, weight2, bias, h0, c0, mask, *kept)
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        top = outputs[len(plan.dilations) - 1]
        aux = torch.stack([outputs[level] for level in plan.taps]) if plan.taps \
            else top.new_empty(0, *top.shape)
        return top.clone(), aux, outputs["last"].clone(), c[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, *output_grads):
        given, kept = ctx.saved_tensors[:7], ctx.saved_tensors[7:]
        with torch.autocast(given[0].device.type, enabled=False):
            run = _Backward(_Net(*given, ctx.plan), given, output_grads, ctx.needs_input_grad)
            return *run.all_levels(kept), None, None


class _Backward:
    """What the backward pass carries from level to level."""

    def __init__(self, net: _Net, given: tuple, output_grads: tuple, wanted: tuple):
        self.net, self.plan, self.output_grads, self.wanted = net, net.plan, output_grads, wanted
        self.dx, _, _, self.dbias, self.dh0, self.dc0 = (
            torch.zeros_like(t, memory_format=torch.contiguous_format) for t in given[:6])
        self.pads = None     # the sum of da over all that sees h0 through a tap: (k-1, N, 4H)
        self.terms = {}      # dilation -> gradient of the input's part of a
        self.pending = None  # level and da, waiting for the h of the level below

    def all_levels(self, kept: tuple) -> tuple:
        """The gradients of x, weight1, weight2, bias, h0, c0."""
        dh = dc = None
        for levels in reversed(self.plan.segments()):
            states = self.states(levels, kept)
            while len(states) > 1:
                gates, c = states.pop()
                if dh is None:
                    dh, dc = torch.zeros_like(c), torch.zeros_like(c)
                dh, dc = self.level(levels[len(states) - 1], gates, c, states[-1][1], dh, dc)
        self.initial_state()
        weights = [taps.weight_grad() if wanted else None for taps, wanted in
                   zip((self.net.input, self.net.hidden), self.wanted[1:3], strict=True)]
        return self.dx, *weights, self.dbias, self.dh0, self.dc0

    def states(self, levels: range, kept: tuple) -> list:
        """(gates, c) of these levels, after (None, c) of the level below them."""
        step = self.plan.checkpoint
        if not step:
            return [(None, None), *zip(kept[::2], kept[1::2], strict=True)]
        at = 2 * (levels[0] // step)
        h, c = kept[at - 2:at] if at else (None, None)
        states = [(None, c)]
        self.net.run(levels, h, c, lambda level, gates, c, h: states.append((gates, c)))
        return states

    def level(self, level: int, gates: Tensor, c: Tensor, c_below: Tensor | None, dh: Tensor,
              dc: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """From the gradients of masked h and c, which it overwrites, to those one level below."""
        net, p = self.net, self.plan
        if net.mask is not None:
            dh *= net.mask
        self.add_output_grads(level, dh, dc)
        source, c0_rows = net.c_source(level, c_below)
        da, dc, h = p.gates[1](gates, source, c, net.mask, dh, dc, p.dtype)
        if c0_rows:
            self.dc0 += dc[:c0_rows].sum(0)
        self.hidden_weight(h)
        for j, pad in net.padded(level):
            if self.pads is None:
                self.pads = da.new_zeros(p.kernel - 1, *da.shape[1:])
            self.pads[j] += da[:pad].sum(0)
        self.input_term(level, da)
        if c_below is None:
            return None, None
        da, s, s_below, d = da.to(p.dtype), p.starts[level], p.starts[level - 1], p.dilations[level]
        self.pending = level, da
        dh_below, dc_below = torch.zeros_like(c_below), torch.zeros_like(c_below)
        net.hidden.backward_input(da, s, dh_below, s_below, d)
        low = s + c0_rows - d - s_below
        dc_below[low:low + len(dc) - c0_rows] = dc[c0_rows:]
        return dh_below, dc_below

    def add_output_grads(self, level: int, dh: Tensor, dc: Tensor) -> None:
        p = self.plan
        d_out, d_aux, d_h, d_c = self.output_grads
        wanted = dh[p.start - p.starts[level]:, :, dh.shape[2] - p.nout:]
        for i, tap in enumerate(p.taps):
            if tap == level and d_aux is not None:
                wanted += d_aux[i]
        if level == len(p.dilations) - 1:
            for grad, into in ((d_out, wanted), (d_h, dh[-1]), (d_c, dc[-1])):
                if grad is not None:
                    into += grad

    def hidden_weight(self, h: Tensor) -> None:
        """The part that the level above, whose input is h, has in the gradient of weight2."""
        if self.pending is not None and self.wanted[2]:
            p, (level, da) = self.plan, self.pending
            self.net.hidden.backward_weight(da, p.starts[level], h, p.starts[level - 1],
                                            p.dilations[level])
        self.pending = None

    def input_term(self, level: int, da: Tensor) -> None:
        """Sums da over the levels of one dilation; at the lowest of them, the input's gradients."""
        net, p = self.net, self.plan
        s, d = p.starts[level], p.dilations[level]
        lowest = p.dilations.index(d)
        term = self.terms.pop(d, None)
        if term is None:
            rows = p.length - p.starts[lowest]
            term = da if level == lowest else da.new_zeros(rows, *da.shape[1:])
        if term is not da:
            term[s - p.length:] += da
        if level > lowest:
            self.terms[d] = term
            return
        self.dbias += term.sum((0, 1))
        term = term.to(p.dtype)
        if self.wanted[0]:
            net.input.backward_input(term, s, self.dx, 0, d)
        if self.wanted[1]:
            net.input.backward_weight(term, s, net.x, 0, d)

    def initial_state(self) -> None:
        """The gradients through the products with h0."""
        if self.pads is None:
            return
        hidden = self.net.hidden
        for j, pad in enumerate(self.pads.to(self.plan.dtype)):
            self.dh0 += _masked(pad @ hidden.weight[j], self.net.mask)
            if self.wanted[2]:
                hidden.add_weight_grad(j, pad, self.net.masked_h0)
