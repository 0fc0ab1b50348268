"""Second derivatives of the fast forms, for gradient penalties and the like.

A backward pass in compiled code leaves no graph behind. autograd's once_differentiable would be no
guard: it raises an error only if the incoming gradient itself requires one, and otherwise the
second derivative is zero in silence. So a backward pass under create_graph=True takes the plain
form instead, at the plain form's cost; where there is none, it raises an error.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.function import Function


def plain_gradients(plain: Callable, inputs: Sequence[Tensor | None],
                    outgoing: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Gradients of plain(*inputs), a tensor or a tuple of tensors, with a graph of their own.

    inputs: what the fast form was called with (saved as it came, so that its history is known).
    outgoing: the gradients of the outputs, None for one that was not used.
    Returns one gradient per input, None where the input is None or requires none.
    """
    with torch.enable_grad():
        # Views, so that a tensor given twice, or one computed from another, counts once each.
        leaves = [None if t is None else t.view_as(t) for t in inputs]
        outputs = plain(*leaves)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        used = [(y, dy) for y, dy in zip(outputs, outgoing, strict=True) if dy is not None]
        wanted = {i: t for i, t in enumerate(leaves) if t is not None and t.requires_grad}
        found = torch.autograd.grad([y for y, _ in used], list(wanted.values()),
                                    [dy for _, dy in used], create_graph=True, allow_unused=True)
    gradients: list[Tensor | None] = [None] * len(inputs)
    for i, gradient in zip(wanted, found, strict=True):
        gradients[i] = gradient
    return gradients


def shadow(x: Tensor) -> Tensor | None:
    """Zeros in x's place in the graph, that take no memory: x's shape and history, one number.

    For a fast form that keeps something computed from x instead of x: under create_graph,
    `x made again + shadow` is x with its history. None where x has none.
    """
    return _Shadow.apply(x) if torch.is_grad_enabled() and x.requires_grad else None


class _Shadow(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)  # an ordinary backward pass brings None here
        return x.new_zeros(()).expand(x.shape)

    @staticmethod
    def backward(ctx, dx):
        return dx


def refuse_second_derivative(what: str) -> None:
    """Called by a backward pass that has no plain form. Raises RuntimeError under create_graph."""
    if torch.is_grad_enabled():
        raise RuntimeError(f"{what} has no second derivative (create_graph=True)")
