"""Quasi-recurrent layers (arXiv 1611.01576): a convolution for the gates, then a recurrence without
matrices.

Letters: T time, B batch, I input size, H hidden size.

The recurrence, "forget-mult" (section 2, f-pooling), is c_t = f_t x_t + (1 - f_t) c_{t-1}.
forget_mult_plain is that equation as a loop; forget_mult gives the same numbers faster: compiled
code on a CPU (kernels.cpp), Triton on a GPU, and in-place torch operations elsewhere.
"""

import functools
import importlib.util
import warnings

import torch
from torch import nn
from torch.autograd.function import Function, once_differentiable

from awd_lstm import kernels
from common.splitcross import cpu_product

HALF = (torch.float16, torch.bfloat16)


def forget_mult_plain(f, x, hidden_init=None):
    """f, x (T,B,H), hidden_init None, (B,H) or (1,B,H) -> c (T,B,H). The equation itself; slow."""
    c = torch.zeros_like(f[0]) if hidden_init is None else hidden_init.reshape(f.shape[1:])
    cells = []
    for f_t, x_t in zip(f, x, strict=True):
        c = f_t * x_t + (1 - f_t) * c
        cells.append(c)
    return torch.stack(cells)


def forget_mult(f, x, hidden_init=None):
    """forget_mult_plain, fast. Half precision is computed, and returned, in float32, because c is a
    sum over all of T. The backward pass cannot itself be differentiated."""
    if f.shape != x.shape:
        raise ValueError(f"forget_mult: f {tuple(f.shape)} and x {tuple(x.shape)} differ in shape")
    if f.dtype in HALF:
        f, x = f.float(), x.float()
    c0 = None if hidden_init is None else hidden_init.to(f.dtype).reshape(f.shape[1:])
    return _ForgetMult.apply(f, x, c0)


class _ForgetMult(Function):
    @staticmethod
    def forward(ctx, f, x, c0):
        f, x, c0 = _contiguous(f, x, c0)
        c = _backend(f, x)[0](f, x, c0)
        ctx.save_for_backward(f, x, c0, c)
        return c

    @staticmethod
    @once_differentiable
    def backward(ctx, dc):
        f, x, c0, c = ctx.saved_tensors
        return _backend(f, x)[1](f, x, c0, c, dc.contiguous())


def _contiguous(*tensors):
    return [t if t is None else t.contiguous() for t in tensors]


def _backend(f, x):
    """The pair (forward, backward) for these tensors' device."""
    if kernels.available(f, x):
        return _compiled_forward, _compiled_backward
    if f.is_cuda and _has_triton():
        from awd_lstm import (
            qrnn_triton,  # here, so that a machine without a GPU never imports Triton
        )

        return qrnn_triton.forward, qrnn_triton.backward
    return _loop_forward, _loop_backward


@functools.cache
def _has_triton():
    found = importlib.util.find_spec("triton") is not None
    if not found:
        warnings.warn(
            "awd_lstm: Triton is not installed, so QRNN layers launch one small GPU operation per "
            "time step. Install `triton` to avoid that.",
            stacklevel=2,
        )
    return found


def _compiled_forward(f, x, c0):
    c = torch.empty_like(f)
    kernels.call("forget_mult_forward", len(f), f[0].numel(), f, x, c0, c)
    return c


def _compiled_backward(f, x, c0, c, dc):
    df, dx = torch.empty_like(f), torch.empty_like(x)
    dc0 = None if c0 is None else torch.empty_like(c0)
    kernels.call("forget_mult_backward", len(f), f[0].numel(), f, x, c0, c, dc, df, dx, dc0)
    return df, dx, dc0


def _loop_forward(f, x, c0):
    """One in-place operation per time step."""
    c, keep = f * x, 1 - f
    if c0 is not None:
        c[0].addcmul_(keep[0], c0)
    for t in range(1, len(f)):
        c[t].addcmul_(keep[t], c[t - 1])
    return c


def _loop_backward(f, x, c0, c, dc):
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


class _Gates(Function):
    """Activations, zoneout, forget-mult and output gate in one pass over memory (CPU).

    y (T,B,3H) = Z, F, O before their activations, or (T,B,2H) without output gate; c0 (B,H) or
    None; keep (T,B,H) or None, and the number scale, multiply sigmoid(F). Returns h (T,B,H) and the
    last cell state (1,B,H). Backward keeps y, keep and the cell states, no activations.
    """

    @staticmethod
    def forward(ctx, y, c0, keep, scale, gates):
        ctx.set_materialize_grads(False)
        y, c0, keep = _contiguous(y, c0, keep)
        T, B, width = y.shape
        ctx.sizes = (T, B, width // gates, gates)
        ctx.scale = scale
        c = y.new_empty(T, B, width // gates)
        h = torch.empty_like(c) if gates == 3 else None
        kernels.call("qrnn_forward", *ctx.sizes, y, keep, scale, c0, c, h)
        ctx.save_for_backward(y, c0, keep, c)
        return c if h is None else h, c[-1:].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, dh, dc_last):
        y, c0, keep, c = ctx.saved_tensors
        dh = torch.zeros_like(c) if dh is None else dh.contiguous()
        dc_last = None if dc_last is None else dc_last.contiguous()
        dy, dc0 = torch.empty_like(y), None if c0 is None else torch.empty_like(c0)
        kernels.call("qrnn_backward", *ctx.sizes, y, keep, ctx.scale, c0, c, dh, dc_last, dy, dc0)
        return dy, dc0, None, None, None


def _gates_plain(y, c0, keep, scale, gates):
    """The same as _Gates, one torch operation at a time."""
    z, f, *o = y.chunk(gates, dim=-1)
    f = f.sigmoid() * scale
    if keep is not None:
        f = f * keep
    c = forget_mult(f, z.tanh(), c0)
    return (o[0].sigmoid() * c if o else c), c[-1:]


class _Linear(Function):
    """x (N,I) w^T + b with the three products of forward and backward in cpu_product."""

    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x, w)
        return cpu_product(x, w.t()).add_(b)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dx = cpu_product(dy, w) if ctx.needs_input_grad[0] else None
        return dx, cpu_product(dy.t(), x), dy.sum(0)


