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
"""

import functools
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from common.splitcross import cpu_product


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
        fir: three products in place of four (k = 2 only), see trellisnet/fir.py.
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
        kernel=kernel, start=start, taps=tuple(taps), nout=nout, checkpoint=checkpoint,
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
    starts: tuple      # first position of each level
    dilations: tuple
    kernel: int
    start: int
    taps: tuple
    nout: int
    checkpoint: int
    dtype: torch.dtype  # of the products
    gates: tuple
    keep: bool          # will there be a backward?

    @property
    def cell_dtype(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

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


# The gates. Arrays are (time, N, H) or (time, N, 4H); both functions write into those given.


def gates_forward(a: Tensor, c_below: Tensor, mask: Tensor | None, c: Tensor, h: Tensor) -> None:
    """Turns a into the gates i, o, g, f; writes c and the masked h."""
    size = c.shape[-1]
    a[..., :2 * size].sigmoid_()
    a[..., 2 * size:3 * size].tanh_()
    a[..., 3 * size:].sigmoid_()
    i, o, g, f = a.split(size, -1)
    torch.mul(i, g, out=c)
    c.addcmul_(f, c_below)
    out = torch.tanh(c).mul_(o)
    h.copy_(out if mask is None else out.mul_(mask))


def gates_backward(gates: Tensor, c_below: Tensor, c: Tensor, mask: Tensor | None, dh: Tensor,
                   dc: Tensor, da: Tensor, dc_below: Tensor, h: Tensor) -> None:
    """From the gradients of h (not masked) and c: writes those of a and c_below, and masked h."""
    size = c.shape[-1]
    i, o, g, f = gates.split(size, -1)
    di, do, dg, df = da.split(size, -1)
    tanh_c = torch.tanh(c)
    through_sigmoid = torch.ops.aten.sigmoid_backward.grad_input
    through_tanh = torch.ops.aten.tanh_backward.grad_input
    work = dh * tanh_c
    through_sigmoid(work, o, grad_input=do)
    torch.mul(dh, o, out=work)
    dc_all = through_tanh(work, tanh_c, grad_input=work).add_(dc)
    torch.mul(dc_all, f, out=dc_below)
    torch.mul(dc_all, g, out=di)
    through_sigmoid(di, i, grad_input=di)
    torch.mul(dc_all, i, out=dg)
    through_tanh(dg, g, grad_input=dg)
    torch.mul(dc_all, c_below, out=df)
    through_sigmoid(df, f, grad_input=df)
    tanh_c.mul_(o)
    h.copy_(tanh_c if mask is None else tanh_c.mul_(mask))


@functools.cache
def compiled_gates() -> tuple:
    """gates_forward and gates_backward by torch.compile, each of them one pass."""
    return (torch.compile(gates_forward, dynamic=True),
            torch.compile(gates_backward, dynamic=True))


class _Taps:
    """A dilated causal convolution as one product per tap, and its gradients.

    The rows of y are the positions from s on, those of x from s_x on; what y sees of x before s_x
    counts as zero.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype):
        self.weight = weight.permute(2, 0, 1).to(dtype).contiguous()           # (k, out, in)
        self.grad = None

    def rows(self, y: Tensor, s: int, x: Tensor, s_x: int, d: int):
        """Of every tap: its number, and the rows of y and x that it joins."""
        last = len(self.weight) - 1
        for j in range(last + 1):
            shift = (last - j) * d
            low, end = max(s, s_x + shift), s + len(y)
            if low < end:
                yield (j, y[low - s:].flatten(0, 1),
                       x[low - shift - s_x:end - shift - s_x].flatten(0, 1))

    def forward(self, y: Tensor, s: int, x: Tensor, s_x: int, d: int) -> None:
        """y += conv(x)."""
        for j, y_rows, x_rows in self.rows(y, s, x, s_x, d):
            _add_product(y_rows, x_rows, self.weight[j].t())

    def backward_input(self, dy: Tensor, s: int, dx: Tensor, s_x: int, d: int) -> None:
        """dx += gradient with respect to x."""
        for j, dy_rows, dx_rows in self.rows(dy, s, dx, s_x, d):
            _add_product(dx_rows, dy_rows, self.weight[j])

    def backward_weight(self, dy: Tensor, s: int, x: Tensor, s_x: int, d: int) -> None:
        """self.grad += gradient with respect to the weight."""
        for j, dy_rows, x_rows in self.rows(dy, s, x, s_x, d):
            self.add_weight_grad(j, dy_rows, x_rows)

    def add_weight_grad(self, j: int, dy_rows: Tensor, x_rows: Tensor) -> None:
        if self.grad is None:
            dtype = torch.promote_types(self.weight.dtype, torch.float32)
            self.grad = torch.zeros_like(self.weight, dtype=dtype)
        if self.grad.dtype == self.weight.dtype:
            self.grad[j].addmm_(dy_rows.t(), x_rows)
        else:
            self.grad[j] += dy_rows.t() @ x_rows

    def weight_grad(self, weight: Tensor) -> Tensor:
        """The gradient in the shape of the weight."""
        return torch.zeros_like(weight) if self.grad is None else self.grad.permute(1, 2, 0)


