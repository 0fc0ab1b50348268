"""What a QRNN layer (arXiv 1611.01576, section 2) does after its matrix product: activations,
zoneout, forget-mult and output gate.

qrnn_gates_plain is one torch operation at a time; qrnn_gates gives the same numbers in one pass
over memory on a CPU (cpp/qrnn_gates.cpp).

Notation: T time, B batch, H hidden size, G the number of gates: 3 (z, f, o), or 2 without output
gate. y (T,B,G H) holds the gates before their activations, in this order. keep (T,B,H) or None, and
the number scale, multiply sigmoid(f): zoneout's mask in training, its expectation in evaluation.
c0 is (B,H) or None.
"""

import torch
from torch import Tensor
from torch.autograd.function import Function

from kernels import library
from kernels.forget_mult import contiguous, forget_mult, forget_mult_plain
from kernels.second_derivatives import plain_gradients


def qrnn_gates_plain(y: Tensor, c0: Tensor | None, keep: Tensor | None, scale: float, gates: int,
                     recurrence=forget_mult_plain) -> tuple[Tensor, Tensor]:
    """-> h (T,B,H) and the last cell state (1,B,H)."""
    z, f, *o = y.chunk(gates, dim=-1)
    f = f.sigmoid() * scale
    if keep is not None:
        f = f * keep
    c = recurrence(f, z.tanh(), c0)
    return (o[0].sigmoid() * c if o else c), c[-1:]


def qrnn_gates(y: Tensor, c0: Tensor | None, keep: Tensor | None, scale: float,
               gates: int) -> tuple[Tensor, Tensor]:
    """qrnn_gates_plain, fast; float32 or float64. keep gets no gradient. Second derivatives go
    through qrnn_gates_plain."""
    if not library.available(y):
        return qrnn_gates_plain(y, c0, keep, scale, gates, forget_mult)
    return _Gates.apply(*contiguous(y, c0, keep), scale, gates)


class _Gates(Function):
    """Backward keeps y, keep and the cell states, no activations."""

    @staticmethod
    def forward(ctx, y, c0, keep, scale, gates):
        ctx.set_materialize_grads(False)  # often one of the two outputs is not used
        T, B, width = y.shape
        ctx.sizes = (T, B, width // gates, gates)
        ctx.scale = scale
        c = y.new_empty(T, B, width // gates)
        h = torch.empty_like(c) if gates == 3 else None
        library.call("qrnn_forward", *ctx.sizes, y, keep, scale, c0, c, h)
        ctx.save_for_backward(y, c0, keep, c)
        return c if h is None else h, c[-1:].clone()

    @staticmethod
    def backward(ctx, dh, dc_last):
        y, c0, keep, c = ctx.saved_tensors
        if torch.is_grad_enabled():
            def plain(y, c0):
                return qrnn_gates_plain(y, c0, keep, ctx.scale, ctx.sizes[-1])

            return *plain_gradients(plain, (y, c0), (dh, dc_last)), None, None, None
        dh = torch.zeros_like(c) if dh is None else dh.contiguous()
        dc_last = None if dc_last is None else dc_last.contiguous()
        dy, dc0 = torch.empty_like(y), None if c0 is None else torch.empty_like(c0)
        library.call("qrnn_backward", *ctx.sizes, y, keep, ctx.scale, c0, c, dh, dc_last, dy, dc0)
        return dy, dc0, None, None, None
