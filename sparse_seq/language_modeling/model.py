"""The language models: AWD-LSTM, dense or with predefined sparseness, and a mixture of softmaxes.

Merity, Keskar, Socher 2017 (arXiv 1708.02182) with the output layer of Yang et al. 2018 (arXiv
1711.03953), as Demeester et al. 2018 put them together (section 4.1). Parameter names are theirs.

Notation: T time, B batch, V vocabulary, E embedding size, H a layer's size, K experts, N = T*B*K
rows of logits; h, c hidden and cell states.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.dropout import WeightDrop, check_rate, locked_dropout
from kernels.lstm import LSTM
from kernels.second_derivatives import plain_gradients, shadow
from sparse_seq.embedding import SparseEmbedding
from sparse_seq.rnn import SparseLSTM

EPSILON = 1e-8  # added to every probability before the logarithm, as in the original
CACHED = 1 << 18  # numbers that fit the second-level cache of a core
Hidden = list[tuple[Tensor, Tensor]]  # per layer (h, c), each (1, B, H)


class Outputs(NamedTuple):
    """What the layers give: see LanguageModel.run_layers."""

    output: Tensor
    hidden: Hidden
    raw: list[Tensor]
    dropped: list[Tensor]


def reductions(mode: str, fraction: float, nlayers: int) -> list[tuple[float, float]]:
    """(reduce_in, reduce_out) of every layer. Raises ValueError for an unknown mode, or if the mode
    needs more layers."""
    f = fraction
    modes = {"sparse_hidden": ((1, f), (f, f), (f, 1)),  # first layer, those between, last
             "sparse_emb": ((f, 1), (1, 1), (1, f)),
             "sparse_all": ((f, f), (f, f), (f, f))}
    if mode not in modes:
        raise ValueError(f"unknown sparse_mode {mode!r}; choose from direct, {', '.join(modes)}")
    if nlayers == 1:
        if mode != "sparse_hidden":
            raise ValueError(f"sparse_mode {mode} needs at least 2 layers")
        return [(1, 1)]
    first, between, last = modes[mode]
    return [first, *[between] * (nlayers - 2), last]


class LanguageModel(nn.Module):
    """Embedding, LSTM layers, tied decoder with one or more softmaxes.

    Args:
        ntoken, emsize, nhid, nhidlast, nlayers: V, E, size of all layers but the last, of the last
            (negative: E), number of layers.
        n_experts: K; the layer output_trf exists where the last layer's size is not K * E.
        emblocks, emdensity: of the SparseEmbedding.
        sparse_mode, sparse_fract: direct is dense layers, or with sparse_blocks > 1 or
            sparse_density < 1 layers of so many blocks; for the others see `reductions`.
        dropout: last output; dropouth: between layers; dropouti, dropoute: embedding, entries and
            whole words; wdrop: recurrent weights; dropoutl: latent (negative: dropouth).

    Raises ValueError for sparseness that the sizes do not allow.
    """

    def __init__(self, ntoken: int, emsize: int = 400, nhid: int = 1150, nhidlast: int = -1,
                 nlayers: int = 3, n_experts: int = 1, emblocks: int = 1, emdensity: float = 1.0,
                 sparse_mode: str = "direct", sparse_fract: float = 1.0, sparse_blocks: int = 1,
                 sparse_density: float = 1.0, dropout: float = 0, dropouth: float = 0,
                 dropouti: float = 0, dropoute: float = 0, wdrop: float = 0, dropoutl: float = -1):
        super().__init__()
        self.config = {name: value for name, value in locals().items()
                       if name not in ("self", "__class__")}
        check_rate("dropout", dropout)
        check_rate("dropouth", dropouth)
        self.n_experts, self.emsize, self.wdrop = n_experts, emsize, wdrop
        self.dropout, self.dropouth = dropout, dropouth
        self.dropoutl = dropouth if dropoutl < 0 else dropoutl
        last = emsize if nhidlast < 0 else nhidlast
        self.sizes = [nhid] * (nlayers - 1) + [last]
        self.encoder = SparseEmbedding(ntoken, emsize, emblocks, emdensity, dropoute, dropouti,
                                       has_decoder=True)
        self.rnns = nn.ModuleList(self._layers(sparse_mode, sparse_fract, sparse_blocks,
                                               sparse_density))
        self.prior = nn.Linear(last, n_experts, bias=False)
        self.output_trf = None
        if last != n_experts * emsize:
            self.output_trf = nn.Sequential(nn.Linear(last, n_experts * emsize), nn.Tanh())

    def _layers(self, mode: str, fraction: float, blocks: int, density: float) -> list[nn.Module]:
        shapes = list(zip([self.emsize, *self.sizes], self.sizes, strict=False))
        if mode != "direct":
            return [SparseLSTM(i, h, wdrop=self.wdrop, reduce_in=a, reduce_out=b)
                    for (i, h), (a, b) in zip(shapes, reductions(mode, fraction, len(self.sizes)),
                                              strict=True)]
        if blocks > 1 or density < 1:  # the original took these two flags and did nothing
            return [SparseLSTM(i, h, wdrop=self.wdrop, blocks=blocks, density=density)
                    for i, h in shapes]
        layers = [LSTM(i, h) for i, h in shapes]
        return [WeightDrop(layer, ["weight_hh_l0"], self.wdrop) if self.wdrop else layer
                for layer in layers]

    def init_hidden(self, batch_size: int) -> Hidden:
        """Zero states, with the parameters' dtype and device."""
        like = self.prior.weight
        return [tuple(like.new_zeros(1, batch_size, size) for _ in "hc") for size in self.sizes]

    def run_layers(self, words: Tensor, hidden: Hidden) -> Outputs:
        """words (T, B) -> the last output after dropout (T, B, H), new states, and all layers'
        outputs before and after dropout. Raises ValueError for no time step."""
        if words.shape[0] == 0:
            raise ValueError("LanguageModel takes words (T, B), T at least 1, not "
                             f"{tuple(words.shape)}")
        x, states, raw, dropped = self.encoder(words), [], [], []
        for i, layer in enumerate(self.rnns):
            y, state = layer(x, hidden[i])
            rate = self.dropout if i == len(self.rnns) - 1 else self.dropouth
            x = locked_dropout(y, rate, self.training)
            states.append(state)
            raw.append(y)
            dropped.append(x)
        return Outputs(x, states, raw, dropped)

    def _experts(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """output (T, B, H) -> logits (T*B, K, V) and the experts' log-weights (T*B, K)."""
        latent = output
        if self.output_trf is not None:
            latent = locked_dropout(self.output_trf(output), self.dropoutl, self.training)
        logits = self.encoder.decode(latent.reshape(-1, self.emsize))
        log_prior = F.log_softmax(self.prior(output), -1)
        return (logits.view(-1, self.n_experts, logits.shape[-1]),
                log_prior.view(-1, self.n_experts))

    def forward(self, words: Tensor, hidden: Hidden, return_h: bool = False,
                return_prob: bool = False):
        """words (T, B), hidden as from init_hidden.

        Returns log(p + 1e-8), or p with return_prob, (T, B, V), and the new hidden; with return_h
        also the layers' outputs before and after dropout, lists of (T, B, H).
        """
        found = self.run_layers(words, hidden)
        logits, log_prior = self._experts(found.output)
        log_p = (F.log_softmax(logits, -1) + log_prior[..., None]).logsumexp(1)
        result = log_p.exp() if return_prob else _floored(log_p)
        result = result.view(*words.shape, -1)
        if return_h:
            return result, found.hidden, found.raw, found.dropped
        return result, found.hidden

    def score(self, output: Tensor, targets: Tensor, count: bool = False
              ) -> tuple[Tensor, Tensor]:
        """Mean of -log(p + 1e-8) of the targets; how many of them are the likeliest word.

        output (T, B, H) as run_layers gives it, targets (T*B) -> two scalars. Only the targets'
        probabilities are computed; the original kept all T*B*K*V of them for the backward pass.
        """
        logits, log_prior = self._experts(output)
        hits = torch.zeros((), device=targets.device)
        if count:
            with torch.no_grad():
                likeliest = (logits[:, 0] if self.n_experts == 1 else
                             (F.softmax(logits, -1) * log_prior.exp()[..., None]).sum(1)).argmax(-1)
                hits = (likeliest == targets).sum()
        rows = targets[:, None].expand(-1, self.n_experts).flatten()
        log_p = target_log_prob(logits.flatten(0, 1), rows)
        log_p = (log_p.view_as(log_prior) + log_prior).logsumexp(1)
        return -_floored(log_p).mean(), hits

    def parameter_counts(self) -> dict[str, int]:
        """Of the encoder (with its bias), of the layers, of everything."""
        parts = {"encoder": self.encoder, "rnns": self.rnns, "total": self}
        return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def _floored(log_p: Tensor) -> Tensor:
    """log(p + 1e-8), from log p."""
    return torch.logaddexp(log_p, log_p.new_full((), math.log(EPSILON)))


class TrainingLoss(nn.Module):
    """Cross entropy and activation regularisation (Merity et al. 2017, section 4.6).

    Args:
        alpha: weight of the mean square of the dropped last output (AR).
        beta: weight of the mean square of its change from step to step, before dropout (TAR).
        count: also count the targets that are the likeliest word.
    """

    def __init__(self, model: LanguageModel, alpha: float, beta: float, count: bool = False):
        super().__init__()
        self.model, self.alpha, self.beta, self.count = model, alpha, beta, count

    def forward(self, data: Tensor, targets: Tensor, hidden: Hidden
                ) -> tuple[Tensor, Tensor, Tensor, Hidden]:
        """data (T, B), targets (T*B) -> loss, cross entropy alone, hits, new hidden."""
        found = self.model.run_layers(data, hidden)
        raw_loss, hits = self.model.score(found.output, targets, self.count)
        loss = raw_loss
        if self.alpha:
            loss = loss + self.alpha * found.dropped[-1].pow(2).mean()
        if self.beta and len(data) > 1:  # one time step has no slowness
            loss = loss + self.beta * found.raw[-1].diff(dim=0).pow(2).mean()
        return loss, raw_loss, hits, found.hidden


# ------------------------------------------------------------------------- softmax of the targets
def target_log_prob(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax(logits)[target] per row: (N, V), (N) -> (N). On the CPU the logits are lost."""
    if logits.device.type != "cpu" or logits.dtype == torch.bfloat16 or (
            torch.compiler.is_compiling()):
        return target_log_prob_plain(logits, targets)
    return _TargetLogProb.apply(logits, targets, shadow(logits))


def target_log_prob_plain(logits: Tensor, targets: Tensor) -> Tensor:
    """The same by definition."""
    return -F.cross_entropy(logits, targets, reduction="none")


class _TargetLogProb(torch.autograd.Function):
    """The memory of the logits becomes the softmax and later the gradient, some rows at a time so
    that they stay in the cache; the plain form writes three arrays of that size (56 MB each for 70
    x 20 words of 10,000). Nobody else may read the logits afterwards: `score`, the only caller,
    makes them and lets them go."""

    @staticmethod
    def forward(ctx, logits, targets, logits_shadow):
        log_p, rows = logits.new_empty(len(targets), 1), max(1, CACHED // logits.shape[1])
        parts = zip(logits.split(rows), targets[:, None].split(rows), log_p.split(rows),
                    strict=True)
        for part, target, result in parts:
            part -= part.amax(1, keepdim=True)  # so that exp cannot overflow
            torch.gather(part, 1, target, out=result)
            norm = part.exp_().sum(1, keepdim=True)
            result -= norm.log()
            if ctx.needs_input_grad[0]:
                part /= norm
        ctx.save_for_backward(logits.detach(), targets, logits_shadow)
        return log_p[:, 0]

    @staticmethod
    def backward(ctx, grad):
        softmax, targets, logits_shadow = ctx.saved_tensors
        if torch.is_grad_enabled():
            # Logits of the same softmax: what they lost is a number per row, which does not count.
            logits = softmax.clamp(min=torch.finfo(softmax.dtype).tiny).log() + logits_shadow
            return *plain_gradients(lambda z: target_log_prob_plain(z, targets), [logits],
                                    [grad]), None, None
        # d log p_t / d logit_v = [v = t] - softmax_v
        rows = max(1, CACHED // softmax.shape[1])
        for part, target, g in zip(softmax.split(rows), targets[:, None].split(rows),
                                   grad[:, None].split(rows), strict=True):
            part *= -g
            part.scatter_add_(1, target, g)
        return softmax, None, None
