"""The levels of a TrellisNet when only the last position's output is wanted, as in classification.

With dilations 1, 1, 2, 4, ..., 512 the top level at position t looks at t and t - 512 of the level
below, that one at every 256th position of the next, and so on: of 11 levels of 784 positions only
about two levels' worth are ever seen. Each level here computes its output at every S-th position
counted from the last one. Leaving the other positions out changes no number.

The equations, forward and backward, are those of levels.py. What a position sees lies side by side
(the taps of m h' and of x, a one), as do the weights that it meets (W2, W1, b): a level is one
product, and so is each of its gradients. That takes a copy of h', but skipping would need one too.

Notation: L time steps, t a position, N batch, E input and H hidden channels, k taps, d dilation,
S stride, G positions that a level computes; h', c', m and D as in levels.py.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import Function

from kernels.product import Repeated, add_product_, product
from kernels.second_derivatives import plain_gradients
from trellisnet import first_level
from trellisnet.gates import gates_backward, gates_forward
from trellisnet.levels_plain import trellis_plain
from trellisnet.looks import Look, Looks, give, give_all, room, values

ALIGNED = 8    # numbers: rows of a multiple of them are multiplied 1.1 times as fast
BLOCK = 2048   # rows of gates, 4 MB at the published width


def strides(dilations: tuple[int, ...]) -> list[int]:
    """S of each level; 0 for the top one: the last position alone.

    A level that computes every S-th position looks d and 0 (with k > 2 further multiples of d)
    steps back, so the level below needs every gcd(S, d)-th. For dilations 1, 1, 2, 4 and L = 9:

        t         0 1 2 3 4 5 6 7 8     d   S
        level 3                   o     4   0
        level 2   o       o       o     2   4
        level 1   o   o   o   o   o     1   2
        level 0   o o o o o o o o o     1   1
    """
    found = [0]
    for d in reversed(dilations[1:]):
        found.append(math.gcd(found[-1], d))
    return found[::-1]


def trellis_last(x: Tensor, weight1: Tensor, weight2: Tensor, bias: Tensor, h0: Tensor, c0: Tensor,
                 mask: Tensor | None, dilations: tuple[int, ...], nout: int
                 ) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments as `trellis_plain`. Returns output (1, N, nout), h and c (N, H), all of the top
    level at the last position. Under autocast the products are in its dtype. Second derivatives are
    those of `trellis_plain`."""
    if torch.compiler.is_compiling():  # it cannot look into compiled kernels
        return torch.compiler.disable(trellis_last)(x, weight1, weight2, bias, h0, c0, mask,
                                                    dilations, nout)
    device, given, dtype = x.device.type, (x, weight1, weight2, bias, h0, c0), x.dtype
    if torch.is_autocast_enabled(device):
        dtype, given = torch.get_autocast_dtype(device), tuple(t.float() for t in given)
        mask = mask if mask is None else mask.float()  # drawn in the type of the pixels
    will_backward = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    with torch.autocast(device, enabled=False):
        h, c = _Last.apply(*given, mask, dilations, dtype, will_backward)
    return h[None, :, -nout:], h, c


