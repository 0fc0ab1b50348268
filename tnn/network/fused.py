"""The silu gates of the units with their gradients by hand, some positions or channels at a time.

What lies between two matrix products is element-wise: it costs memory traffic, not arithmetic. In
pieces that fit a core's cache it costs next to nothing; autograd of the same formulas writes each
intermediate over the whole batch and keeps it. On a GPU and while compiling the plain form is used,
the same equations as PyTorch operations.

Under bfloat16 autocast on a CPU inputs, weights and what is kept are rounded to bfloat16; the
gradients of the weights are summed over the pieces in float32.

Notation: b batch, n length, N = b n positions, D width, E and G inner widths; `rate` is that of a
dropout, 0 outside training. Second derivatives go through fused_plain.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function

from kernels.product import add_product_, product, product_into
from kernels.second_derivatives import plain_gradients
from tnn.network import fused_plain

CACHE = 1 << 18  # floats of the widest array of a piece (by measurement, one core)


def arithmetic(x: Tensor) -> torch.dtype | None:
    """The type in which the fused forms compute: that of x, or autocast's. None where they do not:
    on a GPU, while compiling, for other types."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        return dtype if dtype == torch.bfloat16 and x.dtype in (dtype, torch.float32) else None
    return x.dtype if x.dtype in (torch.float32, torch.float64) else None


# ------------------------------------------------------------------------------------- dropout
def dropout(x: Tensor, rate: float) -> Tensor:
    """F.dropout, at a tenth of its cost on a CPU (see random_bits)."""
    if not rate or not arithmetic(x):
        return F.dropout(x, rate)
    return x * drawn_mask(x, rate)


def add_dropped(x: Tensor, y: Tensor, rate: float) -> Tensor:
    """x + dropout(y), in x's type."""
    if not rate or not arithmetic(x):
        return x + F.dropout(y, rate)
    return torch.addcmul(x, y.to(x.dtype), drawn_mask(x, rate))


def drawn_mask(x: Tensor, rate: float) -> Tensor:
    """keep_mask in x's shape and dtype, from fresh bits. rate > 0."""
    bits = random_bits(x.numel(), rate)
    assert bits is not None
    return keep_mask(bits, rate, x.dtype).view(x.shape)


def random_bits(count: int, rate: float) -> Tensor | None:
    """`count` random int16, four from each draw of 64 bits; None if nothing is dropped. F.dropout
    draws once for each element, which is where its time goes."""
    if not rate:
        return None
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-2**63, None)
    return draws.view(torch.int16)[:count]


def keep_mask(bits: Tensor, rate: float, dtype: torch.dtype) -> Tensor:
    """0 with probability `rate`, rounded to a multiple of 2^-16, else what makes the mean 1."""
    kept = 65536 - round(rate * 65536)
    if dtype == torch.bfloat16:  # it would round the bits
        return bits.lt(kept - 32768).to(dtype).mul_(65536 / kept)
    return bits.to(dtype).lt_(kept - 32768).mul_(65536 / kept)


# ----------------------------------------------------------------------------------- functions
def glu(x: Tensor, l1: nn.Linear, l2: nn.Linear, l3: nn.Linear, rate: float) -> Tensor:
    """l3( drop(silu(l1 x)) * l2 x ): x (b, n, D) -> the same shape."""
    dtype = arithmetic(x)
    if not dtype:
        return l3(F.dropout(F.silu(l1(x)), rate) * l2(x))
    weights = torch.cat([l1.weight, l2.weight]), joined(l1.bias, l2.bias)
    rows = x.reshape(-1, x.shape[-1])
    bits = random_bits(len(rows) * l1.out_features, rate)
    with torch.autocast("cpu", enabled=False):
        y = _Glu.apply(*given(dtype, rows, *weights, l3.weight, l3.bias), bits, rate)
    return y.view(x.shape)


def activated(x: Tensor, linear: nn.Linear) -> Tensor:
    """silu(linear x), channels first: x (b, n, D) -> (b, E, n)."""
    dtype = arithmetic(x)
    if not dtype:
        return F.silu(channels_first(x, linear))
    with torch.autocast("cpu", enabled=False):
        return _Activated.apply(*given(dtype, x, linear.weight, linear.bias))


