"""The two passes over a TrellisNet's levels: the equations of levels.py, level by level.

Notation: as there.
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.product import product
from trellisnet.dilated_products import DilatedProducts, FirProducts
from trellisnet.gates import gates_forward, on_gpu
from trellisnet.level_plan import Plan


class How(NamedTuple):
    """How the levels are computed, apart from their positions."""
    dtype: torch.dtype  # of the matrix products
    fir: bool
    gates_forward: Callable
    gates_backward: Callable
    nout: int
    will_backward: bool


class Forward:
    """The levels of one call. Backward runs once more through those whose gates were not kept."""

    def __init__(self, x, weight1, weight2, bias, h0, c0, mask, plan: Plan, how: How):
        self.x, self.bias, self.c0, self.mask = x.to(how.dtype), bias, c0, mask
        self.plan, self.how = plan, how
        self.w1 = DilatedProducts(weight1, how.dtype)
        self.w2 = (FirProducts if how.fir else DilatedProducts)(weight2, how.dtype)
        self.masked_h0 = self.masked(h0).to(how.dtype)
        self.by_kernel = how.gates_forward is gates_forward and on_gpu(x)
        self.input_parts: dict[int, Tensor] = {}         # dilation -> W1 x + b
        self.levels_to_come = Counter(plan.dilations)    # dilation -> levels yet to read it

    def masked(self, h: Tensor) -> Tensor:
        return h if self.mask is None else h * self.mask

    @functools.cached_property
    def initial_parts(self) -> Tensor:
        """W2_j [m * h0] of every tap that can reach left of time 0: (k-1, N, 4H)."""
        past_taps = self.w2.weight[:self.plan.kernel - 1]
        return (self.masked_h0 @ past_taps.transpose(1, 2)).to(self.bias.dtype)

    def input_part(self, level: int, overwritten: bool = True) -> Tensor:
        """W1 x + b at the level's positions; to be overwritten: a copy of what is kept, for the
        last level of that dilation the array itself."""
        plan, d = self.plan, self.plan.dilations[level]
        if d not in self.input_parts:
            lowest = plan.lowest(d)
            part = self.bias.repeat(plan.rows(lowest), self.x.shape[1], 1)
            self.w1.forward(part, plan.starts[lowest], self.x, 0, d)
            self.input_parts[d] = part
        self.levels_to_come[d] -= 1
        more = self.levels_to_come[d]
        part = (self.input_parts[d] if more else self.input_parts.pop(d))[-plan.rows(level):]
        return part.clone() if more and overwritten else part

    def c_delayed(self, level: int, c_below: Tensor | None) -> Tensor:
        """c'(t - d) at the level's positions."""
        from_c0, rows = self.plan.cell_rows(level)
        if c_below is None:  # under the first level
            source = self.c0.new_zeros(rows.stop - rows.start, *self.c0.shape)
        else:
            source = c_below[rows]
        return torch.cat([self.c0.expand(from_c0, -1, -1), source]) if from_c0 else source

    def level(self, level: int, h_below: Tensor | None, c_below: Tensor | None,
              mask: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """One level on the masked h and the c of the level below (None under the first).

        Returns the gates, c, and h times `mask` in `dtype`.
        """
        plan = self.plan
        if self.by_kernel and h_below is not None:
            summands = self.w2.summands(plan.rows(level), plan.starts[level], h_below,
                                        plan.starts[level - 1], plan.dilations[level])
            if summands:
                a, *more = summands
                return self.how.gates_forward(a, self.c_delayed(level, c_below), mask, dtype,
                                              self.input_part(level, overwritten=False), *more)
        a = self.input_part(level)                                              # (time, N, 4H)
        for tap, rows in plan.initial_rows(level):
            a[:rows] += self.initial_parts[tap]
        if h_below is not None:
            self.w2.forward(a, plan.starts[level], h_below, plan.starts[level - 1],
                            plan.dilations[level])
        return self.how.gates_forward(a, self.c_delayed(level, c_below), mask, dtype)

    def run(self, levels: range, h: Tensor | None, c: Tensor | None, visit: Callable) -> tuple:
        """Runs `levels` on the masked h and the c below them; returns those of the last.

        visit(level, gates, c, h) may take what it wants; the h of an output level is not masked.
        """
        how = self.how
        for level in levels:
            output = self.plan.is_output(level)
            gates, c, h = self.level(level, h, c, *((None, self.bias.dtype) if output
                                                    else (self.mask, how.dtype)))
            visit(level, gates, c, h)
            if output:
                h = self.masked(h).to(how.dtype)
        return h, c


class Backward:
    """The gradients above, from the top level down, and what is carried from level to level."""

    def __init__(self, forward: Forward, given: tuple, output_grads: tuple, wanted: tuple):
        self.forward, self.plan, self.how = forward, forward.plan, forward.how
        self.output_grads, self.wanted = output_grads, wanted
        self.dx, _, _, self.db, self.dh0, self.dc0 = (
            torch.zeros_like(t, memory_format=torch.contiguous_format) for t in given[:6])
        self.da_sums = {}     # dilation -> S
        self.da_initial = None  # per tap, the sum of Da over all that reads h0 by it: (k-1, N, 4H)
        self.above = None     # (level, Da) of the level above, whose part of DW2 waits for this h

    def all_levels(self, kept: tuple) -> tuple:
        """The gradients of x, weight1, weight2, bias, h0, c0."""
        dh = dc = None
        for levels in reversed(self.plan.groups()):
            states = self.states(levels, kept)
            while len(states) > 1:
                gates, c = states.pop()
                if dh is None:
                    dh, dc = torch.zeros_like(c), torch.zeros_like(c)
                dh, dc = self.level(levels[len(states) - 1], gates, c, states[-1][1], dh, dc)
        self.initial_state()
        weights = [products.weight_grad() if wanted else None for products, wanted in
                   zip((self.forward.w1, self.forward.w2), self.wanted[1:3], strict=True)]
        return self.dx, *weights, self.db, self.dh0, self.dc0

    def states(self, levels: range, kept: tuple) -> list:
        """(gates, c) of these levels, after (None, c) of the level below them."""
        if not self.plan.checkpoint:
            return [(None, None), *zip(kept[::2], kept[1::2], strict=True)]
        # Forward kept the masked h and c below each group but the first.
        at = 2 * (levels[0] // self.plan.checkpoint)
        h, c = kept[at - 2:at] if at else (None, None)
        states = [(None, c)]
        self.forward.run(levels, h, c, lambda level, gates, c, h: states.append((gates, c)))
        return states

    def level(self, level: int, gates: Tensor, c: Tensor, c_below: Tensor | None, dh: Tensor,
              dc: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """From the gradients of m * h and c, which it overwrites, to those one level below."""
        forward, plan = self.forward, self.plan
        from_c0, rows_below = plan.cell_rows(level)
        if forward.mask is not None and plan.is_output(level):
            dh *= forward.mask
        self.add_output_grads(level, dh, dc)
        total, below, more = self.total(level, gates), None, {}
        if forward.by_kernel:
            rounded = total is not None and not any(plan.initial_rows(level))
            more = {"total": total, "da_dtype": self.how.dtype if rounded else None}
            if c_below is not None and not from_c0:
                below = c_below.new_empty(2, *c_below.shape)
                more |= {"below": below, "first": rows_below.start}
        da, dc, h = self.how.gates_backward(
            gates, forward.c_delayed(level, c_below), c, forward.mask, dh, dc, self.how.dtype,
            not plan.is_output(level), **more)
        if total is not None and not forward.by_kernel:
            total += da
        if from_c0:
            self.dc0 += dc[:from_c0].sum(0)
        self.weight2_of_level_above(h)
        for tap, rows in plan.initial_rows(level):
            if self.da_initial is None:
                self.da_initial = da.new_zeros(plan.kernel - 1, *da.shape[1:])
            self.da_initial[tap] += da[:rows].sum(0)
        self.input_part(level, da)
        if c_below is None:
            return None, None
        da = da.to(self.how.dtype)
        self.above = level, da
        dh_below, dc_below = c_below.new_zeros(2, *c_below.shape) if below is None else below
        forward.w2.backward_input(da, plan.starts[level], dh_below, plan.starts[level - 1],
                                  plan.dilations[level])
        if below is None:
            dc_below[rows_below] = dc[from_c0:]
        return dh_below, dc_below

    def add_output_grads(self, level: int, dh: Tensor, dc: Tensor) -> None:
        """Adds what the outputs of this level, if it has any, say about its h and c."""
        plan = self.plan
        d_out, d_aux, d_h, d_c = self.output_grads
        channels = dh[plan.start - plan.starts[level]:, :, dh.shape[2] - self.how.nout:]
        for number, aux_level in enumerate(plan.aux_levels):
            if aux_level == level and d_aux is not None:
                channels += d_aux[number]
        if level == plan.top:
            for grad, into in ((d_out, channels), (d_h, dh[-1]), (d_c, dc[-1])):
                if grad is not None:
                    into += grad

    def weight2_of_level_above(self, h: Tensor) -> None:
        """Adds to DW2 the part of the level above, which reads this level's masked h. Only now has
        that h been made again."""
        if self.above is not None and self.wanted[2]:
            plan, (level, da) = self.plan, self.above
            self.forward.w2.backward_weight(da, plan.starts[level], h, plan.starts[level - 1],
                                            plan.dilations[level])
        self.above = None

    def total(self, level: int, like: Tensor) -> Tensor | None:
        """S at the level's positions, so far; None at the only level of a dilation, whose Da is S.
        """
        plan, d = self.plan, self.plan.dilations[level]
        lowest = plan.lowest(d)
        if d not in self.da_sums:
            if level == lowest:
                return None
            self.da_sums[d] = like.new_zeros(plan.rows(lowest), *like.shape[1:])
        return self.da_sums[d][-plan.rows(level):]

    def input_part(self, level: int, da: Tensor) -> None:
        """At the lowest level of a dilation, where S is whole: Db, DW1, Dx."""
        plan, d = self.plan, self.plan.dilations[level]
        if level > plan.lowest(d):
            return
        da_sum = self.da_sums.pop(d, da)
        self.db += da_sum.sum((0, 1))
        da_sum, start = da_sum.to(self.how.dtype), plan.starts[level]
        if self.wanted[0]:
            self.forward.w1.backward_input(da_sum, start, self.dx, 0, d)
        if self.wanted[1]:
            self.forward.w1.backward_weight(da_sum, start, self.forward.x, 0, d)

    def initial_state(self) -> None:
        """Dh0, and the part of DW2 that meets h0."""
        if self.da_initial is None:
            return
        w2 = self.forward.w2
        for tap, da in enumerate(self.da_initial.to(self.how.dtype)):
            self.dh0 += self.forward.masked(product(da, w2.weight[tap]))
            if self.wanted[2]:
                w2.add_weight_grad(tap, da, self.forward.masked_h0)