class Forward:
    """The levels of one call."""

    def __init__(self, x, weight1, weight2, bias, h0, c0, mask, dilations, dtype):
        self.x, self.h0, self.c0, self.mask, self.dtype = x, h0, c0, mask, dtype
        self.steps, self.batch, self.k = len(x), len(h0), weight2.shape[2]
        computed = [stride or self.steps for stride in strides(dilations)]
        # Below the first level there is nothing; it looks there as if at every position.
        self.looks = [Looks.of(self.steps, self.k, d, stride, below) for d, stride, below
                      in zip(dilations, computed, [1, *computed], strict=False)]
        self.masked_h0 = self.masked(h0)
        taps2, taps1 = (w.permute(0, 2, 1).flatten(1) for w in (weight2, weight1))
        self.at_x = taps2.shape[1]                                      # first column of x
        self.at_one = self.at_x + taps1.shape[1]
        zeros = bias.new_zeros(len(bias), -(self.at_one + 1) % ALIGNED)
        weight = torch.cat([taps2, taps1, bias[:, None], zeros], 1)
        self.weight = weight.to(dtype)
        columns = slice(self.at_x, self.at_one + 1)
        self.narrow = first_level.has_kernel(x, self.at_one + 1 - self.at_x)
        self.narrow_weight = weight[:3 * weight2.shape[1], columns].t().contiguous()
        # On a CPU so few positions at a time that their gates stay in its cache meanwhile.
        self.block = self.steps if x.is_cuda else max(1, BLOCK // self.batch)

    @functools.cached_property
    def times_weight(self) -> Repeated:
        """Not needed in the backward pass."""
        return Repeated(self.weight, BLOCK)

    def masked(self, h: Tensor) -> Tensor:
        return h if self.mask is None else h * self.mask

    def mask_of(self, level: int) -> Tensor | None:
        """What a level's h is multiplied by, for the level above."""
        return self.mask if level < len(self.looks) - 1 else None

    def blocks(self, positions: int) -> list[slice]:
        return [slice(i, min(i + self.block, positions)) for i in range(0, positions, self.block)]

    def level(self, level: int, h: Tensor | None, c: Tensor | None
              ) -> tuple[list[Tensor], Tensor, Tensor]:
        """From the m h' and c' below, None under the first level: what backward needs, the level's
        c, and its m h."""
        looks, bottom, mask = self.looks[level], c is None, self.mask_of(level)
        seen = self.seen(looks, h)                                      # (G, N, columns)
        weight = self.weight[:, self.at_x if bottom else 0:][:, :seen.shape[2]]
        below = self.c0.new_zeros(1, *self.c0.shape).expand(self.steps, -1, -1) if bottom else c
        general = looks.first if bottom and self.narrow else len(seen)
        delayed = values(below, looks.c, self.c0)[:general].contiguous()
        c, h = self.x.new_empty(2, len(seen), *self.c0.shape)
        found = []
        for block in self.blocks(general):
            rows = seen[block].flatten(0, 1).to(self.dtype)
            a = (product(rows, weight.t()) if bottom else self.times_weight(rows)).view(
                -1, self.batch, len(self.weight))
            if bottom and block.start < looks.seeing:
                few = self.initial(looks)[block]
                a[:len(few)] += few @ self.weight[:, :self.at_x].t()
            found.append(gates_forward(a.to(self.x.dtype), delayed[block], mask, self.x.dtype,
                                       into=(c[block], h[block]))[0])
        if general < len(seen):
            first_level.forward(seen[general:], self.narrow_weight, mask, c[general:], h[general:])
        return [seen, delayed, c, *found], c, h

    def seen(self, looks: Looks, h: Tensor | None) -> Tensor:
        """What the positions of a level see: the taps of h, if it is given, and of x, a one, and
        zeros, with which the rows of every level are as long as the products like them."""
        parts = [] if h is None else [values(h, look, self.masked_h0) for look in looks.h]
        parts += [values(self.x, look, None) for look in looks.x]
        alone = h is None and self.narrow
        one = self.x.new_zeros(1 if alone else self.weight.shape[1] - self.at_one)
        one[:1] = 1
        parts.append(one.expand(*parts[0].shape[:2], -1))
        return torch.cat(parts, -1).to(self.x.dtype if alone else self.dtype)

    def initial(self, looks: Looks) -> Tensor:
        """The taps of h' under the first level, where any of them reaches left of time 0."""
        nothing = self.h0.new_zeros(1, *self.h0.shape)
        return torch.cat([torch.cat([self.masked_h0.expand(look.before, -1, -1), nothing.expand(
            looks.seeing - look.before, -1, -1)]) for look in looks.h], -1).to(self.dtype)


class Backward:
    """The gradients, from the top level down."""

    def __init__(self, forward: Forward, x_too: bool):
        self.forward, like = forward, forward.x
        # Transposed: as (4H, few) the first level's takes four times as long.
        self.dweight = like.new_zeros(*forward.weight.t().shape)
        self.dx = torch.zeros_like(like) if x_too else None
        self.times: dict[int, Repeated] = {}    # first column of the weight -> Da times it
        self.d_masked_h0, self.dc0 = (torch.zeros_like(t) for t in (forward.h0, forward.c0))

    def level(self, level: int, kept: Sequence[Tensor], dh: Tensor, dc: Tensor,
              c_below: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """From the gradients of m h and c of a level to those of the level below, whose c it is
        given."""
        forward, (seen, delayed, c, *gates) = self.forward, kept
        looks, mask, bottom = forward.looks[level], forward.mask_of(level), c_below is None
        column, general = forward.at_x if bottom else 0, len(delayed)
        d_below, d_delayed_below, once = None, None, False
        if c_below is not None:
            (d_below, once), (d_delayed_below, _) = (
                room(looked, c_below) for looked in (looks.h, [looks.c]))
        for block, gates_ in zip(forward.blocks(general), gates, strict=True):
            da, d_delayed, _ = gates_backward(
                gates_, delayed[block], c[block], mask, dh[block], dc[block], c.dtype,
                of_masked=True, h_too=False)
            give(looks.c.of(block), d_delayed, d_delayed_below, self.dc0, once=True)
            rows = da.flatten(0, 1).to(forward.dtype)
            self.add_to_weight(column, rows, seen[block].to(forward.dtype))
            if bottom and block.start < looks.seeing:
                self.initial(looks, block, rows)
            self.what_was_seen(looks, block, column, rows, d_below, once)
        if general < len(c):
            weight = forward.narrow_weight
            self.dweight[column:column + len(weight), :weight.shape[1]] += first_level.backward(
                seen[general:], weight, mask, dh[general:], dc[general:])
        return d_below, d_delayed_below

    def what_was_seen(self, looks: Looks, block: slice, column: int, rows: Tensor,
                      d_below: Tensor | None, once: bool) -> None:
        """Gives what Da says about m h', which is in the columns before x, and about x."""
        end = self.forward.at_x if self.dx is None else self.forward.at_one
        if column == end:
            return
        if column not in self.times:
            weight = self.forward.weight[:, column:end].t().contiguous()
            self.times[column] = Repeated(weight, BLOCK)
        dseen = self.times[column](rows).to(self.dweight.dtype).view(
            -1, self.forward.batch, end - column)
        dh, dx = dseen.tensor_split([self.forward.at_x - column], -1)
        if self.dx is not None:
            give_all([look.of(block) for look in looks.x], dx, self.dx, None)
        if d_below is not None:
            give_all([look.of(block) for look in looks.h], dh, d_below, self.d_masked_h0, once)

    def initial(self, looks: Looks, block: slice, rows: Tensor) -> None:
        """What the first positions of the first level say about h0 and its weights."""
        forward = self.forward
        few = forward.initial(looks)[block]
        rows = rows[:few.shape[0] * few.shape[1]]
        self.add_to_weight(0, rows, few)
        dfew = product(rows, forward.weight[:, :forward.at_x]).view_as(few)
        give_all([Look(max(look.before - block.start, 0), slice(0, 0)) for look in looks.h],
                 dfew.to(self.d_masked_h0.dtype), None, self.d_masked_h0)

    def add_to_weight(self, column: int, rows: Tensor, seen: Tensor) -> None:
        """Adds to the gradient of the weights from that column on, which meet what is seen."""
        into, seen = self.dweight[column:column + seen.shape[2]], seen.flatten(0, 1).t()
        if rows.dtype == into.dtype:
            add_product_(into, seen, rows)
        else:
            into += product(seen, rows)

    def gradients(self) -> tuple:
        """Of x, weight1, weight2, bias, h0, c0."""
        forward = self.forward
        weight2, weight1 = (
            part.unflatten(0, (forward.k, -1)).permute(2, 1, 0)         # (4H, channels, k)
            for part in (self.dweight[:forward.at_x], self.dweight[forward.at_x:forward.at_one]))
        return (self.dx, weight1, weight2, self.dweight[forward.at_one],
                forward.masked(self.d_masked_h0), self.dc0)


class _Last(Function):
    @staticmethod
    def forward(ctx, x, weight1, weight2, bias, h0, c0, mask, dilations, dtype, will_backward):
        given = x, weight1, weight2, bias, h0, c0, mask
        run, h, c, kept = Forward(*given, dilations, dtype), None, None, []
        ctx.counts = []
        for level in range(len(dilations)):
            found, c, h = run.level(level, h, c)
            kept += found if will_backward else []
            ctx.counts.append(len(found))
        ctx.save_for_backward(*given, *kept)
        ctx.dilations, ctx.dtype = dilations, dtype
        return h[0], c[0].clone()

    @staticmethod
    def backward(ctx, dh, dc):
        given, kept = ctx.saved_tensors[:7], iter(ctx.saved_tensors[7:])
        with torch.autocast(given[0].device.type, enabled=False):
            if torch.is_grad_enabled():  # create_graph=True: what follows leaves no graph
                def plain(*g):
                    return trellis_plain(*g, ctx.dilations, 1, len(g[0]) - 1)[2:]
                return *plain_gradients(plain, given, (dh, dc)), None, None, None
            run = Backward(Forward(*given, ctx.dilations, ctx.dtype), ctx.needs_input_grad[0])
            dh, dc = dh[None].contiguous(), dc[None].contiguous()
            levels = [[next(kept) for _ in range(count)] for count in ctx.counts]
            while levels:
                found = levels.pop()
                dh, dc = run.level(len(levels), found, dh, dc, levels[-1][2] if levels else None)
            return *run.gradients(), None, None, None, None
