"""The four gates and the cell of a recurrence-like layer on a GPU, one Triton kernel each way:

    i, o, g, f = sigmoid(a_i), sigmoid(a_o), tanh(a_g), sigmoid(a_f)
    c = f c' + i g                     h = m o tanh(c)

c' is the cell that the step starts from, m a mask or 1. Backward, given Dh (of o tanh(c)) and Dc:

    Dc += Dh o (1 - tanh(c)^2)         Dc' = f Dc
    Da  = [Dc g i(1-i), Dh tanh(c) o(1-o), Dc i (1-g^2), Dc c' f(1-f)]

What would be passes of their own before and after is done on the way: a may come as several
summands, Da is added to a sum over layers, and memory for the gradients below is filled.

Notation: R rows (time and batch), H columns; a (R,4H) holds i, o, g, f side by side. Each number is
read and written once. Imported only where a CUDA tensor arrives; TRITON_INTERPRET=1 runs it on a
CPU (the tests).
"""

import torch
import triton
import triton.language as tl

BLOCK, WARPS = 512, 4


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _tanh(x):
    # By exp alone small x would lose its digits to 1 - t; the series is exact to 1e-13 there.
    y = x * x
    series = x * (1 + y * (-1 / 3 + y * (2 / 15 + y * (-17 / 315 + y * (62 / 2835)))))
    t = tl.exp(-2 * tl.abs(x))
    far = (1 - t) / (1 + t)
    return tl.where(tl.abs(x) < 0.1, series, tl.where(x < 0, -far, far))


@triton.jit
def _summed(a, part, more, at, inside, HAS_PART: tl.constexpr, HAS_MORE: tl.constexpr):
    x = tl.load(a + at, mask=inside, other=0.0)
    if HAS_PART:
        x = tl.load(part + at, mask=inside, other=0.0) + x
    if HAS_MORE:
        x = x + tl.load(more + at, mask=inside, other=0.0)
    return x


@triton.jit
def _forward_kernel(a, part, more, c_below, mask, gates, c, h, count, H, columns,
                    HAS_PART: tl.constexpr, HAS_MORE: tl.constexpr, HAS_MASK: tl.constexpr,
                    BLOCK: tl.constexpr):
    # in 64 bits, because 4 R H can pass 2^31
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    first = at + at // H * (3 * H)                # of i; o, g and f follow in steps of H
    i = _sigmoid(_summed(a, part, more, first, inside, HAS_PART, HAS_MORE))
    o = _sigmoid(_summed(a, part, more, first + H, inside, HAS_PART, HAS_MORE))
    g = _tanh(_summed(a, part, more, first + 2 * H, inside, HAS_PART, HAS_MORE))
    f = _sigmoid(_summed(a, part, more, first + 3 * H, inside, HAS_PART, HAS_MORE))
    cell = f * tl.load(c_below + at, mask=inside, other=0.0) + i * g
    hidden = o * _tanh(cell)
    if HAS_MASK:
        hidden *= tl.load(mask + at % columns, mask=inside, other=0.0)
    tl.store(gates + first, i, mask=inside)
    tl.store(gates + first + H, o, mask=inside)
    tl.store(gates + first + 2 * H, g, mask=inside)
    tl.store(gates + first + 3 * H, f, mask=inside)
    tl.store(c + at, cell, mask=inside)
    tl.store(h + at, hidden, mask=inside)


@triton.jit
def _add_to(total, at, value, inside):
    tl.store(total + at, tl.load(total + at, mask=inside, other=0.0) + value, mask=inside)


