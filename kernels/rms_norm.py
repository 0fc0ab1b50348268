"""Division by the root mean square over the last axis: on a GPU one operation each way
(rms_norm_triton.py), where PyTorch's and their gradients are some twenty. So it is on a CPU
(cpp/rms_norm.cpp) where the result is bfloat16; in float32 PyTorch's operations stay in use there.

    y = x s,  s = 1 / (r + eps),  r = |x| / sqrt(d)
    dx = s dy - s^2 x (dy . x) / (d r),      the second term 0 where r is 0

In mixed precision a pre-norm layer adds bfloat16 outputs to a float32 stream and norms the sum for
the next one. PyTorch widens, adds, norms and rounds in as many passes over memory; added and
added_and_normalized make one.

Notation: d the width.
"""

import torch
from torch import Tensor
from torch.autograd.function import Function

from kernels import library
from kernels.forget_mult import has_triton
from kernels.second_derivatives import plain_gradients

HALF = (torch.float16, torch.bfloat16)
WIDEST = 1 << 13  # a row is kept in the registers of one block of threads
NOTHING = torch.empty(0)


def has_kernel(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether a kernel norms x to `dtype`. Not while compiling or under torch.func."""
    if (x.numel() == 0 or torch.compiler.is_compiling()
            or torch._C._are_functorch_transforms_active()):
        return False
    if x.is_cuda:
        return x.shape[-1] <= WIDEST and has_triton()
    return (dtype == torch.bfloat16 and x.dtype in (torch.float32, torch.bfloat16)
            and x.device.type == "cpu" and library.available(NOTHING))


def rms_normalized(x: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """x (..., d) -> the same shape, in `dtype` (None: x's); half precision is computed in float32.
    The zero vector stays zero, with gradient 1 / eps. Second derivatives go through
    rms_normalized_plain."""
    dtype = dtype or x.dtype
    if has_kernel(x, dtype):
        return _RmsNormalized.apply(x, eps, dtype)
    return rms_normalized_plain(x, eps, dtype)


def rms_normalized_plain(x: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """The same by definition."""
    wide = x.float() if x.dtype in HALF else x
    rms = wide.norm(dim=-1, keepdim=True) * wide.shape[-1] ** -0.5
    return (wide / (rms + eps)).to(dtype or x.dtype)


def added_and_normalized(x: Tensor, y: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x (..., d) and y alike -> x + y, and that normed, in y's type."""
    if _mixed(x, y) and has_kernel(x, y.dtype):
        return _AddedAndNormalized.apply(x, y, eps)
    total = x + y
    return total, rms_normalized(total, eps, y.dtype)


def added(x: Tensor, y: Tensor) -> Tensor:
    """x + y; the gradient of y is rounded to y's type."""
    return _Added.apply(x, y) if _mixed(x, y) and has_kernel(x, y.dtype) else x + y


def _mixed(x, y):
    """On a CPU, where PyTorch would widen y in a pass of its own."""
    return (x.device.type == "cpu" and x.dtype == torch.float32 and y.dtype == torch.bfloat16
            and x.shape == y.shape)


class _RmsNormalized(Function):
    @staticmethod
    def forward(ctx, x, eps, dtype):
        if x.is_cuda:
            from kernels import rms_norm_triton

            y, r = rms_norm_triton.forward(x.contiguous(), eps, dtype)
        else:
            _, y, r = _compiled_forward(x.contiguous(), None, eps)
        ctx.save_for_backward(x, r)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx, dy):
        x, r = ctx.saved_tensors
        if torch.is_grad_enabled():
            def plain(x):
                return rms_normalized_plain(x, ctx.eps, dy.dtype)

            return *plain_gradients(plain, [x], [dy]), None, None
        if not x.is_cuda:
            return _compiled_backward(x.contiguous(), r, dy, ctx.eps)[0], None, None
        from kernels import rms_norm_triton

        return rms_norm_triton.backward(x.contiguous(), r, dy.contiguous(), ctx.eps), None, None


class _AddedAndNormalized(Function):
    """The sum is kept, which is an output, and neither of its parts."""

    @staticmethod
    def forward(ctx, x, y, eps):
        total, normed, r = _compiled_forward(x.contiguous(), y.contiguous(), eps)
        ctx.save_for_backward(total, r)
        ctx.eps = eps
        return total, normed

    @staticmethod
    def backward(ctx, d_total, d_normed):
        total, r = ctx.saved_tensors
        if torch.is_grad_enabled():
            def plain(total):
                return rms_normalized_plain(total, ctx.eps, d_normed.dtype)

            dx = d_total + plain_gradients(plain, [total], [d_normed])[0]
            return dx, dx.to(d_normed.dtype), None
        return *_compiled_backward(total, r, d_normed, ctx.eps, d_total.contiguous()), None


class _Added(Function):
    @staticmethod
    def forward(ctx, x, y):
        x, y = x.contiguous(), y.contiguous()
        total = torch.empty_like(x)
        library.function("add_bf16", torch.float32)(
            x.numel(), x.data_ptr(), y.data_ptr(), total.data_ptr(), torch.get_num_threads())
        return total

    @staticmethod
    def backward(ctx, d):
        return d, d.bfloat16()


def _compiled_forward(x, y, eps):
    """-> x + y (x itself if y is None), that normed (bfloat16), and r (...)."""
    total = x if y is None else torch.empty_like(x)
    normed, r = torch.empty_like(x, dtype=torch.bfloat16), x.new_empty(x.shape[:-1],
                                                                      dtype=torch.float32)
    library.function("rms_norm_forward", torch.float32)(
        r.numel(), x.shape[-1], eps, x.dtype == torch.bfloat16, x.data_ptr(), _address(y),
        _address(None if y is None else total), normed.data_ptr(), r.data_ptr(),
        torch.get_num_threads())
    return total, normed, r


def _compiled_backward(x, r, d_normed, eps, d_total=None):
    """-> the gradient of x in its own type and, with d_total, in bfloat16."""
    d_normed, dx = d_normed.contiguous(), torch.empty_like(x)
    rounded = None if d_total is None else torch.empty_like(x, dtype=torch.bfloat16)
    library.function("rms_norm_backward", torch.float32)(
        r.numel(), x.shape[-1], eps, x.dtype == torch.bfloat16, x.data_ptr(), r.data_ptr(),
        d_normed.data_ptr(), _address(d_total), dx.data_ptr(), _address(rounded),
        torch.get_num_threads())
    return dx, rounded


def _address(array):
    return None if array is None else array.data_ptr()
