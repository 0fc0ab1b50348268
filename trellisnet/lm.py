"""What the three language models share: the model, its loss, and how a text is read.

Notation: L time steps, N batch columns, E word vector, V vocabulary, M auxiliary outputs,
m experts of the mixture of softmaxes.
"""

import math
import operator
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.dropout import check_rate, dropout_mask, embedding_dropout, locked_dropout
from common.splitcross import SplitCrossEntropyLoss
from trellisnet.trellisnet import Hidden, TrellisNet

LOGITS_AT_ONCE = 1 << 24  # of the mixture of softmaxes: bounds the memory, not the result


class Output(NamedTuple):
    """What the model says about the steps from `start` on, before decoding."""

    raw: Tensor      # (L', N, nout) of the top level
    dropped: Tensor  # the same after output dropout
    aux: Tensor      # (M, L', N, nout) after output dropout
    hidden: Hidden   # of the last step


class TrellisNetLM(nn.Module):
    """Embedding, TrellisNet, and a decoder that may share the embedding's matrix.

    Args (names and meaning of the original's flags):
        ntoken: V; ninp: E; nhid: hidden channels without the `nout` output channels.
        tie_weights: decode with the embedding matrix (then nout must equal ninp, unless n_experts).
        n_experts: mixture of softmaxes (Yang et al. 2018) with so many; 0: one softmax.
        aux, aux_frequency: auxiliary outputs after every so many levels (section 5).
        dropout, dropouti, dropouth, dropoutl, emb_dropout, wdrop: rates of output, input, hidden,
            mixture latent, word and weight dropout.
        last_word_padding: the original's lookups pass padding index -1, so the last word's vector
            learns from the decoder alone.
    Raises ValueError for sizes that do not fit.
    """

    def __init__(self, ntoken: int, ninp: int, nhid: int, nout: int, nlevels: int,
                 kernel_size: int = 2, dilation=(1,), dropout: float = 0, dropouti: float = 0,
                 dropouth: float = 0, dropoutl: float = 0, emb_dropout: float = 0,
                 wdrop: float = 0, temporalwdrop: bool = True, tie_weights: bool = True,
                 wnorm: bool = True, aux: bool = True, aux_frequency: float = 20,
                 n_experts: int = 0, last_word_padding: bool = True):
        super().__init__()
        for name, rate in (("dropout", dropout), ("dropouti", dropouti), ("dropoutl", dropoutl),
                           ("emb_dropout", emb_dropout)):
            check_rate(name, rate)
        if tie_weights and not n_experts and nout != ninp:
            raise ValueError(f"a tied decoder needs nout = emsize (here {nout} and {ninp}); make "
                             "them equal, untie it, or use a mixture of softmaxes")
        self.dropout, self.dropouti, self.dropoutl = dropout, dropouti, dropoutl
        self.emb_dropout, self.tie_weights, self.n_experts = emb_dropout, tie_weights, n_experts
        self.padding_idx = ntoken - 1 if last_word_padding else None
        # The order of the draws is the original's: a seed gives the same start.
        self.encoder = nn.Embedding(ntoken, ninp)
        width = ninp if n_experts else nout
        self.decoder = nn.Linear(nhid if tie_weights or nhid == width else width, ntoken)
        self.encoder.weight.data.uniform_(-0.1, 0.1)
        self.decoder.bias.data.zero_()
        self.decoder.weight.data.uniform_(-0.1, 0.1)
        if tie_weights:
            self.decoder.weight = self.encoder.weight
        self.tnet = TrellisNet(ninp, nhid + nout, nout, nlevels, kernel_size, dropouth, wnorm,
                               aux_frequency if aux else 0, dilation, wdrop, temporalwdrop)
        self.mixsoft = MixtureOfSoftmaxes(nout, ninp, n_experts) if n_experts else None

    def init_hidden(self, batch_size: int) -> Hidden:
        return self.tnet.init_hidden(batch_size)

    def forward(self, words: Tensor, hidden: Hidden | None = None, start: int = 0) -> Output:
        """words (L, N) int64 -> `Output` for the steps from `start` on."""
        x = embedding_dropout(self.encoder, words, self.emb_dropout, self.training,
                              self.padding_idx)                         # (L, N, E)
        x = locked_dropout(x, self.dropouti, self.training)
        raw, aux, hidden = self.tnet(x, hidden, start)
        dropped = locked_dropout(raw, self.dropout, self.training)
        if self.training and self.dropout and len(aux):
            levels, _, batch, nout = aux.shape                          # a mask for each level
            mask = dropout_mask(aux, (batch, levels, 1, nout), self.dropout)
            aux = aux * mask.permute(1, 2, 0, 3)
        return Output(raw, dropped, aux, hidden)

    def decode(self, output: Tensor) -> Tensor:
        """output (..., nout) -> logits (..., V); of a mixture the log-probabilities."""
        if self.mixsoft:
            return self.mixsoft.log_prob(output, self.decoder)
        return self.decoder(output)

    def latent_mask(self, output: Tensor) -> Tensor | None:
        """The mixture's latent dropout for outputs (..., L, N, nout): one mask per column (and
        tap), the same at all time steps. None for ones."""
        if not self.mixsoft or not self.training or not self.dropoutl:
            return None
        *levels, _, batch, _ = output.shape
        shape = (batch, *levels, 1, self.mixsoft.latent.out_features)
        mask = dropout_mask(output, shape, self.dropoutl)
        return mask.permute(1, 2, 0, 3) if levels else mask.permute(1, 0, 2)


