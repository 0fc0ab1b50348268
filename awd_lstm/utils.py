"""Batches, sequence lengths and evaluation, shared by the four scripts.

Notation: T time steps, B batch columns, N tokens of a text.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from awd_lstm.model import Hidden, RNNModel

NOTHING_STORED = 1e8  # "best validation loss" before the first


def batchify(ids: np.ndarray, batch_size: int, device: torch.device | str = "cpu") -> Tensor:
    """Cuts a text into `batch_size` contiguous stretches, one per column.

        a b c d e f g h i j k   ->   a d g        (batch_size 3; the tail j k is dropped)
                                     b e h
                                     c f i

    ids: (N,) any integer type -> (N // batch_size, batch_size), of the same compact type.
    Raises ValueError if a column would have fewer than two tokens.
    """
    rows = len(ids) // batch_size
    if rows < 2:
        raise ValueError(f"a text of {len(ids)} tokens is too short for {batch_size} columns")
    # A copy: torch would otherwise alias the file, which is mapped read-only.
    columns = torch.from_numpy(np.array(ids[: rows * batch_size]))
    return text_on(device, columns.view(batch_size, rows).t())


def text_on(device: torch.device | str, columns: Tensor) -> Tensor:
    """The same ids on the device; on a CPU the same tensor."""
    if torch.device(device).type != "cpu" and columns.dtype in (torch.uint16, torch.uint32):
        columns = columns.to(torch.int32)  # few operations know the wider unsigned types there
    return columns.to(device)


def get_batch(source: Tensor, i: int, seq_len: int) -> tuple[Tensor, Tensor]:
    """Rows i.. of source (rows, B) and, as targets, the rows one later.

    Returns data (T, B) and targets (T*B,), time-major, int64, with T <= seq_len.
    """
    seq_len = min(seq_len, len(source) - 1 - i)
    # The text stays in its compact type; ids become int64, as lookups want them, a batch at a time.
    data = source[i: i + seq_len + 1].long().contiguous()
    return data[:-1], data[1:].reshape(-1)


def draw_seq_len(rng: np.random.RandomState, bptt: int, cap: int | None = None,
                 multiple: int = 1) -> int:
    """Variable-length BPTT (section 5): N(bptt, 5), one time in twenty N(bptt/2, 5); at least 5.

    multiple: the nearest multiple of it is taken, not the original's. Two draws from `rng` per
    call, as in the original.
    """
    mean = bptt if rng.random_sample() < 0.95 else bptt / 2
    seq_len = max(5, int(rng.normal(mean, 5)))
    seq_len = max(1, round(seq_len / multiple)) * multiple
    return seq_len if cap is None else min(seq_len, cap)


def repackage_hidden(hidden: Hidden) -> Hidden:
    """The same states, cut off from their history."""
    return [tuple(x.detach() for x in h) if isinstance(h, tuple) else h.detach() for h in hidden]


@contextmanager
def single_precision() -> Iterator[None]:
    """Inside the block new weights are drawn as float32, whatever --precision: so the same seed
    starts with the same weights and the same dropout masks in all of them."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def is_best(loss: float, stored: float) -> bool:
    """Is this the lowest validation loss so far? The first one is, however high."""
    return stored == NOTHING_STORED or loss < stored


@torch.no_grad()
def evaluate(model: RNNModel, criterion: torch.nn.Module, source: Tensor, bptt: int,
             exact: bool = False, check: Callable[[], None] = lambda: None,
             score: Callable[..., tuple[Tensor, Hidden]] | None = None) -> float:
    """Mean loss (nats per token) of the text source (rows, B), hidden states carried along.

    As in the original the sum over the rows-1 predictions is divided by rows, which makes every
    loss (rows-1)/rows of the true mean; `exact` divides by rows-1. `check` is called before each
    chunk of `bptt` rows and may raise. score(data, targets, hidden): model and criterion in one.
    """
    was_training = model.training
    model.eval()
    model.reset()
    hidden = model.init_hidden(source.shape[1])
    losses = []
    for i in range(0, len(source) - 1, bptt):
        check()
        data, targets = get_batch(source, i, bptt)
        if score:
            loss, hidden = score(data, targets, hidden)
        else:
            output, hidden = model(data, hidden)
            loss = criterion(model.decoder.weight, model.decoder.bias, output, targets)
        losses.append(len(data) * loss)  # no .item(): the loop would wait for the GPU
    model.train(was_training)
    total = torch.stack(losses).cpu().double().sum().item() if losses else math.nan
    return total / (len(source) - (1 if exact else 0))
