"""The classifier of the Long Range Arena: encoder, blocks of Toeplitz units and GLUs, decoder.

Notation: b batch, n length, D width, V vocabulary. State_dict keys and their order are the
original's.
"""

import math

import torch
from torch import Tensor, nn

from kernels.product import Linear
from tnn.lra.norms import Norm
from tnn.lra.token_mixers import MIXERS
from tnn.network.fused import add_dropped, dropout, glu
from tnn.network.glu import GLU

LONGEST = 16384  # positions that the position encoding is made for


def named(table: dict, name: str, what: str):
    """table[name]. Raises ValueError that lists the names."""
    if name not in table:
        raise ValueError(f"{what} {name!r} is not one of {', '.join(table)}")
    return table[name]


class PositionalEncoding(nn.Module):
    """x (b, n, D) + pe[:n], then dropout: pe[p, 2i] = sin(p 10000^(-2i/D)), pe[p, 2i+1] = cos.
    Raises ValueError for an odd D."""

    def __init__(self, d: int, dropout: float = 0.1):
        super().__init__()
        if d % 2:
            raise ValueError(f"d_model {d}: the position encoding needs an even width")
        angles = torch.arange(LONGEST).unsqueeze(1) * torch.exp(
            torch.arange(0, d, 2) * (-math.log(10000.0) / d))
        self.register_buffer("pe", torch.stack([angles.sin(), angles.cos()], -1).flatten(1))
        self.rate = dropout

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > LONGEST:
            raise ValueError(f"{x.shape[1]} positions: the encoding is made for {LONGEST}")
        return dropout(x + self.pe[:x.shape[1]], self.rate if self.training else 0.0)


class GluBlock(GLU):
    """The channel mixer with the arguments of the yaml files."""

    def __init__(self, d1: int, glu_expand_ratio: float = 2, act_fun: str = "silu",
                 fina_act: str = "none", dropout: float = 0.0, bias: bool = True):
        act_fun, fina_act = ("silu" if a == "swish" else a for a in (act_fun, fina_act))
        super().__init__(d1, int(d1 * glu_expand_ratio), act_fun, fina_act, dropout, bias)
        self.published = act_fun == "silu" and fina_act.lower() == "none"

    def forward(self, x: Tensor) -> Tensor:
        if not self.published:
            return super().forward(x)
        return glu(x, self.l1, self.l2, self.l3, self.dropout if self.training else 0.0)


class ResidualBlock(nn.Module):
    """prenorm: x + drop(layer(norm(x))); otherwise norm(x + drop(layer(x)))."""

    def __init__(self, layer: nn.Module, d: int, norm: str, prenorm: bool, dropout: float):
        super().__init__()
        self.layer = layer
        self.norm = Norm(d, norm)
        self.prenorm, self.dropout = prenorm, dropout
        self.mixes_tokens = not isinstance(layer, GLU)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        y = self.norm(x, padding) if self.prenorm else x
        y = self.layer(y, padding) if self.mixes_tokens else self.layer(y)
        x = add_dropped(x, y, self.dropout if self.training else 0.0)
        return x if self.prenorm else self.norm(x, padding)


class Backbone(nn.Module):
    """n_layers times token mixer, channel mixer: (b, n, D) -> (b, n, D).

    mixer and glu: arguments of the two, the mixer's kind under `_name_` (tno, tno2d, gtu, gtu2d).
    """

    def __init__(self, mixer: dict, glu: dict, d_model: int, n_layers: int, norm: str,
                 prenorm: bool = True, dropout: float = 0.0):
        super().__init__()
        mixer, glu = dict(mixer), {k: v for k, v in glu.items() if k != "_name_"}
        kind = named(MIXERS, mixer.pop("_name_"), "token mixer")
        layers = []
        for _ in range(n_layers):
            layers += [kind(d_model, dropout=dropout, **mixer),
                       GluBlock(d_model, dropout=dropout, **glu)]
        self.layers = nn.ModuleList(ResidualBlock(layer, d_model, norm, prenorm, dropout)
                                    for layer in layers)
        self.norm = Norm(d_model, norm) if prenorm else None

    def forward(self, x: Tensor, padding: Tensor | None = None,
                watch: list | None = None) -> Tensor:
        """watch, where given, receives the mean square of the activations after each block."""
        for layer in self.layers:
            x = layer(x, padding)
            if watch is not None:
                watch.append(x.detach().square().mean())
        return x if self.norm is None else self.norm(x, padding)


