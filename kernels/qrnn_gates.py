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
    through qrnn_gates_plain, but not under torch.compile, to which all of it is one operator."""
    if torch.compiler.is_compiling() and not library.exporting():
        if library.available_to_compiler(y):
            h, last, _ = _gates(y, c0, keep, float(scale), gates)
            return h, last
        return qrnn_gates_plain(y, c0, keep, scale, gates, forget_mult)
    if not library.available(y):
        return qrnn_gates_plain(y, c0, keep, scale, gates, forget_mult)
    return _Gates.apply(*contiguous(y, c0, keep), scale, gates)


def _forward(y, c0, keep, scale, gates):
    """-> cell states c (T,B,H), and h (T,B,H) unless it is c."""
    T, B, width = y.shape
    c = y.new_empty(T, B, width // gates)
    h = torch.empty_like(c) if gates == 3 else None
    library.call("qrnn_forward", T, B, width // gates, gates, y, keep, scale, c0, c, h)
    return c, h


def _backward(y, c0, keep, c, scale, gates, dh, dc_last):
    """-> gradients of y and c0."""
    T, B, H = c.shape
    dh = torch.zeros_like(c) if dh is None else dh.contiguous()
    dc_last = None if dc_last is None else dc_last.contiguous()
    dy, dc0 = torch.empty_like(y), None if c0 is None else torch.empty_like(c0)
    library.call("qrnn_backward", T, B, H, gates, y, keep, scale, c0, c, dh, dc_last, dy, dc0)
    return dy, dc0


class _Gates(Function):
    """Backward keeps y, keep and the cell states, no activations."""

    @staticmethod
    def forward(ctx, y, c0, keep, scale, gates):
        ctx.set_materialize_grads(False)  # often one of the two outputs is not used
        ctx.scale, ctx.gates = scale, gates
        c, h = _forward(y, c0, keep, scale, gates)
        ctx.save_for_backward(y, c0, keep, c)
        return c if h is None else h, c[-1:].clone()

    @staticmethod
    def backward(ctx, dh, dc_last):
        y, c0, keep, c = ctx.saved_tensors
        if torch.is_grad_enabled():
            def plain(y, c0):
                return qrnn_gates_plain(y, c0, keep, ctx.scale, ctx.gates)

            return *plain_gradients(plain, (y, c0), (dh, dc_last)), None, None, None
        return *_backward(y, c0, keep, c, ctx.scale, ctx.gates, dh, dc_last), None, None, None


# ------------------------------------------------------------------------- for torch.compile
# It cannot look into compiled code: the two passes are operators of their own, whose outputs it
# knows by shape. They may not be views of one another or of an argument.
@torch.library.custom_op("sequence_papers::qrnn_gates", mutates_args=())
def _gates(y: Tensor, c0: Tensor | None, keep: Tensor | None, scale: float,
           gates: int) -> tuple[Tensor, Tensor, Tensor]:
    c, h = _forward(*contiguous(y, c0, keep), scale=scale, gates=gates)
    return c.clone() if h is None else h, c[-1:].clone(), c


@torch.library.custom_op("sequence_papers::qrnn_gates_backward", mutates_args=())
def _gates_backward(y: Tensor, c0: Tensor | None, keep: Tensor | None, c: Tensor, scale: float,
                    gates: int, dh: Tensor, dc_last: Tensor) -> tuple[Tensor, Tensor]:
    dy, dc0 = _backward(*contiguous(y, c0, keep), c=c, scale=scale, gates=gates, dh=dh,
                        dc_last=dc_last)
    return dy, y.new_empty(0) if dc0 is None else dc0


@_gates.register_fake
def _(y, c0, keep, scale, gates):
    shape = (*y.shape[:2], y.shape[2] // gates)
    return y.new_empty(shape), y.new_empty(1, *shape[1:]), y.new_empty(shape)


@_gates_backward.register_fake
def _(y, c0, keep, c, scale, gates, dh, dc_last):
    return torch.empty_like(y, memory_format=torch.contiguous_format), \
        y.new_empty(0) if c0 is None else c0.new_empty(c0.shape)


def _keep_for_backward(ctx, inputs, output):
    y, c0, keep, ctx.scale, ctx.gates = inputs
    ctx.save_for_backward(y, c0, keep, output[2])


def _gates_gradient(ctx, dh, dc_last, _):
    y, c0, keep, c = ctx.saved_tensors
    dy, dc0 = _gates_backward(y, c0, keep, c, ctx.scale, ctx.gates, dh, dc_last)
    return dy, None if c0 is None else dc0, None, None, None


_gates.register_autograd(_gates_gradient, setup_context=_keep_for_backward)
