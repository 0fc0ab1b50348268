"""SparseEmbedding: vectors that grow with a word's frequency (Demeester et al. 2018, section 3.2).

    from sparse_seq import SparseEmbedding
    embedding = SparseEmbedding(10_000, 400, blocks=10, density=0.5, has_decoder=True)
    vectors = embedding(words)              # (T, B) -> (T, B, 400)
    logits = embedding.decode(hidden)       # (N, 400) -> (N, 10_000), tied

The vocabulary is sorted from rare to frequent. The matrix is cut into blocks of columns; block i
exists for the words start_i .. V-1 only, so that a rare word has a short vector (the rest is 0) and
a frequent one a long vector:

    rare      | x . . . |       block 0 starts at word 0, and the number of words that have one
              | x . . . |       more block shrinks by the same factor from block to block, chosen
              | x x . . |       so that the share `density` of the matrix exists
    frequent  | x x x x |

Notation: T time, B batch, V vocabulary, E embedding size, N rows; start_i, width_i of block i.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.dropout import check_rate, dropout_mask
from kernels.product import linear, product

BISECTION_ATOL, BISECTION_RTOL = 1e-6, 8.881784197001252e-16


# ------------------------------------------------------------------------------------- geometry
def reduction_factor(density: float, blocks: int) -> float:
    """The factor a in [0, 1] with (1 + a + ... + a^(blocks-1)) / blocks = density.

    By bisection to 1e-6: the error matters, since numbers of words are rounded up from it.
    Raises ValueError if there is none.
    """
    def excess(a: float) -> float:
        return sum(a**j for j in range(blocks)) / blocks - density

    low, at_low, at_one = 0.0, excess(0.0), excess(1.0)
    if at_low == 0 or at_one == 0:
        return 0.0 if at_low == 0 else 1.0
    if at_low * at_one > 0:
        raise ValueError(f"{blocks} blocks cannot have density {density}: it must lie between "
                         "1/blocks and 1")
    step = 1.0
    while True:
        step /= 2
        middle = low + step
        value = excess(middle)
        if value * at_low >= 0:
            low = middle
        if value == 0 or step < BISECTION_ATOL + BISECTION_RTOL * abs(middle):
            return middle


def sparse_geometry(vocabulary: int, size: int, density: float, blocks: int
                    ) -> tuple[list[int], list[int], float]:
    """First words of the blocks, their widths, and the density reached.

    Raises ValueError unless 0 < density <= 1, density >= 1/blocks, and 1 for a single block.
    """
    # Every line below decides how many words a block has, so their order and rounding are the
    # original's: checkpoints of published models must fit.
    blocks = min(blocks, size)
    if blocks < 1 or not 1 / blocks <= density <= 1:
        raise ValueError(f"an embedding of {blocks} blocks needs a density in [1/blocks, 1], "
                         f"got {density}")
    budget, width = vocabulary * size * density, size // blocks
    starts, widths, used = [0], [width], width * vocabulary
    words_left, columns_left, density_left = vocabulary, size, density
    for block in range(1, blocks - 1):
        widths.append(width)
        if density_left <= 0:
            starts.append(vocabulary)
            continue
        fewer = math.ceil(
            words_left * (1 - reduction_factor(density_left, blocks - block + 1)))
        words_left, columns_left = words_left - fewer, columns_left - width
        starts.append(starts[-1] + fewer)
        density_left = 0.0
        if words_left * columns_left > 0 and budget - used > 0:
            # From `used` before this block is added, as in the original: too much for the rest, so
            # that the last block, which takes what remains, is smaller than the law says.
            density_left = min(1.0, (budget - used) / (words_left * columns_left))
            used += words_left * width
    if blocks > 1:
        widths.append(size - sum(widths))
        rows = round(max(0, math.floor(budget) - used) / widths[-1])
        starts.append(vocabulary - rows)
        used += widths[-1] * rows
    return starts, widths, used / (vocabulary * size)


# --------------------------------------------------------------------------------------- modules
class SimpleEmbedding(nn.Module):
    """A dense embedding with a tied decoder: parameters embedder.weight, decoder_bias."""

    def __init__(self, num_embeddings: int, embedding_dim: int, has_decoder: bool = False):
        super().__init__()
        self.embedder = nn.Embedding(num_embeddings, embedding_dim)
        self.decoder_bias = nn.Parameter(torch.zeros(num_embeddings)) if has_decoder else None
        nn.init.uniform_(self.embedder.weight, -0.1, 0.1)

    def forward(self, words: Tensor) -> Tensor:
        """words of any shape -> (*words.shape, E)."""
        return self.embedder(words)

    def decode(self, hidden: Tensor) -> Tensor:
        """hidden (N, E) -> logits (N, V)."""
        return linear(hidden, self.embedder.weight, self.decoder_bias)


class _Block(nn.Module):
    """The part of the matrix that exists for a block: weight (V - start, width)."""

    def __init__(self, rows: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))


class SparseEmbedding(nn.Module):
    """Lookup and tied decoder with predefined sparseness; stands in for torch.nn.Embedding.

    Args:
        num_embeddings, embedding_dim: V and E.
        blocks: number of blocks of columns (at most E).
        density: share of the V x E entries that exist; at least 1/blocks, 1 for a single block.
        dropoute: whole words are dropped (Merity et al. 2017, section 4.3).
        dropouti: entries are dropped, the same at every time step; input must then be (T, B).
        has_decoder: also keep a bias for `decode`.
        max_norm, norm_type, scale_grad_by_freq: torch.nn.functional.embedding's, per block.

    Parameters: embedders.{i}.weight (V - start_i, width_i), decoder_bias (V). The zeros do not
    exist anywhere. Raises ValueError for a density that the blocks cannot have.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, blocks: int = 1,
                 density: float = 1.0, dropoute: float = 0, dropouti: float = 0,
                 has_decoder: bool = False, max_norm: float | None = None, norm_type: float = 2,
                 scale_grad_by_freq: bool = False):
        super().__init__()
        check_rate("dropoute", dropoute)
        check_rate("dropouti", dropouti)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.dropoute, self.dropouti = dropoute, dropouti
        self.options = (max_norm, norm_type, scale_grad_by_freq)
        self.start_ids, self.block_widths, self.density = sparse_geometry(
            num_embeddings, embedding_dim, density, blocks)
        self.embedders = nn.ModuleList(
            _Block(num_embeddings - start, width)
            for start, width in zip(self.start_ids, self.block_widths, strict=True))
        self.decoder_bias = nn.Parameter(torch.empty(num_embeddings)) if has_decoder else None
        self._index: Tensor | None = None  # per block first word, width, offset; made on first use
        self.init_weights()

    @property
    def weights(self) -> list[nn.Parameter]:
        """The blocks' matrices, (V - start_i, width_i) each."""
        return list(self.embedders.parameters())

    def init_weights(self) -> None:
        """Uniform(-0.1, 0.1), block after block; bias 0."""
        for weight in self.weights:
            nn.init.uniform_(weight, -0.1, 0.1)
        if self.decoder_bias is not None:
            nn.init.zeros_(self.decoder_bias)

    def n_trainable_params(self) -> int:
        """Entries that exist, the decoder's bias not counted."""
        return sum(weight.numel() for weight in self.weights)

    def full_weight(self) -> Tensor:
        """The whole matrix (V, E), zeros included: the plain form."""
        return torch.cat([F.pad(weight, (0, 0, start, 0)) for weight, start
                          in zip(self.weights, self.start_ids, strict=True)], 1)

    def forward(self, words: Tensor) -> Tensor:
        """words (T, B) int64 -> (T, B, E). Without dropouti words may have any shape."""
        vectors = self._lookup(words)
        if not self.training:
            return vectors
        weight = self.weights[0]
        if self.dropoute:
            mask = dropout_mask(weight, (self.num_embeddings, 1), self.dropoute)
            vectors = vectors * mask[words, 0].unsqueeze(-1)
        if self.dropouti:  # one draw per block, in order, as the original
            masks = [dropout_mask(weight, (1, words.shape[1], width), self.dropouti)
                     for width in self.block_widths]
            vectors = vectors * torch.cat(masks, -1)
        return vectors

    def lookup_plain(self, words: Tensor) -> Tensor:
        """words of any shape -> (*words.shape, E), by definition."""
        return F.embedding(words, self.full_weight())

    def _lookup(self, words: Tensor) -> Tensor:
        max_norm, norm_type, by_frequency = self.options
        weights = self.weights
        if len(weights) == 1:
            return F.embedding(words, weights[0], None, max_norm, norm_type, by_frequency)
        if max_norm is not None or by_frequency:
            return self._lookup_by_block(words)
        # One gather from all blocks laid end to end, behind a zero for what does not exist: a row
        # is E numbers from as many places. Block by block, every lookup would need a mask.
        start, width, offset = self._places(words.device)
        place = offset + (words.unsqueeze(-1) - start) * width                    # (.., E)
        place = place.masked_fill_(words.unsqueeze(-1) < start, 0)
        flat = torch.cat([weights[0].new_zeros(1), *(weight.flatten() for weight in weights)])
        return flat[place]

    def _lookup_by_block(self, words: Tensor) -> Tensor:
        parts = []
        for weight, start in zip(self.weights, self.start_ids, strict=True):
            exists = words >= start
            part = words.new_zeros((*words.shape, weight.shape[1]), dtype=weight.dtype)
            part[exists] = F.embedding(words[exists] - start, weight, None, *self.options)
            parts.append(part)
        return torch.cat(parts, -1)

    def _places(self, device: torch.device) -> Tensor:
        """(3, E): for each column its block's first word and width, and where in the flat vector
        that column of that first word is."""
        if self._index is None or self._index.device != device:
            rows, offset = [], 1
            for start, width in zip(self.start_ids, self.block_widths, strict=True):
                rows += [(start, width, offset + column) for column in range(width)]
                offset += (self.num_embeddings - start) * width
            self._index = torch.tensor(rows, device=device).t().contiguous()
        return self._index

    def decode_plain(self, hidden: Tensor) -> Tensor:
        """hidden (N, E) -> logits (N, V), by definition."""
        return F.linear(hidden, self.full_weight(), self.decoder_bias)

    def decode(self, hidden: Tensor) -> Tensor:
        """hidden (N, E) -> logits (N, V): tied weights, without dropout; the zeros are skipped.

        Between two starts all words have the same blocks: one product for each such stretch. At
        density 0.5 that is half the work of the model's largest product, at the price of copying
        the weights (75 against 105 ms for 10,000 words and 10 blocks).
        """
        weights = self.weights
        if len(weights) == 1:
            return linear(hidden, weights[0], self.decoder_bias)
        pieces = hidden.split(self.block_widths, -1)
        edges = sorted({*self.start_ids, self.num_embeddings})
        logits = []
        for first, end in pairwise(edges):
            own = [i for i, start in enumerate(self.start_ids) if start <= first]
            weight = torch.cat([weights[i][first - self.start_ids[i]:end - self.start_ids[i]]
                                for i in own], 1)
            logits.append(product(torch.cat([pieces[i] for i in own], -1), weight.t()))
        whole = torch.cat(logits, -1)
        return whole if self.decoder_bias is None else whole + self.decoder_bias

    def extra_repr(self) -> str:
        return (f"{self.num_embeddings}, {self.embedding_dim}, blocks={len(self.embedders)}, "
                f"density={self.density:.4g}")
