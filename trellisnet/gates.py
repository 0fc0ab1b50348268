"""The gates and the cell of a TrellisNet's level, forward and backward.

Arrays are (time, N, H), a and the gates (time, N, 4H) in the order i, o, g, f; mask (N, H) or None.
c_below(t) is the c that level t's cell starts from. dtype is that of the matrix products.
"""

import functools

import torch
from torch import Tensor

from kernels import library
from kernels.forget_mult import has_triton

_through_sigmoid = torch.ops.aten.sigmoid_backward
_through_tanh = torch.ops.aten.tanh_backward


def gates_forward(a: Tensor, c_below: Tensor, mask: Tensor | None, dtype: torch.dtype,
                  part: Tensor | None = None, more: Tensor | None = None,
                  into: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The gates (they may take the place of a), c and the masked h. part and more, like a, are
    summands of it; with them a and more may be in half precision. into: where c and h are to be
    written, if dtype is theirs."""
    if into is not None and not (on_gpu(a) or by_library(a, c_below, mask, *into)):
        found = gates_forward(a, c_below, mask, dtype, part, more)
        return found[0], into[0].copy_(found[1]), into[1].copy_(found[2])
    if on_gpu(a):
        from kernels import gates_triton

        return gates_triton.forward(a, c_below, mask, dtype, part, more, into)
    for summand in (part, more):
        a = a if summand is None else a + summand
    if by_library(a, c_below, mask):
        c, h = into or (torch.empty_like(c_below), torch.empty_like(c_below))
        library.call("gates_forward", *sizes(c_below), a, c_below, mask, c, h)
        return a, c, h.to(dtype)
    return eager_forward(a, c_below, mask, dtype)


def eager_forward(a: Tensor, c_below: Tensor, mask: Tensor | None, dtype: torch.dtype
                  ) -> tuple[Tensor, Tensor, Tensor]:
    """gates_forward by torch's operations."""
    size = c_below.shape[-1]
    if torch.compiler.is_compiling():
        i, o, g, f = a.split(size, -1)
        gates = torch.cat([i.sigmoid(), o.sigmoid(), g.tanh(), f.sigmoid()], -1)
    else:
        gates = a
        gates[..., :2 * size].sigmoid_()
        gates[..., 2 * size:3 * size].tanh_()
        gates[..., 3 * size:].sigmoid_()
    i, o, g, f = gates.split(size, -1)
    c = torch.addcmul(i * g, f, c_below)
    return gates, c, _hidden(o, c.tanh(), mask).to(dtype)


def gates_backward(gates: Tensor, c_below: Tensor, c: Tensor, mask: Tensor | None, dh: Tensor,
                   dc: Tensor, dtype: torch.dtype, of_masked: bool = False,
                   total: Tensor | None = None, below: Tensor | None = None, first: int = 0,
                   da_dtype: torch.dtype | None = None, h_too: bool = True
                   ) -> tuple[Tensor, Tensor, Tensor | None]:
    """From the gradients of h and c: those of a and c_below; and again masked h, unless not h_too.
    of_masked: dh, which may be overwritten, is of the masked h.

    On a GPU, where each of these would be a pass of its own: total, like the gates, gets the
    gradient of a added; below (2, time', N, H) becomes zero, but for the gradient of c_below from
    row `first` of its second half on; the gradient of a comes in da_dtype."""
    if on_gpu(gates):
        from kernels import gates_triton

        return gates_triton.backward(gates, c_below, c, mask, dh, dc, dtype, of_masked, total,
                                     below, first, da_dtype)
    if by_library(gates, c_below, mask, c, dh, dc):
        da, dc_below = torch.empty_like(gates), torch.empty_like(c)
        h = torch.empty_like(c) if h_too else None
        library.call("gates_backward", *sizes(c), of_masked, gates, c_below, mask, c, dh, dc, da,
                     dc_below, h)
        h = None if h is None else h.to(dtype)
    else:
        da, dc_below, h = eager_backward(gates, c_below, c, mask, dh, dc, dtype, of_masked)
    if total is not None:
        total += da
    if below is not None:
        below.zero_()[1, first:first + len(c)] = dc_below
    return (da if da_dtype is None else da.to(da_dtype)), dc_below, h


def eager_backward(gates: Tensor, c_below: Tensor, c: Tensor, mask: Tensor | None, dh: Tensor,
                   dc: Tensor, dtype: torch.dtype, of_masked: bool = False
                   ) -> tuple[Tensor, Tensor, Tensor]:
    """gates_backward by torch's operations."""
    if of_masked and mask is not None:
        dh *= mask
    i, o, g, f = gates.split(c.shape[-1], -1)
    tanh_c = c.tanh()
    dc = dc + _through_tanh(dh * o, tanh_c)
    da = torch.cat([_through_sigmoid(dc * g, i), _through_sigmoid(dh * tanh_c, o),
                    _through_tanh(dc * i, g), _through_sigmoid(dc * c_below, f)], -1)
    return da, dc * f, _hidden(o, tanh_c, mask).to(dtype)


def on_gpu(x: Tensor) -> bool:
    """Is there a Triton kernel for it? One pass over memory then."""
    return x.is_cuda and not torch.compiler.is_compiling() and has_triton()


def by_library(*arrays: Tensor | None) -> bool:
    """Is there a compiled kernel for them on the CPU? One pass over memory then, as torch.compile
    would make it."""
    given = [array for array in arrays if array is not None]
    return (not torch.compiler.is_compiling() and library.available(*given)
            and all(array.is_contiguous() for array in given))


def sizes(c: Tensor) -> tuple[int, int, int]:
    """R, N and H of kernels/cpp/gates.cpp."""
    time, batch, size = c.shape
    return time * batch, batch, size


def _hidden(o: Tensor, tanh_c: Tensor, mask: Tensor | None) -> Tensor:
    return o * tanh_c if mask is None else o * tanh_c * mask


@functools.cache
def compiled_gates() -> tuple:
    """gates_forward and gates_backward by torch.compile, each of them one pass."""
    return (torch.compile(gates_forward, dynamic=True),
            torch.compile(gates_backward, dynamic=True))
