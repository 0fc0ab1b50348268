"""The levels of a TrellisNet (Bai et al. 2019, sec. 4) as one differentiable operation.

Forward. Every level applies the same weights to the input x and to the level below it:

    a(t) = sum_j W1_j x(t - (k-1-j) d) + sum_j W2_j [m * h'(t - (k-1-j) d)] + b
    i, o, g, f = the four H rows of a(t), through sigmoid, sigmoid, tanh, sigmoid
    c(t) = f * c'(t - d) + i * g                        h(t) = o * tanh(c(t))

h', c' belong to the level below. Left of time 0, x is zero, and h' and c' are h0 and c0 at every
level; under the first level they are zero from time 0 on.

Backward. Write Dy for the gradient of the loss with respect to y. A level is given Dh(t), Dc(t),
what the level above and the outputs say about its h and c, and passes on:

    Dc(t) += Dh(t) * o * (1 - tanh(c)^2)                                     (h reads c)
    Da(t)  = [Dc * g * i(1-i),   Dh * tanh(c) * o(1-o),   Dc * i * (1-g^2),   Dc * c'(t-d) * f(1-f)]

    Dc'(t - d)  = f * Dc(t)                                 where t < d:  Dc0 += f * Dc(t)
    Dh'(s)      = m * sum_j W2_j^T Da(s + (k-1-j) d)        where s < 0:  Dh0 += ...
    DW2_j      += sum_t Da(t) [m * h'(t - (k-1-j) d)]^T
    Db         += sum_t Da(t)
    DW1_j      += sum_t S(t) x(t - (k-1-j) d)^T             S = sum of Da over the levels of one d
    Dx(s)      += sum_j W1_j^T S(s + (k-1-j) d)

What makes it fast, each of it exact:

- Time comes first in memory, so that a tap is one matrix product on a shifted view of the rows
  (time * batch), without the copies of a general convolution (dilated_products.py).
- A level computes only the positions that a wanted output can see (level_plan.py).
- The input's part of a is computed once for all levels of one dilation, the bias with it; backward,
  the levels' Da are summed to S first, so that W1 and x take part in one product per dilation.
- W2_j h0 is the same product at every position and level: N rows, once; and so is its gradient.
- One backward for all levels adds each level's DW2 into one buffer. It keeps the gates and c. It
  makes h again from them, at the moment when Da needs tanh(c) anyway.
  On the CPU a program should keep freed memory: with glibc's a step takes 1.4 times as long.

Notation: L time steps, N batch, E input channels, H hidden channels, k taps of the kernel, d
dilation of a level, j a tap, m the mask. Arrays are (time, batch, channels).
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function

from kernels.product import product
from kernels.second_derivatives import plain_gradients
from trellisnet.dilated_products import DilatedProducts, FirProducts
from trellisnet.gates import gates_backward, gates_forward
from trellisnet.level_plan import Plan, first_positions
from trellisnet.levels_plain import trellis_plain


def trellis_levels(x: Tensor, weight1: Tensor, weight2: Tensor, bias: Tensor, h0: Tensor,
                   c0: Tensor, mask: Tensor | None, dilations: tuple, nout: int, start: int = 0,
                   aux_levels: tuple = (), *, checkpoint: int = 0, fir: bool = False, fuse=None
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
        aux_levels: levels (from 0) whose outputs are wanted too.
        checkpoint: if K > 0, keep for backward only every K-th level and recompute the others.
        fir: three products in place of four (k = 2 only), see dilated_products.py.
        fuse: the gates' functions, forward and backward, such as compiled_gates(); None: eager.

    Returns:
        output of the top level (L-start, N, nout), outputs of `aux_levels` (their number, L-start,
        N, nout), and h and c (N, H) of the top level at the last step.

    Under autocast the products are in its dtype; gates, cell and sums stay in float32. Second
    derivatives are those of `trellis_plain`. ValueError for `fir` with another kernel size than 2.
    """
    if torch.compiler.is_compiling():  # packed weights cannot be traced; to compile there is fuse
        return torch.compiler.disable(trellis_levels)(
            x, weight1, weight2, bias, h0, c0, mask, dilations, nout, start, aux_levels,
            checkpoint=checkpoint, fir=fir, fuse=fuse)
    kernel = weight2.shape[2]
    if fir and kernel != 2:
        raise ValueError(f"fir needs a kernel of 2 taps, not {kernel}")
    plan = Plan(len(x), kernel, tuple(dilations), first_positions(len(x), start, dilations, kernel),
                start, tuple(aux_levels), checkpoint)
    device = x.device.type
    autocast = torch.is_autocast_enabled(device)
    given = (x, weight1, weight2, bias, h0, c0)
    how = _How(torch.get_autocast_dtype(device) if autocast else x.dtype, fir,
               *(fuse or (gates_forward, gates_backward)), nout,
               torch.is_grad_enabled() and any(t.requires_grad for t in given))
    if autocast:
        given = tuple(t.float() for t in given)
    with torch.autocast(device, enabled=False):
        return _AllLevels.apply(*given, mask, plan, how)


class _How(NamedTuple):
    """How the levels are computed, apart from their positions."""
    dtype: torch.dtype  # of the matrix products
    fir: bool
    gates_forward: Callable
    gates_backward: Callable
    nout: int
    will_backward: bool


