"""A linear layer that one pass uses many times, as a recurrence does its matrix at every time step.

Written with F.linear, each use rounds the matrix anew (under autocast), lays it out anew for the
product, and makes a gradient as large as the matrix, which is added to those of the other uses.
Here the matrix is rounded and laid out once, and its gradient is one product over all uses, in
which the sums over rows and uses stay in float32.

Notation: N rows of a use, I inputs, O outputs.
"""

import torch
from torch import Tensor
from torch.autograd.function import Function

from kernels import library
from kernels.product import linear, packed_weight, product, product_with_packed


class Reused:
    """weight (O,I), whose history counts -> a function of x (N,I): x weight^T + bias, as F.linear.

    It can be differentiated any number of times. On a GPU, for torch.compile and for torch.func it
    is F.linear.
    """

    def __init__(self, weight: Tensor):
        self.plain = (weight.device.type != "cpu" or torch.compiler.is_compiling()
                      or library.exporting() or torch._C._are_functorch_transforms_active())
        self.weight = weight if self.plain else _Gathered.apply(weight, self)
        # Of each backward pass (gradient of the output, input) of the uses that it has come to.
        self.uses: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self.packed: dict[str, Tensor | None] = {}

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """-> (N,O), in the weight's type, or in autocast's if that was on when this was made."""
        if self.plain:
            return linear(x, self.weight, bias)
        return _Use.apply(x, self.weight, bias, self)

    def times(self, way: str, x: Tensor, weight: Tensor) -> Tensor:
        """x weight^T, the weight in oneDNN's order where that pays. way: forward or backward."""
        if way not in self.packed:
            self.packed[way] = packed_weight(weight.contiguous(), len(x))
        packed = self.packed[way]
        return product(x, weight.t()) if packed is None else product_with_packed(x, packed)

    def keep(self, dy: Tensor, x: Tensor) -> None:
        """The gradient of a use's output, and its input."""
        self.uses.setdefault(torch._C._current_graph_task_id(), []).append((dy, x))

    def gradient(self) -> Tensor | None:
        """Of the weight, from all uses in this backward pass. (One that did not ask for it may have
        left others.)"""
        uses = self.uses.pop(torch._C._current_graph_task_id(), [])
        self.uses.clear()
        if not uses:
            return None
        dy, x = (torch.cat(each) for each in zip(*uses, strict=True))
        return product(dy.t(), x.to(dy.dtype))


class _Gathered(Function):
    """The weight as the uses take it. Their backward passes come before its own; what they bring it
    themselves is of create_graph=True, or of a graph that was made so."""

    @staticmethod
    def forward(ctx, weight, reused):
        ctx.set_materialize_grads(False)
        ctx.reused, ctx.dtype = reused, weight.dtype
        if torch.is_autocast_enabled("cpu") and weight.dtype != torch.float64:  # as autocast itself
            return weight.to(torch.get_autocast_dtype("cpu"))
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx, dw):
        gathered = ctx.reused.gradient()
        if dw is None or gathered is None:
            dw = gathered if dw is None else dw
            return None if dw is None else dw.to(ctx.dtype), None
        return dw.to(ctx.dtype) + gathered.to(ctx.dtype), None


class _Use(Function):
    @staticmethod
    def forward(ctx, x, weight, bias, reused):
        ctx.save_for_backward(x, weight)
        ctx.reused = reused
        with torch.autocast("cpu", enabled=False):
            y = reused.times("forward", x.to(weight.dtype), weight)
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        db = dy.sum(0) if need_bias else None
        if torch.is_grad_enabled():  # create_graph=True
            dw = dy.t() @ x.to(dy.dtype) if need_weight else None
            return (dy @ weight).to(x.dtype) if need_x else None, dw, db, None
        if need_weight:
            ctx.reused.keep(dy, x)
        dx = ctx.reused.times("backward", dy, weight.t()).to(x.dtype) if need_x else None
        return dx, None, db, None
