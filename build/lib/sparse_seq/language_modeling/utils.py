"""Batches, sequence lengths and evaluation of the language models.

Notation: T time steps, B batch columns.

batchify cuts a text into B stretches and lays them side by side; get_batch takes T rows of that,
and as targets the rows one further down. The alphabet in B = 4 columns, T = 2:

    a g m s        data  a g m s    targets  b h n t
    b h n t              b h n t             c i o u
    c i o u
    d j p v        Each column is one continuous text for the state that is carried along; the words
    e k q w        y z, which fill no row, are dropped.
    f l r x
"""

import operator
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sparse_seq.language_modeling.model import Hidden, LanguageModel


def batchify(text: Tensor, columns: int, name: str = "the text", remedy: str = "", rows: int = 2
             ) -> Tensor:
    """A text cut into `columns` equal stretches side by side: (len(text) // columns, columns).

    Raises ValueError if a stretch would have fewer than `rows` tokens, with the text's name and the
    remedy besides a longer text.
    """
    found = len(text) // columns
    if found < rows:
        raise ValueError(f"{name} has {len(text)} words (line ends counted), too few for {columns} "
                         f"columns of at least {rows}: give a longer text{remedy}")
    return text[:found * columns].view(columns, found).t().contiguous()


def get_batch(source: Tensor, i: int, length: int) -> tuple[Tensor, Tensor]:
    """Rows i .. i+length of source (rows, B), fewer at its end: data (T, B) and the words that
    follow, (T*B)."""
    length = min(length, len(source) - 1 - i)
    return source[i:i + length].long(), source[i + 1:i + 1 + length].reshape(-1).long()


def draw_length(rng: np.random.RandomState, bptt: int, longest: int) -> int:
    """A sequence length: normal around bptt, one time in twenty around half of it (Merity et al.
    2017, section 5); between 5 and `longest`. Two draws, as in the original."""
    base = bptt if rng.random_sample() < 0.95 else bptt / 2
    return min(max(5, int(rng.normal(base, 5))), longest)


def detached(hidden: Hidden) -> Hidden:
    """The same states without their history."""
    return [(h.detach(), c.detach()) for h, c in hidden]


@torch.no_grad()
def evaluate(model: LanguageModel, source: Tensor, bptt: int, exact: bool = False,
             check: Callable[[], None] = lambda: None) -> float:
    """Mean loss of the text source (rows, B) in chunks of bptt, states carried along.

    The sum over the rows-1 predictions is divided by rows, as in the original: reported losses are
    (rows-1)/rows of the true ones, the published too. `exact` divides by rows-1. check is called
    before every chunk.
    """
    was_training = model.training
    model.eval()
    hidden, losses, lengths = model.init_hidden(source.shape[1]), [], []
    for i in range(0, len(source) - 1, bptt):
        check()
        data, targets = get_batch(source, i, bptt)
        found = model.run_layers(data, hidden)
        hidden = found.hidden
        losses.append(model.score(found.output, targets)[0])  # no .item(): it waits for a GPU
        lengths.append(len(data))
    model.train(was_training)
    total = sum(map(operator.mul, lengths, torch.stack(losses).tolist())) if losses else 0.0
    return total / (len(source) - bool(exact))
