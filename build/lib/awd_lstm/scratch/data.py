"""What each update sees: chunks of the text, of varying length (section 4.1).

The text is a matrix (rows, B): column b is the b-th of B equal stretches of it (batchify draws a
picture). Tokenising is awd_lstm.data's: words in order of first appearance, <eos> at line ends.

Notation: T time steps of one chunk, B columns.
"""

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor


def draw_length(rng: np.random.RandomState, base: int) -> int:
    """N(base, 5), one time in twenty N(base/2, 5), at least 5 (section 4.1). So words at the border
    between two chunks are not the same in every epoch."""
    mean = base if rng.random_sample() < 0.95 else base / 2
    return max(5, int(rng.normal(mean, 5)))


def gen_sequence_lengths(rows: int, base: int, rng: np.random.RandomState,
                         cap: float = math.inf,
                         draw: Callable[[np.random.RandomState, int], int] = draw_length
                         ) -> list[int]:
    """Lengths that use up `rows` rows but one, which is only a target.

    cap: how much longer than base a chunk may be; 5 in the published from-scratch code, which also
    leaves out a rest of 5 rows or less (here 2), and then draws once more for nothing.
    """
    published = cap < math.inf
    lengths, left = [], rows
    while left > (0 if published else 2):
        length = int(min(base + cap, draw(rng, base)))
        if left > (5 if published else 2):
            lengths.append(min(length, left - 1))
        left -= length
    return lengths


def get_batch(data: Tensor, i: int, seq_len: int, rng: np.random.RandomState | None = None
              ) -> tuple[Tensor, Tensor, int]:
    """Rows i... of data (rows, B) and, as targets, the rows one later: x, y (T, B) and T, which is
    seq_len or what is left. With rng the length is drawn around seq_len."""
    if rng is not None:
        seq_len = draw_length(rng, seq_len)
    seq_len = min(seq_len, len(data) - 1 - i)
    return data[i: i + seq_len].long(), data[i + 1: i + 1 + seq_len].long(), seq_len


def get_batches(data: Tensor, lengths: list[int], sort: bool = False
                ) -> list[tuple[Tensor, Tensor]]:
    """Consecutive chunks x of data (rows, B) of these lengths and their targets y, (T, B) each.

    sort: longest first, the published way (it saved memory on GPUs of the time). But the hidden
    state is carried from chunk to chunk: in any other than the text's order it is that of another
    place in the text.
    """
    starts = np.cumsum([0, *lengths])[:-1]
    chunks = list(zip(starts, lengths, strict=True))
    if sort:
        chunks.sort(key=lambda chunk: -chunk[1])  # equal lengths stay in the text's order
    return [(data[i: i + n].long(), data[i + 1: i + 1 + n].long()) for i, n in chunks]