def gated_output(x: Tensor, m: Tensor, u: nn.Linear, o: nn.Linear, rate: float) -> Tensor:
    """o( silu(u x) * drop(m) ): x (b, n, D), m (b, E, n) -> (b, n, D)."""
    dtype = arithmetic(x)
    if not dtype:
        return channels_last(F.silu(channels_first(x, u)) * F.dropout(m, rate), o)
    bits = random_bits(m.numel(), rate)
    with torch.autocast("cpu", enabled=False):
        return _GatedOutput.apply(*given(dtype, x, m, u.weight, u.bias, o.weight, o.bias), bits,
                                  rate)


def given(dtype: torch.dtype, *tensors: Tensor | None) -> list[Tensor | None]:
    """In the type that is computed in."""
    return [None if t is None else t.to(dtype) for t in tensors]


def channels_first(x: Tensor, linear: nn.Linear) -> Tensor:
    """linear(x) for x (b, n, D), as (b, E, n)."""
    weight = linear.weight.expand(len(x), -1, -1)
    if linear.bias is None:
        return torch.bmm(weight, x.transpose(1, 2))
    return torch.baddbmm(linear.bias.unsqueeze(-1), weight, x.transpose(1, 2))


def channels_last(y: Tensor, linear: nn.Linear) -> Tensor:
    """linear of y (b, E, n), as (b, n, D)."""
    weight = linear.weight.t().expand(len(y), -1, -1)
    if linear.bias is None:
        return torch.bmm(y.transpose(1, 2), weight)
    return torch.baddbmm(linear.bias, y.transpose(1, 2), weight)