class Linear(nn.Linear):
    """torch.nn.Linear, on the CPU with the faster matrix product: (...,I) -> (...,O)."""

    def forward(self, x):
        if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or x.numel() == 0:
            return super().forward(x)
        y = _Linear.apply(x.reshape(-1, x.shape[-1]), self.weight, self.bias)
        return y.view(*x.shape[:-1], -1)


class ForgetMult(nn.Module):
    """forget_mult as a module; use_cuda is accepted and ignored: the tensors' device decides."""

    def forward(self, f, x, hidden_init=None, use_cuda=True):
        return forget_mult(f, x, hidden_init)


class QRNNLayer(nn.Module):
    """One QRNN layer (1611.01576, section 2: fo-pooling, or f-pooling without the output gate).

    window 2 convolves each input with the one before it; save_prev_x carries the last input over to
    the next call (reset() forgets it). zoneout (section 2.1) sets that share of the forget gates to
    zero in training, where the cell then keeps its value, and scales them all in evaluation.
    use_cuda is accepted and ignored.
    """

    def __init__(
        self,
        input_size,
        hidden_size=None,
        save_prev_x=False,
        zoneout=0,
        window=1,
        output_gate=True,
        use_cuda=True,
    ):
        super().__init__()
        assert window in (1, 2), "QRNNLayer: window must be 1 or 2"
        self.input_size = input_size
        self.hidden_size = hidden_size if hidden_size else input_size
        self.save_prev_x = save_prev_x
        self.zoneout = zoneout
        self.window = window
        self.output_gate = output_gate
        self.use_cuda = use_cuda
        self.prevX = None
        gates = 3 if output_gate else 2
        self.linear = Linear(window * input_size, gates * self.hidden_size)

    def reset(self):
        """Forget the input frame carried over from the last call."""
        self.prevX = None

    def forward(self, X, hidden=None):
        """X (T,B,I), hidden None, (B,H) or (1,B,H) -> output (T,B,H), last cell state (1,B,H)."""
        y = self.linear(self._frames(X))  # (T,B,3H) = Z, F, O
        if self.window > 1 and self.save_prev_x:
            self.prevX = X[-1:].detach().clone()  # a copy, so as not to hold on to all of X
        # Half precision comes from autocast: the recurrence itself always runs in float32.
        wide = y.float() if y.dtype in HALF else y
        c0 = None if hidden is None else hidden.to(wide.dtype).reshape(-1, self.hidden_size)
        if c0 is not None and len(c0) != y.shape[1]:
            raise ValueError(f"QRNNLayer: hidden is for batch size {len(c0)}, not {y.shape[1]}")
        keep, scale = self._zoneout(wide)
        gates = _Gates.apply if kernels.available(wide) else _gates_plain
        output, last = gates(wide, c0, keep, scale, 3 if self.output_gate else 2)
        return output.to(y.dtype), last

    def _frames(self, X):
        """(T,B,I) -> (T,B,window I): the current input first, then the previous one."""
        if self.window == 1:
            return X
        before = torch.zeros_like(X[:1]) if self.prevX is None else self.prevX
        return torch.cat([X, torch.cat([before, X[:-1]])], dim=-1)

    def _zoneout(self, y):
        """The two factors of the forget gate: a mask (T,B,H) or None, and a number."""
        if not self.zoneout:
            return None, 1.0
        if not self.training:
            return None, 1.0 - self.zoneout
        T, B, _ = y.shape
        return y.new_empty(T, B, self.hidden_size).bernoulli_(1 - self.zoneout), 1.0


class QRNN(nn.Module):
    """A stack of QRNN layers with nn.LSTM's arguments, of which bias, batch_first and bidirectional
    must keep their defaults.

    layers: ready-made layers instead of num_layers new ones; layer_kwargs go to each new QRNNLayer.
    """

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        bias=True,
        batch_first=False,
        dropout=0,
        bidirectional=False,
        layers=None,
        **layer_kwargs,
    ):
        super().__init__()
        assert not bidirectional, "Bidirectional QRNN is not supported"
        assert not batch_first, "QRNN expects time first: (T,B,I)"
        assert bias, "QRNN without bias is not supported"
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        layers = layers or [QRNNLayer(size, hidden_size, **layer_kwargs) for size in sizes]
        self.layers = nn.ModuleList(layers)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = len(self.layers)
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional

    def reset(self):
        """Forget the input frames carried over from the last call."""
        for layer in self.layers:
            layer.reset()

    def forward(self, input, hidden=None):
        """input (T,B,I), hidden None or (L,B,H) -> output (T,B,H), last cell states (L,B,H)."""
        last = []
        for i, layer in enumerate(self.layers):
            input, c = layer(input, None if hidden is None else hidden[i])
            last.append(c)
            if self.dropout and i < len(self.layers) - 1:
                input = nn.functional.dropout(input, self.dropout, self.training)
        return input, torch.cat(last)
