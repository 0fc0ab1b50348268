"""Quasi-recurrent layers (arXiv 1611.01576): a convolution for the gates, then a recurrence without
matrices.

Notation: T time, B batch, I input size, H hidden size.
"""

import torch
from torch import Tensor, nn

from kernels.forget_mult import HALF, forget_mult
from kernels.library import exporting
from kernels.product import Linear
from kernels.qrnn_gates import qrnn_gates


class ForgetMult(nn.Module):
    """forget_mult as a module; use_cuda is accepted and ignored: the tensors' device decides."""

    def forward(self, f, x, hidden_init=None, use_cuda=True):
        return forget_mult(f, x, hidden_init)


class QRNNLayer(nn.Module):
    """One QRNN layer (1611.01576, section 2: fo-pooling, or f-pooling without the output gate).

    window 2 convolves each input with the one before it; save_prev_x carries the last input over to
    the next call (reset() forgets it; an exported layer begins a text at each call). zoneout
    (section 2.1) sets that share of the forget gates to zero in training, where the cell then keeps
    its value, and scales them all in evaluation.
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
        if window not in (1, 2):
            raise ValueError(f"QRNNLayer: window must be 1 or 2, not {window}")
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
        """X (T,B,I), hidden None, (B,H) or (1,B,H) -> output (T,B,H), last cell state (1,B,H).
        Raises ValueError for other shapes and for no time step."""
        if not isinstance(X, Tensor) or X.dim() != 3 or X.shape[0] == 0:
            got = tuple(X.shape) if isinstance(X, Tensor) else f"a {type(X).__name__}"
            raise ValueError(f"QRNNLayer takes a tensor (T, B, {self.input_size}), T at least 1, "
                             f"not {got}; of a PackedSequence give pad_packed_sequence(it)[0]")
        y = self.linear(self._frames(X))  # (T,B,3H) = Z, F, O
        if self.window > 1 and self.save_prev_x and not exporting():
            self.prevX = X[-1:].detach().clone()  # a copy, so as not to hold on to all of X
        # Half precision comes from autocast: the recurrence itself always runs in float32.
        wide = y.float() if y.dtype in HALF else y
        c0 = None if hidden is None else hidden.to(wide.dtype).reshape(-1, self.hidden_size)
        if c0 is not None and len(c0) != y.shape[1]:
            raise ValueError(f"QRNNLayer: hidden is for batch size {len(c0)}, not {y.shape[1]}")
        keep, scale = self._zoneout(wide)
        output, last = qrnn_gates(wide, c0, keep, scale, 3 if self.output_gate else 2)
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
    must keep their defaults (else ValueError).

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
        if bidirectional or batch_first or not bias:
            raise ValueError("QRNN is unidirectional (run a second one on x.flip(0)), takes time "
                             "first (give x.transpose(0, 1)) and always has biases: leave out "
                             "bidirectional, batch_first and bias")
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