def joined(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else torch.cat([a, b])


# ----------------------------------------------------------------------- in pieces, by hand
def pieces(count: int, width: int, least: int = 32) -> list[slice]:
    """`count` rows of `width` numbers, in pieces that stay in the cache."""
    step = max(CACHE // width, least)
    return [slice(i, min(i + step, count)) for i in range(0, count, step)]


def batch_pieces(x, width):
    """(sample, slice of positions) of x (b, n, ...)."""
    return [(b, part) for b in range(len(x)) for part in pieces(x.shape[1], width)]


def zeros_like(*tensors):
    """For sums over pieces: of bfloat16 in float32."""
    return [None if t is None else torch.zeros_like(t, dtype=torch.promote_types(
        t.dtype, torch.float32)) for t in tensors]


def silu_backward(d, a, grad_input=None):
    """(gradient of silu(a), a) -> gradient of a. PyTorch's own is slow in bfloat16."""
    if d.dtype != torch.bfloat16:
        return torch.ops.aten.silu_backward(d, a, **(
            {} if grad_input is None else {"grad_input": grad_input}))
    da = torch.ops.aten.silu_backward(d.float(), a.float())
    return da.to(d.dtype) if grad_input is None else grad_input.copy_(da)


class _Glu(Function):
    """x (N, D), w (2G, D) of l1 and l2, c (2G) their biases, w3 (D, G), c3 (D). Of what lies
    between, a and b alone are kept; silu and mask are made again, which is cheaper than to read
    them."""

    @staticmethod
    def forward(ctx, x, w, c, w3, c3, bits, rate):
        g = len(w) // 2
        ab, y = x.new_empty(len(x), 2 * g), torch.empty_like(x)
        for part in pieces(len(x), 2 * g):
            piece = product_into(ab[part], x[part], w.t(), c)
            hidden = F.silu(piece[:, :g])
            if bits is not None:
                hidden *= keep_mask(bits.view(-1, g)[part], rate, x.dtype)
            product_into(y[part], hidden.mul_(piece[:, g:]), w3.t(), c3)
        ctx.save_for_backward(x, w, c, w3, c3, bits, ab)
        ctx.rate = rate
        return y

    @staticmethod
    def backward(ctx, dy):
        *inputs, bits, ab = ctx.saved_tensors
        x, w, c, w3, c3 = inputs
        if torch.is_grad_enabled():
            mask = None if bits is None else keep_mask(bits, ctx.rate, x.dtype)
            return *plain_gradients(lambda *i: fused_plain.glu(*i, mask), inputs, [dy]), None, None
        g, dx = len(w) // 2, torch.empty_like(x)
        dw, dc, dw3, dc3 = zeros_like(w, c, w3, c3)
        dab = x.new_empty(pieces(len(x), 2 * g)[0].stop, 2 * g)
        for part in pieces(len(x), 2 * g):
            a, b = ab[part, :g], ab[part, g:]
            gate, dh, both = F.silu(a), product(dy[part], w3), dab[:len(a)]
            if bits is not None:
                mask = keep_mask(bits.view(-1, g)[part], ctx.rate, x.dtype)
                gate *= mask
            torch.mul(dh, gate, out=both[:, g:])
            add_product_(dw3, dy[part].t(), gate.mul_(b))
            dh *= b
            if bits is not None:
                dh *= mask
            silu_backward(dh, a, grad_input=both[:, :g])
            add_product_(dw, both.t(), x[part])
            product_into(dx[part], both, w)
            if c is not None:
                dc += both.sum(0, dtype=dc.dtype)
        if c3 is not None:
            dc3 = dy.sum(0)
        return dx, dw, dc, dw3, dc3, None, None


class _Activated(Function):
    """x (b, n, D), w (E, D), c (E) -> silu(w x + c) (b, E, n)."""

    @staticmethod
    def forward(ctx, x, w, c):
        a = x.new_empty(len(x), len(w), x.shape[1])
        y = torch.empty_like(a)
        column = None if c is None else c.unsqueeze(-1)
        for b, part in batch_pieces(x, len(w)):
            piece = product_into(a[b, :, part], w, x[b, part].t(), column)
            torch.ops.aten.silu.out(piece, out=y[b, :, part])
        ctx.save_for_backward(x, w, c, a)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w, c, a = ctx.saved_tensors
        if torch.is_grad_enabled():
            return tuple(plain_gradients(fused_plain.activated, (x, w, c), [dy]))
        dx = torch.empty_like(x)
        dw, dc = zeros_like(w, c)
        for b, part in batch_pieces(x, len(w)):
            da = silu_backward(dy[b, :, part], a[b, :, part])
            into_linear(da, x[b, part], w, dx[b, part], dw, dc)
        return dx, dw, dc


def into_linear(da, x, w, dx, dw, dc):
    """The gradients of a = w x^T + c (E, N) for a piece x (N, D): dx written, dw and dc added."""
    add_product_(dw, da, x)
    product_into(dx, da.t(), w)
    if dc is not None:
        dc += da.sum(1, dtype=dc.dtype)


class _GatedOutput(Function):
    """x (b, n, D), m (b, E, n), w (E, D), c (E) of u, wo (D, E), co (D) of o -> (b, n, D)."""

    @staticmethod
    def forward(ctx, x, m, w, c, wo, co, bits, rate):
        a, y = torch.empty_like(m), torch.empty_like(x)
        column = None if c is None else c.unsqueeze(-1)
        for b, part in batch_pieces(x, len(w)):
            piece = product_into(a[b, :, part], w, x[b, part].t(), column)
            gate = F.silu(piece).mul_(m[b, :, part])
            if bits is not None:
                gate *= keep_mask(bits.view(m.shape)[b, :, part], rate, x.dtype)
            product_into(y[b, part], gate.t(), wo.t(), co)
        ctx.save_for_backward(x, m, w, c, wo, co, bits, a)
        ctx.rate = rate
        return y

    @staticmethod
    def backward(ctx, dy):
        *inputs, bits, a = ctx.saved_tensors
        x, m, w, c, wo, co = inputs
        if torch.is_grad_enabled():
            mask = None if bits is None else keep_mask(bits, ctx.rate, x.dtype)
            return *plain_gradients(lambda *i: fused_plain.gated_output(*i, mask), inputs, [dy]), \
                None, None
        dx, dm = torch.empty_like(x), torch.empty_like(m)
        dw, dc, dwo, dco = zeros_like(w, c, wo, co)
        for b, part in batch_pieces(x, len(w)):
            before, kept = a[b, :, part], m[b, :, part]
            if bits is not None:
                mask = keep_mask(bits.view(m.shape)[b, :, part], ctx.rate, x.dtype)
                kept = kept * mask
            u = F.silu(before)
            add_product_(dwo, dy[b, part].t(), (u * kept).t())
            dg = product(wo.t(), dy[b, part].t())  # (E, piece)
            dm[b, :, part] = u.mul_(dg) if bits is None else u.mul_(dg).mul_(mask)
            into_linear(silu_backward(dg.mul_(kept), before), x[b, part], w, dx[b, part], dw, dc)
        if co is not None:
            dco = dy.sum((0, 1))
        return dx, dm, dw, dc, dwo, dco, None, None