def pooled(x: Tensor, mode: str, lengths: Tensor | None) -> Tensor:
    """x (b, n, D) -> (b, D): mean (pool) or sum over the real positions, the last one or the
    first. lengths None: all n."""
    if mode == "first":
        return x[:, 0]
    if lengths is None:
        lengths = torch.full((len(x),), x.shape[1], device=x.device)
    if mode == "last":
        return x[torch.arange(len(x), device=x.device), lengths - 1]
    real = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
    total = torch.einsum("bnd,bn->bd", x, real.to(x.dtype))
    return total / lengths.unsqueeze(1) if mode == "pool" else total


class SequenceDecoder(nn.Module):
    """One label per sequence: pooled, then a linear layer. mode: pool, last, first or sum."""

    def __init__(self, d: int, classes: int, mode: str = "pool", use_lengths: bool = False):
        super().__init__()
        if mode not in ("pool", "last", "first", "sum"):
            raise ValueError(f"decoder mode {mode!r} is not pool, last, first or sum")
        self.mode, self.use_lengths = mode, use_lengths
        self.output_transform = Linear(d, classes)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.output_transform(pooled(x, self.mode, lengths if self.use_lengths else None))


class Retrieval(nn.Module):
    """Pooled vectors of 2b texts, all first ones before all second ones, -> (b, classes). Features
    of a pair: a, b, a - b, a * b (nli), or a, b alone and a layer more."""

    def __init__(self, d: int, hidden: int, classes: int, nli: bool, activation: str):
        super().__init__()
        act = named({"relu": nn.ReLU, "gelu": nn.GELU}, activation, "activation")
        self.nli = nli
        if nli:
            layers = [Linear(4 * d, hidden), act(), Linear(hidden, classes)]
        else:
            layers = [Linear(2 * d, hidden), act(), Linear(hidden, hidden // 2), act(),
                      Linear(hidden // 2, classes)]
        self.classifier = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2)
        return self.classifier(torch.cat([a, b, a - b, a * b] if self.nli else [a, b], dim=-1))


class RetrievalDecoder(nn.Module):
    """One label per pair of sequences."""

    def __init__(self, d: int, classes: int, mode: str = "pool", use_lengths: bool = True,
                 nli: bool = True, activation: str = "gelu", d_model: int | None = None):
        super().__init__()
        self.mode, self.use_lengths = mode, use_lengths
        self.retrieval = Retrieval(d, d_model or d, classes, nli, activation)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.retrieval(pooled(x, self.mode, lengths if self.use_lengths else None))


DECODERS = {"sequence": SequenceDecoder, "retrieval": RetrievalDecoder}


def embedding(vocabulary: int | None, d_input: int | None, d: int) -> nn.Module:
    """Of `vocabulary` tokens, or of pixels with d_input channels."""
    if vocabulary is not None:
        return nn.Embedding(vocabulary, d)
    if d_input is None:
        raise ValueError("a model needs a vocabulary or channels of pixels")
    return Linear(d_input, d)


class LraModel(nn.Module):
    """Tokens (b, n) or pixels (b, n, channels), and lengths (b,), -> logits (b, classes), or
    (b/2, classes) for pairs.

    vocabulary or d_input: the task's (one of them). backbone: arguments of Backbone. decoder: the
    arguments of SequenceDecoder, or with `_name_` retrieval of RetrievalDecoder. position_dropout
    is on for all tasks, images included. mask_padding keeps padded positions out of the mixing and
    of the norms' statistics; in the original they are tokens like any other. While `watch` is a
    list, forward appends the mean square of the activations after each block.
    """

    def __init__(self, backbone: dict, decoder: dict, classes: int, vocabulary: int | None = None,
                 d_input: int | None = None, position_dropout: float = 0.1,
                 mask_padding: bool = False):
        super().__init__()
        d, decoder = backbone["d_model"], dict(decoder)
        kind = decoder.pop("_name_", "sequence")
        self.mask_padding = mask_padding
        self.watch: list[Tensor] | None = None
        self.model = Backbone(**backbone)
        self.encoder = nn.Sequential(embedding(vocabulary, d_input, d),
                                     PositionalEncoding(d, position_dropout))
        self.decoder = named(DECODERS, kind, "decoder")(d, classes, **decoder)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Raises ValueError for sequences without a position."""
        if x.shape[1] == 0:
            raise ValueError(f"LraModel takes x (b, n, ...), n at least 1, not {tuple(x.shape)}")
        padding = None
        if self.mask_padding and lengths is not None and int(lengths.min()) < x.shape[1]:
            padding = torch.arange(x.shape[1], device=x.device) >= lengths.unsqueeze(1)
        return self.decoder(self.model(self.encoder(x), padding, self.watch), lengths)