@triton.jit
def _backward_kernel(gates, c_below, c, mask, dh, dc, da, total, below, h, count, H, columns,
                     before, whole, HAS_MASK: tl.constexpr, OF_MASKED: tl.constexpr,
                     HAS_TOTAL: tl.constexpr, FILLS: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)   # in the arrays below
    at = place - before
    inside = (at >= 0) & (at < count)
    first = at + at // H * (3 * H)
    i = tl.load(gates + first, mask=inside, other=0.0)
    o = tl.load(gates + first + H, mask=inside, other=0.0)
    g = tl.load(gates + first + 2 * H, mask=inside, other=0.0)
    f = tl.load(gates + first + 3 * H, mask=inside, other=0.0)
    cell_below = tl.load(c_below + at, mask=inside, other=0.0)
    tanh_c = _tanh(tl.load(c + at, mask=inside, other=0.0))
    d_hidden = tl.load(dh + at, mask=inside, other=0.0)
    if OF_MASKED:
        d_hidden *= tl.load(mask + at % columns, mask=inside, other=0.0)
    d_cell = tl.load(dc + at, mask=inside, other=0.0) + d_hidden * o * (1 - tanh_c * tanh_c)
    d_i, d_o = d_cell * g * i * (1 - i), d_hidden * tanh_c * o * (1 - o)
    d_g, d_f = d_cell * i * (1 - g * g), d_cell * cell_below * f * (1 - f)
    tl.store(da + first, d_i, mask=inside)
    tl.store(da + first + H, d_o, mask=inside)
    tl.store(da + first + 2 * H, d_g, mask=inside)
    tl.store(da + first + 3 * H, d_f, mask=inside)
    if HAS_TOTAL:
        _add_to(total, first, d_i, inside)
        _add_to(total, first + H, d_o, inside)
        _add_to(total, first + 2 * H, d_g, inside)
        _add_to(total, first + 3 * H, d_f, inside)
    if FILLS:  # of h zeros, of c the gradient and zeros around it
        d_below = tl.where(inside, d_cell * f, 0.0)
        tl.store(below + place, 0.0, mask=place < whole)
        tl.store(below + whole + place, d_below, mask=place < whole)
    else:
        tl.store(below + place, d_cell * f, mask=inside)
    hidden = o * tanh_c
    if HAS_MASK:
        hidden *= tl.load(mask + at % columns, mask=inside, other=0.0)
    tl.store(h + at, hidden, mask=inside)


def _launch(kernel, mask, c, arrays, places=(), **options):
    """places: before and whole, of a kernel that has them."""
    options |= {"HAS_MASK": mask is not None, "BLOCK": BLOCK, "num_warps": WARPS}
    numbers = c.numel(), c.shape[-1], c[0].numel(), *places
    with torch.cuda.device_of(c):  # Triton launches on the current device, which need not be c's
        kernel[(triton.cdiv(places[1] if places else c.numel(), BLOCK),)](*arrays, *numbers,
                                                                          **options)


def forward(a, c_below, mask, dtype, part=None, more=None, into=None):
    """a (T,N,4H), c_below (T,N,H), mask (N,H) or None -> the gates, c, and h in `dtype`. part and
    more, like a, are added to it. The gates take the place of a if it has their type, c_below's.
    into: where c and h, of these types and contiguous, are to be written."""
    a, c_below = a.contiguous(), c_below.contiguous()
    mask = None if mask is None else mask.contiguous()
    gates = a if a.dtype == c_below.dtype else torch.empty_like(a, dtype=c_below.dtype)
    c, h = into or (torch.empty_like(c_below), torch.empty_like(c_below, dtype=dtype))
    _launch(_forward_kernel, mask, c, (a, part, more, c_below, mask, gates, c, h),
            HAS_PART=part is not None, HAS_MORE=more is not None)
    return gates, c, h


def backward(gates, c_below, c, mask, dh, dc, dtype, of_masked=False, total=None, below=None,
             first=0, da_dtype=None):
    """The gradients of a (T,N,4H), in da_dtype or the gates' own, and c_below (T,N,H), given dh and
    dc; and h again, in `dtype`. dh is of the masked h, or of the unmasked. total, like the gates:
    the gradient of a is added to it. below (2,T',N,H), dense: its first half becomes zero, its
    second holds the gradient of c_below in the T rows from `first` on, and zero in the others."""
    c_below, dh, dc = (t.contiguous() for t in (c_below, dh, dc))
    mask = None if mask is None else mask.contiguous()
    da = torch.empty_like(gates, dtype=da_dtype or gates.dtype)
    h = torch.empty_like(c, dtype=dtype)
    dc_below = torch.empty_like(c) if below is None else below[1, first:first + len(c)]
    places = ((0, c.numel()) if below is None else
              (first * c[0].numel(), below[0].numel()))
    _launch(_backward_kernel, mask, c, (gates, c_below, c, mask, dh, dc, da, total,
                                        dc_below if below is None else below, h), places,
            OF_MASKED=of_masked and mask is not None, HAS_TOTAL=total is not None,
            FILLS=below is not None)
    return da, dc_below, h
