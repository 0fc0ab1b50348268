"""The tagger: embedding, bidirectional LSTM, two linear layers (Demeester et al. 2018, sec. 4.2).

Notation: T time, B batch, V vocabulary, E embedding size, H hidden size per direction, N tokens of
a batch.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from common.dropout import WeightDrop, check_rate, dropout_mask
from kernels.lstm import LSTM, lstm
from kernels.product import worth_rounding
from kernels.transfer import sent
from sparse_seq.embedding import SparseEmbedding


class Tagger(nn.Module):
    """Scores of the tags for every token of a batch.

    Args:
        vocabulary, emsize, nhid, tagset_size, layers: V, E, H, number of tags, LSTM layers.
        emb_blocks, emb_density: of the SparseEmbedding (1 and 1: a dense one).
        dropouti: entries of the embedded input, the same at every time step; dropoute: whole words;
        dropouth: between LSTM layers and around the first linear layer; wdrop: recurrent weights
            of the first layer's forward direction (only these, as in the original).
    """

    def __init__(self, vocabulary: int, emsize: int, nhid: int, tagset_size: int, layers: int = 1,
                 emb_blocks: int = 1, emb_density: float = 1.0, dropouti: float = 0,
                 dropoute: float = 0, dropouth: float = 0, wdrop: float = 0):
        super().__init__()
        check_rate("dropouth", dropouth)
        self.dropouth = dropouth
        self.word_embeddings = SparseEmbedding(vocabulary, emsize, emb_blocks, emb_density,
                                               dropoute, dropouti)
        layer = LSTM(emsize, nhid, layers, batch_first=True, bidirectional=True,
                     dropout=dropouth if layers > 1 else 0)
        self.lstm = WeightDrop(layer, ["weight_hh_l0"], wdrop) if wdrop else layer
        self.hidden2intermediate = nn.Linear(2 * nhid, nhid)
        self.intermediate2tag = nn.Linear(nhid, tagset_size)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """words (T, B) int64, lengths (B) falling, on the CPU -> scores (N, tags), in packed order:
        time step by time step over the sentences that are that long. Raises ValueError for no time
        step."""
        if words.shape[0] == 0:
            raise ValueError(f"Tagger takes words (T, B), T at least 1, not {tuple(words.shape)}")
        x = self.word_embeddings(words)                                           # (T, B, E)
        if x.device.type == "cpu":
            x = self._recurrent(x, lengths)                                       # (N, 2H)
        else:
            x = self.recurrent_plain(x, lengths)
        x = F.dropout(x, self.dropouth, self.training)
        with self._autocast(x):
            x = F.dropout(torch.tanh(self.hidden2intermediate(x)), self.dropouth, self.training)
            return self.intermediate2tag(x)

    def _autocast(self, x: Tensor) -> AbstractContextManager:
        """Off where rounding would cost more than it saves."""
        pays = worth_rounding(x.numel() * self.hidden2intermediate.out_features)
        off = x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not pays
        return torch.autocast("cpu", enabled=False) if off else nullcontext()

    def recurrent_plain(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x (T, B, E) -> (N, 2H): torch.nn.LSTM on a packed sequence."""
        return self.lstm(pack_padded_sequence(x.transpose(0, 1), lengths, batch_first=True))[0].data

    def _recurrent(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The same, some times as fast on the CPU, where the packed form is a loop of small
        operators: each direction is one fused LSTM over the padded batch, the backward one on
        sentences turned round within their lengths."""
        real = torch.arange(len(x))[:, None] < lengths                            # (T, B)
        turned = torch.where(real, lengths - 1 - torch.arange(len(x))[:, None],
                             torch.arange(len(x))[:, None])[..., None]

        def turn(y: Tensor) -> Tensor:
            return y.gather(0, turned.expand_as(y))

        weights = self._weights()
        for layer, (forward, backward) in enumerate(weights):
            if layer:
                x = F.dropout(x, self.lstm_options.dropout, self.training)
            x = torch.cat([one_way(x, forward), turn(one_way(turn(x), backward))], -1)
        return x[real]

    @property
    def lstm_options(self) -> nn.LSTM:
        """The LSTM itself, whether or not weight drop is around it."""
        return cast(nn.LSTM, getattr(self.lstm, "module", self.lstm))

    def _weights(self) -> list[list[list[Tensor]]]:
        """Per layer and direction: weight_ih, weight_hh (dropped), bias_ih, bias_hh."""
        lstm, names = self.lstm_options, ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        tensors: dict[str, Tensor] = dict(lstm.named_parameters())
        if isinstance(self.lstm, WeightDrop):
            raw = tensors["weight_hh_l0_raw"]
            if self.training and self.lstm.dropout:
                raw = raw * dropout_mask(raw, tuple(raw.shape), self.lstm.dropout)
            tensors["weight_hh_l0"] = raw
        return [[[tensors[f"{name}_l{layer}{suffix}"] for name in names]
                 for suffix in ("", "_reverse")] for layer in range(lstm.num_layers)]


def one_way(x: Tensor, weights: list[Tensor]) -> Tensor:
    """One LSTM layer and direction from zero states: (T, B, E) -> (T, B, H)."""
    zeros = x.new_zeros(1, x.shape[1], weights[1].shape[1])
    return lstm(x, (zeros, zeros), *weights)[0]


def packed(tags: Tensor, lengths: Tensor) -> Tensor:
    """tags (T, B) -> (N,), in the order of the scores. lengths are on the CPU."""
    real = torch.arange(len(tags))[:, None] < lengths
    if not tags.is_cuda:
        return tags[real]
    # The GPU would wait to hear how many there are.
    return tags.flatten()[sent(real.flatten().nonzero().squeeze(1), tags.device)]
