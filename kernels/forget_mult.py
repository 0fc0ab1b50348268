"""Forget-mult, the recurrence of quasi-recurrent layers (arXiv 1611.01576, section 2, f-pooling):

    c_t = f_t x_t + (1 - f_t) c_{t-1}

forget_mult_plain is that equation as a loop; forget_mult gives the same numbers faster: compiled
code on a CPU (cpp/forget_mult.cpp), Triton on a GPU, and in-place torch operations elsewhere.

Notation: T time, B batch, H hidden size; f, x, c (T,B,H), c0 (B,H).
"""

import functools
import importlib.util
import warnings

import torch
from torch import Tensor
from torch.autograd.function import Function

from kernels import library
from kernels.second_derivatives import plain_gradients

HALF = (torch.float16, torch.bfloat16)


def forget_mult_plain(f: Tensor, x: Tensor, hidden_init: Tensor | None = None) -> Tensor:
    """f, x (T,B,H), hidden_init None, (B,H) or (1,B,H) -> c (T,B,H). The equation itself; slow."""
    c = torch.zeros_like(f[0]) if hidden_init is None else hidden_init.reshape(f.shape[1:])
    cells = []
    for f_t, x_t in zip(f, x, strict=True):
        c = f_t * x_t + (1 - f_t) * c
        cells.append(c)
    return torch.stack(cells)


def forget_mult(f: Tensor, x: Tensor, hidden_init: Tensor | None = None) -> Tensor:
    """forget_mult_plain, fast. Half precision is computed, and returned, in float32, because c is a
    sum over all of T. Second derivatives go through forget_mult_plain."""
    if f.shape != x.shape:
        raise ValueError(f"forget_mult: f {tuple(f.shape)} and x {tuple(x.shape)} differ in shape")
    if f.dtype in HALF:
        f, x = f.float(), x.float()
    c0 = None if hidden_init is None else hidden_init.to(f.dtype).reshape(f.shape[1:])
    if library.exporting():
        return forget_mult_plain(f, x, c0)
    return _ForgetMult.apply(*contiguous(f, x, c0))


def contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    """Each tensor in row-major order, for the kernels; None stays None."""
    return [t if t is None else t.contiguous() for t in tensors]


class _ForgetMult(Function):
    @staticmethod
    def forward(ctx, f, x, c0):
        c = _backend(f, x)[0](f, x, c0)
        ctx.save_for_backward(f, x, c0, c)
        return c

    @staticmethod
    def backward(ctx, dc):
        *arguments, c = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *plain_gradients(forget_mult_plain, arguments, [dc]),
        return _backend(*arguments[:2])[1](*arguments, c, dc.contiguous())


def _backend(f, x):
    """The pair (forward, backward) for these tensors' device."""
    if library.available(f, x):
        return _compiled_forward, _compiled_backward
    if f.is_cuda and has_triton():
        # Imported here, so that a machine without a GPU never imports Triton.
        from kernels import forget_mult_triton

        return forget_mult_triton.forward, forget_mult_triton.backward
    return _in_place_forward, _in_place_backward


@functools.cache
def has_triton() -> bool:
    """Is Triton installed? Warns, once, if it is not."""
    found = importlib.util.find_spec("triton") is not None
    if not found:
        warnings.warn(
            "kernels: Triton is not installed, so a GPU gets many small operations in place of a "
            "few (QRNN, TrellisNet, TNN). Install `triton` to avoid that.",
            stacklevel=2,
        )
    return found


def _compiled_forward(f, x, c0):
    c = torch.empty_like(f)
    library.call("forget_mult_forward", len(f), f[0].numel(), f, x, c0, c)
    return c


def _compiled_backward(f, x, c0, c, dc):
    df, dx = torch.empty_like(f), torch.empty_like(x)
    dc0 = None if c0 is None else torch.empty_like(c0)
    library.call("forget_mult_backward", len(f), f[0].numel(), f, x, c0, c, dc, df, dx, dc0)
    return df, dx, dc0


def _in_place_forward(f, x, c0):
    """One in-place operation per time step; what does not depend on c is done for all at once."""
    c, keep = f * x, 1 - f
    if c0 is not None:
        c[0].addcmul_(keep[0], c0)
    for t in range(1, len(f)):
        c[t].addcmul_(keep[t], c[t - 1])
    return c


def _in_place_backward(f, x, c0, c, dc):
    """r_t = dc_t + (1 - f_{t+1}) r_{t+1};  dx_t = f_t r_t,  df_t = (x_t - c_{t-1}) r_t."""
    r, keep = dc.clone(), 1 - f
    for t in range(len(f) - 2, -1, -1):
        r[t].addcmul_(keep[t + 1], r[t + 1])
    df = x * r
    df[1:].addcmul_(c[:-1], r[1:], value=-1)
    if c0 is None:
        return df, f * r, None
    df[0].addcmul_(c0, r[0], value=-1)
    return df, f * r, keep[0] * r[0]
