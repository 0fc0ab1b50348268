"""Division by the root mean square over the last axis: on a GPU one operation each way
(rms_norm_triton.py), where PyTorch's and their gradients are some twenty.

    y = x s,  s = 1 / (r + eps),  r = |x| / sqrt(d)
    dx = s dy - s^2 x (dy . x) / (d r),      the second term 0 where r is 0

Notation: d the width.
"""

import torch
from torch import Tensor
from torch.autograd.function import Function

from kernels.forget_mult import has_triton
from kernels.second_derivatives import plain_gradients

HALF = (torch.float16, torch.bfloat16)
WIDEST = 1 << 13  # a row is kept in the registers of one block of threads


def has_kernel(x: Tensor) -> bool:
    """Not while compiling or under torch.func."""
    return (x.is_cuda and 0 < x.shape[-1] <= WIDEST and x.numel() > 0
            and not torch.compiler.is_compiling()
            and not torch._C._are_functorch_transforms_active() and has_triton())


def rms_normalized(x: Tensor, eps: float) -> Tensor:
    """x (..., d) -> the same shape and type; half precision is computed in float32. The zero vector
    stays zero, with gradient 1 / eps. Second derivatives go through rms_normalized_plain."""
    return _RmsNormalized.apply(x, eps) if has_kernel(x) else rms_normalized_plain(x, eps)


def rms_normalized_plain(x: Tensor, eps: float) -> Tensor:
    """The same by definition."""
    wide = x.float() if x.dtype in HALF else x
    rms = wide.norm(dim=-1, keepdim=True) * wide.shape[-1] ** -0.5
    return (wide / (rms + eps)).to(x.dtype)


class _RmsNormalized(Function):
    @staticmethod
    def forward(ctx, x, eps):
        from kernels import rms_norm_triton

        y, r = rms_norm_triton.forward(x.contiguous(), eps)
        ctx.save_for_backward(x, r)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx, dy):
        x, r = ctx.saved_tensors
        if torch.is_grad_enabled():
            def plain(x):
                return rms_normalized_plain(x, ctx.eps)

            return *plain_gradients(plain, [x], [dy]), None
        from kernels import rms_norm_triton

        return rms_norm_triton.backward(x.contiguous(), r, dy.contiguous(), ctx.eps), None
