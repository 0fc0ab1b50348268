"""The blocks of a SparseLSTM, computed one after another or side by side: the same numbers.

sequential   the plain form and reference: an nn.LSTM (kernels.lstm), block after block, as the
             original did
streams      CUDA: one cuDNN LSTM per block, each on a stream of its own

On the CPU block after block is also the fastest form known: each block is still a large matrix
product, which keeps the cores 87 % busy. A thread per block (0.85x) and one batched product of all
blocks per time step (0.48x: the blocks must be padded to one size and copied together) were slower.

Notation: T time, B batch, I input size, H hidden size, k blocks, D directions; n window and h state
size of one block.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kernels.cudnn import recurrence

if TYPE_CHECKING:
    from sparse_seq.rnn import Composition, SparseLSTM

Weights = list[list[Tensor]]  # per block: weight_ih, weight_hh, bias_ih, bias_hh (and reverse ones)
States = tuple[Tensor, Tensor]


def sequential(lstms: nn.ModuleList, x: Tensor, hidden: States, composition: "Composition"
               ) -> tuple[Tensor, States]:
    """x (T, B, I), hidden (h, c) each (D, B, H) -> (T, B, D*H), (h, c)."""
    h, c = hidden
    outputs, states = [], []
    for block, ((i0, i1), (o0, o1)) in zip(lstms, composition.ranges, strict=True):
        # cuDNN wants its states dense; a slice of the last axis is not.
        y, state = block(x[..., i0:i1], (h[..., o0:o1].contiguous(), c[..., o0:o1].contiguous()))
        outputs.append(y)
        states.append(state)
    hn, cn = (torch.cat(each, -1) for each in zip(*states, strict=True))
    # Block by block: two directions come out as fwd_0 bwd_0 fwd_1 ..., the original's order.
    return torch.cat(outputs, -1), (hn, cn)


def lstm(x: Tensor, hidden: States, weights: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """torch.nn.LSTM's own operator, its weights given: x (T, B, n) -> y, h, c."""
    if x.is_cuda:
        return recurrence("lstm", x, hidden, weights, both=len(weights) == 8)
    return torch.lstm(x, hidden, weights, True, 1, 0.0, True, len(weights) == 8, False)


def streams(weights: Weights, x: Tensor, hidden: States, composition: "Composition"
            ) -> tuple[Tensor, States]:
    """One cuDNN LSTM per block, side by side on CUDA streams. Shapes as `sequential`.

    A block of a few hundred units leaves most of a GPU idle and its T steps wait for one another;
    k of them at once share that latency. Autograd runs each operator's derivative on the stream of
    the operator, so the backward pass goes side by side too.
    """
    here = torch.cuda.current_stream(x.device)
    results = []
    for block, ((i0, i1), (o0, o1)) in zip(weights, composition.ranges, strict=True):
        window, *states = parts = [part.contiguous() for part in (
            x[..., i0:i1], *(state[..., o0:o1] for state in hidden))]
        stream = torch.cuda.Stream(x.device)
        stream.wait_stream(here)  # the copies just made are queued on `here`
        with torch.cuda.stream(stream):
            # The allocator hands freed memory out again in the order of the stream that it was
            # made on. These tensors are read on another one: it must wait for that one as well.
            for tensor in (*parts, *block):
                tensor.record_stream(stream)
            results.append((stream, lstm(window, (states[0], states[1]), block)))
    for stream, tensors in results:
        here.wait_stream(stream)
        for tensor in tensors:
            tensor.record_stream(here)
    y, h, c = (torch.cat(each, -1) for each in zip(*(tensors for _, tensors in results),
                                                   strict=True))
    return y, (h, c)


FORMS = {"sequential": sequential, "streams": streams}


def choose_form(layer: "SparseLSTM", x: Tensor) -> str:
    """The form for a layer and its input x (T, B, I): `streams` where there are CUDA streams and
    more than one block to put on them. torch.compile does not trace streams."""
    if x.device.type == "cuda" and layer.composition.blocks > 1 \
            and not torch.compiler.is_compiling():
        return "streams"
    return "sequential"