class _Forward:
    """The levels of one call. Backward runs once more through those whose gates were not kept."""

    def __init__(self, x, weight1, weight2, bias, h0, c0, mask, plan: Plan, how: _How):
        self.x, self.bias, self.c0, self.mask = x.to(how.dtype), bias, c0, mask
        self.plan, self.how = plan, how
        self.w1 = DilatedProducts(weight1, how.dtype)
        self.w2 = (FirProducts if how.fir else DilatedProducts)(weight2, how.dtype)
        self.masked_h0 = self.masked(h0).to(how.dtype)
        self.input_parts: dict[int, Tensor] = {}         # dilation -> W1 x + b
        self.levels_to_come = Counter(plan.dilations)    # dilation -> levels yet to read it

    def masked(self, h: Tensor) -> Tensor:
        return h if self.mask is None else h * self.mask

    @functools.cached_property
    def initial_parts(self) -> Tensor:
        """W2_j [m * h0] of every tap that can reach left of time 0: (k-1, N, 4H)."""
        past_taps = self.w2.weight[:self.plan.kernel - 1]
        return (self.masked_h0 @ past_taps.transpose(1, 2)).to(self.bias.dtype)

    def input_part(self, level: int) -> Tensor:
        """W1 x + b at the level's positions, for the level to overwrite: a copy of what is kept,
        for the last level of that dilation the array itself."""
        plan, d = self.plan, self.plan.dilations[level]
        if d not in self.input_parts:
            lowest = plan.lowest(d)
            part = self.bias.repeat(plan.rows(lowest), self.x.shape[1], 1)
            self.w1.forward(part, plan.starts[lowest], self.x, 0, d)
            self.input_parts[d] = part
        self.levels_to_come[d] -= 1
        more = self.levels_to_come[d]
        part = (self.input_parts[d] if more else self.input_parts.pop(d))[-plan.rows(level):]
        return part.clone() if more else part

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


class _AllLevels(Function):
    @staticmethod
    def forward(ctx, x, weight1, weight2, bias, h0, c0, mask, plan, how):
        run = _Forward(x, weight1, weight2, bias, h0, c0, mask, plan, how)
        kept, outputs = [], {}

        def visit(level, gates, c, h):
            if how.will_backward and not plan.checkpoint:
                kept.extend((gates, c))
            if plan.is_output(level):
                outputs[level] = h[plan.start - plan.starts[level]:, :, h.shape[2] - how.nout:]
                outputs["last"] = h[-1]

        h = c = None
        for levels in plan.groups():
            if how.will_backward and plan.checkpoint and h is not None:
                kept.extend((h, c))
            h, c = run.run(levels, h, c, visit)
        ctx.save_for_backward(x, weight1, weight2, bias, h0, c0, mask, *kept)
        ctx.plan, ctx.how, top = plan, how, outputs[plan.top]
        ctx.set_materialize_grads(False)
        aux = torch.stack([outputs[level] for level in plan.aux_levels]) if plan.aux_levels \
            else top.new_empty(0, *top.shape)
        return top.clone(), aux, outputs["last"].clone(), c[-1].clone()

    @staticmethod
    def backward(ctx, *output_grads):
        given, kept = ctx.saved_tensors[:7], ctx.saved_tensors[7:]
        with torch.autocast(given[0].device.type, enabled=False):
            if torch.is_grad_enabled():  # create_graph=True: what follows leaves no graph
                rest = ctx.plan.dilations, ctx.how.nout, ctx.plan.start, ctx.plan.aux_levels
                return *plain_gradients(lambda *g: trellis_plain(*g, *rest), given, output_grads), \
                    None, None
            forward = _Forward(*given, ctx.plan, ctx.how)
            run = _Backward(forward, given, output_grads, ctx.needs_input_grad)
            return *run.all_levels(kept), None, None, None


class _Backward:
    """The gradients above, from the top level down, and what is carried from level to level."""

    def __init__(self, forward: _Forward, given: tuple, output_grads: tuple, wanted: tuple):
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
        # On a GPU the gradient of c is written where it belongs at once.
        at_once = c_below is not None and c_below.is_cuda and not from_c0
        below = c_below.new_zeros(2, *c_below.shape) if at_once else None
        da, dc, h = self.how.gates_backward(
            gates, forward.c_delayed(level, c_below), c, forward.mask, dh, dc, self.how.dtype,
            not plan.is_output(level), below[1][rows_below] if at_once else None)
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
        dh_below, dc_below = below if at_once else c_below.new_zeros(2, *c_below.shape)
        forward.w2.backward_input(da, plan.starts[level], dh_below, plan.starts[level - 1],
                                  plan.dilations[level])
        if not at_once:
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

    def input_part(self, level: int, da: Tensor) -> None:
        """Adds Da to S; at the lowest level of a dilation S is whole, and gives Db, DW1, Dx."""
        plan, d = self.plan, self.plan.dilations[level]
        lowest = plan.lowest(d)
        da_sum = self.da_sums.pop(d, None)
        if da_sum is None:  # the topmost level of this dilation; alone, it needs no copy
            da_sum = da if level == lowest else da.new_zeros(plan.rows(lowest), *da.shape[1:])
        if da_sum is not da:
            da_sum[-plan.rows(level):] += da
        if level > lowest:
            self.da_sums[d] = da_sum
            return
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