def _add_product(y: Tensor, a: Tensor, b: Tensor) -> None:
    """y += a b."""
    if y.dtype != a.dtype or (y.device.type == "cpu" and y.dtype == torch.float32):
        y += cpu_product(a, b) if y.device.type == "cpu" else a @ b
    else:
        y.addmm_(a, b)


class _Net:
    """One call's tensors, and what its levels compute with them."""

    def __init__(self, x, weight1, weight2, bias, h0, c0, mask, plan):
        self.x, self.bias, self.c0, self.mask = x.to(plan.dtype), bias, c0, mask
        self.plan = plan
        self.input = _Taps(weight1, plan.dtype)
        self.hidden = _Taps(weight2, plan.dtype)
        self.masked_h0 = _masked(h0, mask).to(plan.dtype)
        self.terms, self.users = {}, Counter(plan.dilations)

    @functools.cached_property
    def pads(self) -> Tensor:
        """What each tap adds where it sees h0: (k, N, 4H)."""
        return (self.masked_h0 @ self.hidden.weight.transpose(1, 2)).to(self.bias.dtype)

    def padded(self, level: int):
        """Of every tap that sees h0: its number, and how many of the level's first positions."""
        p = self.plan
        s = p.starts[level]
        for j in range(p.kernel - 1):
            pad = min((p.kernel - 1 - j) * p.dilations[level], p.length) - s
            if pad > 0:
                yield j, pad

    def blocks(self, level: int, c_below: Tensor | None):
        """The level's positions by what they see of c: their rows, c_below, and its rows."""
        p = self.plan
        s, d, rows = p.starts[level], p.dilations[level], p.length - p.starts[level]
        pad = min(max(d - s, 0), rows)
        if pad:
            yield slice(pad), self.c0.expand(pad, -1, -1), None
        if pad < rows and c_below is None:
            yield slice(pad, rows), torch.zeros_like(self.c0).expand(rows - pad, -1, -1), None
        elif pad < rows:
            low = s + pad - d - p.starts[level - 1]
            source = slice(low, low + rows - pad)
            yield slice(pad, rows), c_below[source], source

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
        s = p.starts[level]
        a = self.input_term(level)                                             # (time, N, 4H)
        for j, pad in self.padded(level):
            a[:pad] += self.pads[j]
        if h is not None:
            self.hidden.forward(a, s, h, p.starts[level - 1], p.dilations[level])
        c = a.new_empty(*a.shape[:2], self.c0.shape[1])
        h = torch.empty_like(c, dtype=dtype)
        for rows, below, _ in self.blocks(level, c_below):
            p.gates[0](a[rows], below, mask, c[rows], h[rows])
        return a, c, h

    def run(self, levels: range, h: Tensor | None, c: Tensor | None, visit) -> tuple:
        """Runs `levels` on the masked h and c below them; returns those of the last.

        visit(level, gates, c, h) may take what it wants; where the plan wants h, it is unmasked.
        """
        p = self.plan
        for level in levels:
            if p.wants(level):
                gates, c, h = self.level_forward(level, h, c, None, p.cell_dtype)
            else:
                gates, c, h = self.level_forward(level, h, c, self.mask, p.dtype)
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
        self.net, self.plan, self.given, self.wanted = net, net.plan, given, wanted
        self.output_grads = output_grads
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
        net, (_, weight1, weight2) = self.net, self.given[:3]
        return (self.dx, net.input.weight_grad(weight1), net.hidden.weight_grad(weight2),
                self.dbias, self.dh0, self.dc0)

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
        da, h = torch.empty_like(gates), torch.empty_like(c, dtype=p.dtype)
        dc_below = None if c_below is None else torch.zeros_like(c_below)
        for rows, below, source in net.blocks(level, c_below):
            d_below = torch.empty_like(c[rows]) if source is None else dc_below[source]
            p.gates[1](gates[rows], below, c[rows], net.mask, dh[rows], dc[rows], da[rows],
                       d_below, h[rows])
            if rows.start is None:
                self.dc0 += d_below.sum(0)
        self.hidden_weight(h)
        for j, pad in net.padded(level):
            if self.pads is None:
                self.pads = da.new_zeros(p.kernel - 1, *da.shape[1:])
            self.pads[j] += da[:pad].sum(0)
        dh_below = None
        if c_below is not None:
            product_da = da.to(p.dtype)
            self.pending = level, product_da
            dh_below = torch.zeros_like(c_below)
            net.hidden.backward_input(product_da, p.starts[level], dh_below, p.starts[level - 1],
                                      p.dilations[level])
        self.input_term(level, da)
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
        if d in self.terms:
            self.terms[d][s - p.length:] += da
        elif level == lowest:
            self.terms[d] = da
        else:
            self.terms[d] = da.new_zeros(p.length - p.starts[lowest], *da.shape[1:])
            self.terms[d][s - p.length:] = da
        if level > lowest:
            return
        term = self.terms.pop(d)
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
        hidden, pads = self.net.hidden, self.pads.to(self.plan.dtype)
        for j, pad in enumerate(pads):
            self.dh0 += pad @ hidden.weight[j]
            hidden.add_weight_grad(j, pad, self.net.masked_h0)
        if self.net.mask is not None:
            self.dh0 *= self.net.mask
