"""The dropouts of Merity et al. 2017, section 4: locked, embedding, weight.

All are inverted (kept entries are scaled by 1/(1-p)), draw their mask once per forward pass and do
nothing in evaluation or at p = 0 (then no random number is drawn either). Every mask has the
numbers of one `bernoulli_` over its own shape, so seeded runs of the originals can be replayed on
CPU.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kernels.masks import dropout_mask


def check_rate(name: str, p: float) -> None:
    """Raises ValueError unless 0 <= p < 1 (at p = 1 nothing would be left to scale up)."""
    if not 0 <= p < 1:
        raise ValueError(f"{name} must be in [0, 1), got {p}")


def locked_dropout(x: Tensor, p: float, training: bool = True, time_dim: int = 0) -> Tensor:
    """Variational dropout (Gal & Ghahramani 2016; section 4.2): one mask for all time steps.

    x has any shape; the mask has size 1 along `time_dim` (0 for (T, B, H), 1 for (N, L, C),
    2 for (N, C, L)) and x's size elsewhere.
    """
    if not training or p == 0:
        return x
    shape = list(x.shape)
    shape[time_dim] = 1
    return x * dropout_mask(x, tuple(shape), p)


class LockedDropout(nn.Module):
    """`locked_dropout` as a module, the rate an argument: (T, B, H), p -> (T, B, H)."""

    def forward(self, x: Tensor, p: float = 0.5) -> Tensor:
        return locked_dropout(x, p, self.training)


def embedding_dropout(embedding: nn.Embedding, words: Tensor, p: float, training: bool = True,
                      padding_idx: int | None = None) -> Tensor:
    """Embedding lookup in which whole words are dropped (section 4.3).

    words: integer tensor of any shape -> (*words.shape, E). The mask is one number per row of the
    matrix, (V, 1); it is gathered for the words of the batch and multiplied into their vectors,
    which equals masking the matrix first without touching its V x E entries.
    `padding_idx` is F.embedding's (that row gets no gradient from the lookup).
    """
    vectors = F.embedding(words, embedding.weight, padding_idx, embedding.max_norm,
                          embedding.norm_type, embedding.scale_grad_by_freq, embedding.sparse)
    if not training or p == 0:
        return vectors
    mask = dropout_mask(embedding.weight, (embedding.num_embeddings, 1), p)
    return vectors * mask[words, 0].unsqueeze(-1)


def embedded_dropout(embed: nn.Embedding, words: Tensor, dropout: float = 0.1,
                     scale: Tensor | None = None) -> Tensor:
    """`embedding_dropout` under the name and with the arguments that the original has: the caller
    gives rate 0 in evaluation. scale, broadcast to (V, E), multiplies the matrix."""
    vectors = embedding_dropout(embed, words, dropout, True, embed.padding_idx)
    return vectors if scale is None else vectors * scale.expand_as(embed.weight)[words]


class WeightDrop(nn.Module):
    """DropConnect on some weights of a module (section 2; Wan et al. 2013): each forward pass of
    `module` sees `name * mask`, one mask for the whole pass.

    The parameter is kept as `<name>_raw`; `module.<name>` is a plain tensor that exists only while
    `module` runs, so that optimisers, state_dict and deepcopy see just the raw parameter and the
    gradient reaches it through the mask.

    Args:
        module: any module; for nn.LSTM/GRU use `weight_hh_l0` and the like.
        weights: names of its parameters.
        dropout: drop probability, may be changed later.
        variational: one mask value per row instead of one per entry.
    """

    def __init__(self, module: nn.Module, weights: list[str], dropout: float = 0,
                 variational: bool = False):
        super().__init__()
        check_rate("dropout", dropout)
        self.module = module
        self.weights = list(weights)
        self.dropout = dropout
        self.variational = variational
        for name in self.weights:
            raw = getattr(module, name)
            del module._parameters[name]
            module.register_parameter(f"{name}_raw", nn.Parameter(raw.data))
            setattr(module, name, None)

    def _dropped(self, raw: Tensor) -> Tensor:
        if not self.training or self.dropout == 0:
            # A view: assigning the Parameter itself would register it a second time.
            return raw.view_as(raw)
        shape = (raw.shape[0], 1) if self.variational else tuple(raw.shape)
        return raw * dropout_mask(raw, shape, self.dropout)

    def forward(self, *args, **kwargs):
        """As `module`'s own forward."""
        # setattr keeps the flat weight list of nn.LSTM and nn.GRU in step.
        for name in self.weights:
            setattr(self.module, name, self._dropped(getattr(self.module, f"{name}_raw")))
        try:
            return self.module(*args, **kwargs)
        finally:
            for name in self.weights:
                setattr(self.module, name, None)

    def extra_repr(self) -> str:
        return f"weights={self.weights}, dropout={self.dropout}"
