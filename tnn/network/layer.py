"""The network on its own, with the names of the package tnn-pytorch: TnnLayer, and TnnModel, which
that package lacks.

Notation: b batch, n length, dim width.
"""

from torch import Tensor, nn

from kernels.product import linear
from tnn.network.glu import GLU
from tnn.network.gtu import Gtu
from tnn.network.norms import norm, pre_normed
from tnn.network.one_position import one_position
from tnn.network.tno import Tno


class TnnLayer(nn.Module):
    """x (b, n, dim) -> (b, n, dim): a gated Toeplitz unit, then a GLU of width glu_dim.

    prenorm: x + mixer(norm(x)); otherwise x + norm(mixer(x)), the norm inside the residual, which
    is not what TnnBlock's post-norm does. tnn-pytorch advises num_heads 1, rpe_embedding
    max(dim / 8, 32), glu_dim = dim, rpe_layers 1, use_decay, gamma 0.9 below length 100, else 0.99.
    """

    def __init__(self, dim: int, num_heads: int, rpe_embedding: int, glu_dim: int,
                 prenorm: bool = True, norm_type: str = "simplermsnorm", causal: bool = False,
                 gtu_act: str = "silu", expand_ratio: float = 3, use_decay: bool = False,
                 gamma: float = 0.999, rpe_act: str = "relu", rpe_layers: int = 3,
                 glu_act: str = "silu"):
        super().__init__()
        self.prenorm = prenorm
        self.token_mixer = Gtu(dim, num_heads, act_fun=gtu_act, causal=causal,
                               expand_ratio=expand_ratio, norm_type=norm_type,
                               use_decay=use_decay, gamma=gamma, rpe_act=rpe_act,
                               rpe_layers=rpe_layers, rpe_embedding=rpe_embedding)
        self.feature_mixer = GLU(dim, glu_dim, glu_act)
        self.token_norm = norm(norm_type, dim)
        self.feature_norm = norm(norm_type, dim)

    def forward(self, x: Tensor, memory=None) -> Tensor:
        """memory (recurrence.py) continues a sequence whose earlier positions it has seen."""
        norms = self.token_norm, self.feature_norm
        if self.prenorm:
            y = memory and one_position(x, memory, (self.token_mixer, self.feature_mixer), norms)
            return y if y is not None else pre_normed(
                x, (lambda y: self.token_mixer(y, memory=memory), self.feature_mixer), norms)
        x = x + norms[0](self.token_mixer(x, memory=memory))
        return x + norms[1](self.feature_mixer(x))


class TnnModel(nn.Module):
    """A language model of TnnLayers: tokens (b, n) -> logits (b, n, vocabulary), input and output
    embedding tied. `layer` are TnnLayer's further arguments, by default that package's advice."""

    def __init__(self, vocabulary: int, dim: int, layers: int, causal: bool = True, **layer):
        super().__init__()
        advice = dict(num_heads=1, rpe_embedding=max(dim // 8, 32), glu_dim=dim, rpe_layers=1,
                      use_decay=True, gamma=0.99)
        self.embedding = nn.Embedding(vocabulary, dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        self.layers = nn.ModuleList(TnnLayer(dim, causal=causal, **(advice | layer))
                                    for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def operators(self) -> list[Tno]:
        """The layers' Toeplitz operators, in order: what memories are made of."""
        return [layer.token_mixer.toep for layer in self.layers]

    def forward(self, tokens: Tensor, memories: list | None = None, last: bool = False) -> Tensor:
        """memories, one a layer, continue sequences whose earlier tokens they have seen. last: the
        logits of the last position alone, (b, 1, vocabulary)."""
        x = self.embedding(tokens) * self.embedding.embedding_dim**0.5
        for layer, memory in zip(self.layers, memories or [None] * len(self.layers), strict=True):
            x = layer(x, memory)
        return linear(self.norm(x[:, -1:] if last else x), self.embedding.weight)
