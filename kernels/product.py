"""Matrix products on the CPU by the faster of PyTorch's two libraries.

torch.mm calls MKL; oneDNN, which torch.compile calls for linear layers, is up to half as fast again
on AMD processors. The results differ by rounding alone.

Notation: a (M,K), b (K,N); a linear layer has N rows, I inputs and O outputs.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

from kernels import library


def product_plain(a: Tensor, b: Tensor) -> Tensor:
    """a (M,K) times b (K,N) -> (M,N)."""
    return a @ b


def product(a: Tensor, b: Tensor) -> Tensor:
    """product_plain, fast for float32 on a CPU; it can be differentiated any number of times."""
    fast = a.dtype == b.dtype == torch.float32 and a.device.type == "cpu"
    # Inductor chooses the library by itself.
    plain = not fast or torch.compiler.is_compiling() or library.exporting()
    multiply = None if plain else _onednn_linear()
    if multiply is None:
        return product_plain(a, b)
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        return _Product.apply(a, b)
    return multiply(a, b.t(), None, "none", [], "")


class _Product(Function):
    """oneDNN's product has no gradient of its own."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return product(a, b)

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved_tensors
        return (product(dy, b.t()) if ctx.needs_input_grad[0] else None,
                product(a.t(), dy) if ctx.needs_input_grad[1] else None)


@functools.cache
def _onednn_linear():
    """oneDNN's x (M,K), w (N,K) -> x w^T, or None where this PyTorch does not have it."""
    try:
        multiply = torch.ops.mkldnn._linear_pointwise
        multiply(torch.ones(2, 3), torch.ones(4, 3), None, "none", [], "")
        return multiply
    except (AttributeError, RuntimeError):
        return None


def linear_plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (...,I), weight (O,I), bias (O) -> x weight^T + bias (...,O)."""
    return F.linear(x, weight, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """linear_plain, its three products (forward and backward) by `product` on a CPU. Under autocast
    it is linear_plain, which rounds to the lower precision."""
    if (x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or x.numel() == 0
            or torch.compiler.is_compiling() or library.exporting()):
        return linear_plain(x, weight, bias)
    y = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)
    return y.view(*x.shape[:-1], -1)


class _Linear(Function):
    """x (N,I) -> (N,O). Backward consists of differentiable operations, so it needs no other form
    to be differentiated again."""

    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x, w)
        return product(x, w.t()).add_(b)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        need_x, need_w, need_b = ctx.needs_input_grad
        # (O,N) (N,I) rather than the transpose of (I,N) (N,O): the gradient is laid out like w.
        return (product(dy, w) if need_x else None, product(dy.t(), x) if need_w else None,
                dy.sum(0) if need_b else None)
