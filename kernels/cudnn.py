"""cuDNN's LSTM and GRU as this project wants them called.

- All weights in one piece of memory. Given apart, as under weight drop, cuDNN copies them at each
  call, with a warning.
- Autocast lists cuDNN's recurrence under float16 whatever its own type is: bf16-mixed would compute
  it in float16 without loss scaling, in which gradients below 6e-5 lose their digits. Here it is
  bfloat16 where cuDNN has that (from 9.13 on), else float32.
- What the backward pass needs is kept where there will be one, not in evaluation.

Notation: T time, B batch, I input size, H hidden size, L layers, D directions.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

FIRST_WITH_BF16 = 91300  # version 9.13


def arithmetic(x: Tensor) -> torch.dtype:
    """The type that a recurrence on x, of a GPU, is computed in."""
    if not torch.is_autocast_enabled("cuda"):
        return x.dtype
    wanted = torch.get_autocast_dtype("cuda")
    version = torch.backends.cudnn.version() or 0
    if wanted == torch.bfloat16 and version < FIRST_WITH_BF16:
        return torch.float32
    return wanted


def in_one_piece(weights: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The same weights in that type, one behind the other in memory: copies, unless they are so
    already."""
    if not torch.compiler.is_compiling():  # which cannot know where in memory they will be
        start = weights[0].untyped_storage().data_ptr()
        if all(w.dtype == dtype and w.is_contiguous() and w.untyped_storage().data_ptr() == start
               for w in weights):
            return weights
    flat = torch.cat([w.reshape(-1) for w in weights]).to(dtype)
    return [piece.view_as(w) for piece, w in
            zip(flat.split([w.numel() for w in weights]), weights, strict=True)]


def recurrence(kind: str, x: Tensor, states: tuple[Tensor, ...], weights: list[Tensor],
               batch_sizes: Tensor | None = None, layers: int = 1, both: bool = False,
               dropout: float = 0.0) -> tuple[Tensor, ...]:
    """-> output and the last states, these in their own type.

    kind: lstm, states (h, c), or gru, states (h,); each (L D, B, H). x (T, B, I), or, with the
    batch_sizes of a packed sequence, which are on the CPU, (N, I). weights: of each layer and
    direction w_ih, w_hh, b_ih, b_hh. dropout: between the layers, 0 in evaluation.
    """
    given = (x, *states, *weights)
    train = bool(dropout) or (torch.is_grad_enabled() and any(t.requires_grad for t in given))
    dtype = arithmetic(x)
    with torch.autocast("cuda", enabled=False):
        inner = tuple(state.to(dtype) for state in states)
        hidden: Any = inner if kind == "lstm" else inner[0]
        end = (in_one_piece(weights, dtype), True, layers, dropout, train, both)
        function = getattr(torch, kind)
        if batch_sizes is None:
            output, *last = function(x.to(dtype), hidden, *end, False)
        else:
            output, *last = function(x.to(dtype), batch_sizes, hidden, *end)
    return (output, *(new.to(old.dtype) for new, old in zip(last, states, strict=True)))


class _OnGpu(nn.RNNBase):
    """forward of nn.LSTM and nn.GRU (with biases, time first or packed), by `recurrence`."""

    kind: str

    def forward(self, input, hx=None):  # type: ignore[override]
        data = input.data if isinstance(input, PackedSequence) else input
        if not data.is_cuda:
            return super().forward(input, hx)
        sizes = input.batch_sizes if isinstance(input, PackedSequence) else None
        B = data.shape[1] if sizes is None else int(sizes[0])
        count = 2 if self.kind == "lstm" else 1
        if hx is None:
            shape = (self.num_layers * (1 + self.bidirectional), B, self.hidden_size)
            hx = (data.new_zeros(shape),) * count
        elif count == 1:
            hx = (hx,)
        output, *last = recurrence(
            self.kind, data, hx, [getattr(self, name) for name in self._flat_weights_names], sizes,
            self.num_layers, self.bidirectional, self.dropout if self.training else 0.0)
        if sizes is not None:
            output = PackedSequence(output, sizes, input.sorted_indices, input.unsorted_indices)
        return output, (tuple(last) if count == 2 else last[0])


class LSTM(_OnGpu, nn.LSTM):
    """torch.nn.LSTM with biases, its sequences time first or packed in falling length."""

    kind = "lstm"


class GRU(_OnGpu, nn.GRU):
    """torch.nn.GRU with biases, its sequences time first or packed in falling length."""

    kind = "gru"