class MixtureOfSoftmaxes(nn.Module):
    """p(w) = sum_e prior_e softmax(decoder(tanh(latent_e)))[w]   (Yang et al. 2018, equation 4)."""

    def __init__(self, nout: int, ninp: int, n_experts: int):
        super().__init__()
        self.prior = nn.Linear(nout, n_experts)
        self.latent = nn.Linear(nout, n_experts * ninp)
        self.n_experts = n_experts

    def experts(self, output: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """output (..., nout), mask of the latent -> prior (R, m), latents (R, m, E); R rows."""
        latent = self.latent(output)
        if mask is not None:  # before the tanh, as in the original
            latent = latent * mask
        rows = output.numel() // output.shape[-1]
        return (self.prior(output).softmax(-1).view(rows, self.n_experts),
                latent.tanh().view(rows, self.n_experts, -1))

    def log_prob(self, output: Tensor, decoder: nn.Linear, mask: Tensor | None = None) -> Tensor:
        """output (..., nout) -> log p (..., V)."""
        prior, latent = self.experts(output, mask)
        p = (prior.unsqueeze(-1) * decoder(latent).softmax(-1)).sum(1)
        return (p + 1e-8).log().view(*output.shape[:-1], -1)

    def nll(self, output: Tensor, targets: Tensor, decoder: nn.Linear,
            mask: Tensor | None = None) -> Tensor:
        """Mean of -log p(target). output (..., nout), targets of R words.

        Only each expert's probability of the target is needed, so the (R, m, V) scores exist for
        some rows at a time, and are computed once more for the gradient.
        """
        prior, latent = self.experts(output, mask)
        rows = max(1, LOGITS_AT_ONCE // (self.n_experts * decoder.out_features))
        parts = [checkpoint(self._target_prob, *part, decoder, use_reentrant=False,
                            preserve_rng_state=False)
                 for part in zip(prior.split(rows), latent.split(rows),
                                 targets.reshape(-1).split(rows), strict=True)]
        return -(torch.cat(parts) + 1e-8).log().mean()

    @staticmethod
    def _target_prob(prior: Tensor, latent: Tensor, targets: Tensor, decoder: nn.Linear) -> Tensor:
        scores = decoder(latent).permute(0, 2, 1)                       # (R, V, m)
        costs = F.cross_entropy(scores, targets.unsqueeze(1).expand_as(prior), reduction="none")
        return (prior * (-costs).exp()).sum(1)


def sizes_and_rates(args: Namespace) -> dict:
    """The arguments of `TrellisNetLM` that are flags of all three scripts."""
    return {"ninp": args.emsize, "kernel_size": args.ksize, "tie_weights": args.tied,
            "aux": args.aux > 0, "aux_frequency": args.aux_freq} | {
        name: getattr(args, name) for name in (
            "nhid", "nout", "nlevels", "dilation", "dropout", "dropouti", "dropouth",
            "emb_dropout", "wdrop", "temporalwdrop", "wnorm", "n_experts", "last_word_padding")}


class Loss(NamedTuple):
    total: Tensor
    raw: Tensor      # cross entropy of the final output
    aux: Tensor      # weighted cross entropy of the auxiliary outputs
    hidden: Hidden


class TrainingLoss(nn.Module):
    """Cross entropy plus auxiliary losses (section 5), activation and temporal activation
    regularisation (Merity et al. 2017, section 4.6).

    criterion: split cross entropy, whose own parameters (the tail vectors) belong to the model.
    """

    def __init__(self, model: TrellisNetLM, criterion: SplitCrossEntropyLoss, aux: float = 0,
                 alpha: float = 0, beta: float = 0):
        super().__init__()
        self.model, self.criterion = model, criterion
        self.aux, self.alpha, self.beta = aux, alpha, beta

    def forward(self, words: Tensor, targets: Tensor, hidden: Hidden, start: int = 0,
                *rows_of_parts: Tensor) -> Loss:
        """words (L, N), targets (L, N): those from step `start` on count. rows_of_parts: theirs,
        if the split softmax need not look for them."""
        out = self.model(words, hidden, start)
        targets = targets[start:]
        raw = total = self.cross_entropy(out.dropped, targets, rows_of_parts)
        aux = raw.new_zeros(())
        if self.aux > 0 and (levels := len(out.aux)):  # the sum over levels of the mean over rows
            copies = targets.expand(levels, *targets.shape)
            rows = [repeated(rows, levels, targets.numel()) for rows in rows_of_parts]
            aux = self.aux * levels * self.cross_entropy(out.aux, copies, rows)
            total = total + aux
        if self.alpha:
            total = total + self.alpha * out.dropped.pow(2).mean()
        if self.beta and len(out.raw) > 1:  # one step has no slowness
            total = total + self.beta * (out.raw[1:] - out.raw[:-1]).pow(2).mean()
        return Loss(total, raw.detach(), aux.detach(), out.hidden)

    def scored(self, words: Tensor, targets: Tensor, h: Tensor, c: Tensor, start: int
               ) -> tuple[Tensor, Tensor, Tensor]:
        """In evaluation: the cross entropy of the targets from step `start` on, and the state after
        the words."""
        out = self.model(words, (h, c), start)
        return self.cross_entropy(out.dropped, targets[start:]), *out.hidden

    def cross_entropy(self, output: Tensor, targets: Tensor,
                      rows_of_parts: Sequence[Tensor] = ()) -> Tensor:
        """Mean -log p(target): output (..., nout), one target per row."""
        model = self.model
        if model.mixsoft:
            return model.mixsoft.nll(output, targets, model.decoder, model.latent_mask(output))
        return self.criterion(model.decoder.weight, model.decoder.bias, output, targets,
                              rows_of_parts)


def repeated(rows: Tensor, times: int, count: int) -> Tensor:
    """Row numbers in `times` copies, one behind the other, of what has `count` rows."""
    return (rows + count * torch.arange(times, device=rows.device)[:, None]).reshape(-1)


# ---------------------------------------------------------------------------- reading a text
class Reading(NamedTuple):
    """How a text is cut: `length` rows at a time, the next `stride` rows on; of each segment the
    outputs before `start` are discarded (they saw too short a history)."""

    length: int
    stride: int
    start: int
    carry: bool      # hidden state carried over from segment to segment, else zero


def reading(seq_len: int, horizon: int, repack: bool, always_effective: bool = False) -> Reading:
    """Effective-history mode, if seq_len leaves room for it and the state is not carried over;
    otherwise segments of `horizon` rows, all of them scored.

    always_effective is word PTB's rule in training: discard the history whenever seq_len is given,
    even if the state is carried over.
    """
    if (seq_len > 0 or not repack) if always_effective else (seq_len > horizon and not repack):
        return Reading(seq_len, seq_len - horizon, horizon, repack)
    return Reading(horizon, horizon, 0, repack)


def segments(rows: int, how: Reading) -> Iterator[tuple[int, int]]:
    """(first row, number of rows) of each segment of a text of `rows` rows that has something to
    score; the row after the last one holds its targets."""
    for i in range(0, rows - 1, how.stride):
        if i + how.start < rows - 1:
            yield i, min(how.length, rows - 1 - i)


def batchify(ids: Tensor, batch_size: int) -> Tensor:
    """Cuts a text into `batch_size` contiguous columns: (n,) -> (n // batch_size, batch_size).

    Raises ValueError if a column would have fewer than two tokens.
    """
    rows = len(ids) // batch_size
    if rows < 2:
        raise ValueError(f"a text of {len(ids)} tokens is too short for {batch_size} columns")
    return ids[:rows * batch_size].view(batch_size, rows).t().contiguous()


@torch.no_grad()
def evaluate(loss: TrainingLoss, source: Tensor, how: Reading,
             check: Callable[[], None] = lambda: None, scored: Callable | None = None) -> float:
    """Mean cross entropy (nats per token) over the scored rows of `source` (rows, N). `check` is
    called once per segment; scored: the loss's own, or what does the same."""
    was_training, scored = loss.training, scored or loss.scored
    loss.eval()
    hidden = loss.model.init_hidden(source.shape[1])
    losses, counts = [], []
    for i, length in segments(len(source), how):
        check()
        words = source[i:i + length + 1].long()
        value, *after = scored(words[:-1], words[1:], *hidden, how.start)
        losses.append(value)  # no .item(): it waits for a GPU
        counts.append(length - how.start)
        if how.carry:
            hidden = tuple(after)
    loss.train(was_training)
    if not losses:
        return math.nan
    return sum(map(operator.mul, counts, torch.stack(losses).tolist())) / sum(counts)
