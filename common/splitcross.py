"""Split cross entropy: adaptive softmax with full-width, tied tails (Merity et al. 2018, sec. 2).

The vocabulary, roughly from frequent to rare, is cut at `splits`. The head holds the words of the
first part and one "tombstone" per further part; a rare word costs its tombstone in the head plus a
softmax over its own part:

    log p(w) = log_softmax(head)[w]                                            w in part 0
    log p(w) = log_softmax(head)[tombstone k] + log_softmax(part k)[w - e_k]   w in part k

Notation: N rows (tokens), H hidden size, V vocabulary, K parts.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function

from kernels import cpu
from kernels.product import product, rounded_product
from kernels.second_derivatives import plain_gradients
from kernels.transfer import sent

CACHED = 1 << 18  # numbers that fit the second-level cache of a core


def perplexity(loss: float) -> float:
    """exp(loss) of a mean loss in nats; inf where that is too large for a float, nan for nan."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def linear_cross_entropy(hiddens: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Sum over rows of -log softmax(weight h + bias)[target].

    hiddens (N, H), weight (V, H), bias (V), targets (N) int64 -> scalar.
    """
    device, autocast = hiddens.device.type, torch.is_autocast_enabled("cpu")
    bf16 = autocast and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if device != "cpu" or not (bf16 if autocast else hiddens.dtype == torch.float32):
        return linear_cross_entropy_plain(hiddens, weight, bias, targets)
    inputs = (hiddens, weight, bias)
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    with torch.autocast("cpu", enabled=False):
        return _LinearCrossEntropy.apply(*(t.float() for t in inputs), targets, needs_grad,
                                         bf16 and cpu.bf16_pays())


def linear_cross_entropy_plain(hiddens: Tensor, weight: Tensor, bias: Tensor,
                               targets: Tensor) -> Tensor:
    """The same by definition: the reference, and the form for devices other than the CPU."""
    return F.cross_entropy(F.linear(hiddens, weight, bias), targets, reduction="sum")


class _LinearCrossEntropy(Function):
    """The (N, V) logits are turned in place into their own gradient, some rows at a time so that
    they stay in the cache; the plain form writes three arrays of that size. The loss is a single
    number, so all gradients are known up to a factor in the forward pass, and computed there: what
    is kept for backward is their size, not the logits'.

    bf16: the products' operands and results are rounded to bfloat16."""

    @staticmethod
    def forward(ctx, hiddens, weight, bias, targets, needs_grad, bf16):
        multiply = rounded_product if bf16 else product
        scores = multiply(hiddens, weight.t())                                 # (N, V)
        loss = scores.new_zeros(())
        rows = max(1, CACHED // max(len(weight), 1))
        for part, target in zip(scores.split(rows), targets.split(rows), strict=True):
            part += bias
            part -= part.amax(1, keepdim=True)
            correct = part.gather(1, target[:, None])
            norm = part.exp_().sum(1, keepdim=True)
            loss += (norm.log() - correct).sum()
            if needs_grad:  # softmax, minus one at the target
                part /= norm
                part.scatter_add_(1, target[:, None], torch.full_like(correct, -1))
        if needs_grad:
            d_bias = scores.sum(0)
            scores = scores.bfloat16() if bf16 else scores
            ctx.save_for_backward(hiddens, weight, bias, targets, multiply(scores, weight),
                                  multiply(scores.t(), hiddens), d_bias)
        return loss

    @staticmethod
    def backward(ctx, grad):
        *inputs, targets, d_hiddens, d_weight, d_bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            def plain(*inputs):
                return linear_cross_entropy_plain(*inputs, targets)

            return *plain_gradients(plain, inputs, [grad]), None, None, None
        return grad * d_hiddens, grad * d_weight, grad * d_bias, None, None, None


class SplitCrossEntropyLoss(nn.Module):
    """Mean negative log-likelihood (natural log) under the split softmax.

    Args:
        hidden_size: H, the width of the hidden vectors and of the decoder's rows.
        splits: increasing word ids at which the vocabulary is cut; empty: an ordinary softmax.
        verbose: print the number of rows that each part gets.

    Parameters (only if there are splits): tail_vectors (K-1, H) and tail_bias (K-1), at first zero.
    Row K-1-k belongs to part k: the last row is the tombstone of part 1, as in the original.
    """

    def __init__(self, hidden_size: int, splits: Sequence[int] = (), verbose: bool = False):
        super().__init__()
        splits = [int(s) for s in splits]
        if any(s < 0 for s in splits) or any(a >= b for a, b in pairwise(splits)):
            raise ValueError(f"splits must be increasing word ids, got {splits}")
        self.hidden_size = hidden_size
        self.splits = splits
        self.nsplits = len(splits) + 1
        self.verbose = verbose
        self._edges: dict[torch.device, Tensor] = {}   # `splits`, where targets have been
        if splits:
            self.tail_vectors = nn.Parameter(torch.zeros(self.nsplits - 1, hidden_size))
            self.tail_bias = nn.Parameter(torch.zeros(self.nsplits - 1))

    def _parts(self, weight: Tensor, bias: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Weight and bias of each part; part 0 is the head with the tombstones appended."""
        if not self.splits:
            return [weight], [bias]
        edges = [0] + [min(s, len(weight)) for s in self.splits] + [len(weight)]
        sizes = [b - a for a, b in pairwise(edges)]
        # One split, not K slices: its backward fills the (V, H) gradient once.
        weights, biases = list(weight.split(sizes)), list(bias.split(sizes))
        weights[0] = torch.cat([weights[0], self.tail_vectors])
        biases[0] = torch.cat([biases[0], self.tail_bias])
        return weights, biases

    def _part_of(self, targets: Tensor) -> Tensor:
        """Part of each target word: (N) int64 in 0..K-1."""
        # Integer comparison counts; adding boolean masks would saturate at one.
        if torch.compiler.is_compiling():
            edges = torch.tensor(self.splits, device=targets.device)
        else:  # made once: a GPU would be waited for each time
            if targets.device not in self._edges:
                self._edges[targets.device] = torch.tensor(self.splits, device=targets.device)
            edges = self._edges[targets.device]
        return torch.bucketize(targets, edges, right=True)

    def rows_of_parts(self, targets: Tensor, device: torch.device | str) -> list[Tensor]:
        """For forward: the numbers of the rows of each part but the head, K-1 tensors on `device`.
        Of targets on the host, (N) or (..., N) int64; a GPU need then not be asked for them."""
        part = self._part_of(targets.reshape(-1))
        return [sent(rows, device) for rows in self._rows_of(part)]

    def _rows_of(self, part: Tensor) -> list[Tensor]:
        """The numbers of the rows of each part but the head: K-1 tensors."""
        if not part.is_cuda or torch.compiler.is_compiling():
            return [(part == k).nonzero().squeeze(1) for k in range(1, self.nsplits)]
        # Sorted, so that the host waits for the GPU once, not once a part.
        ordered, rows = part.sort(stable=True)
        wanted = torch.arange(1, self.nsplits + 1, device=part.device)
        starts = torch.searchsorted(ordered, wanted).tolist()
        return [rows[start:end] for start, end in pairwise(starts)]

    def split_on_targets(self, hiddens: Tensor,
                         targets: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Groups the rows by the part of their target: K targets tensors, K hiddens tensors."""
        part = self._part_of(targets)
        rows = [(part == k).nonzero().squeeze(1) for k in range(self.nsplits)]
        return [targets[r] for r in rows], [hiddens[r] for r in rows]

    def forward(self, weight: Tensor, bias: Tensor, hiddens: Tensor, targets: Tensor,
                rows_of_parts: Sequence[Tensor] | None = None) -> Tensor:
        """Mean loss over all rows.

        weight (V, H), bias (V), hiddens (N, H) or (..., H), targets with one id per row -> scalar.
        rows_of_parts: those of the targets; None: they are looked for, and a GPU is waited for.
        """
        hiddens = hiddens.reshape(-1, hiddens.shape[-1])
        targets = targets.reshape(-1)
        weights, biases = self._parts(weight, bias)
        if not self.splits:
            return linear_cross_entropy(hiddens, weight, bias, targets) / len(targets)
        part = self._part_of(targets)
        head_targets = torch.where(part == 0, targets, len(weights[0]) - part)
        loss = linear_cross_entropy(hiddens, weights[0], biases[0], head_targets)
        # While torch.compile traces, nobody knows how many rows a part has, nor whether it has any.
        compiling = torch.compiler.is_compiling()
        of_part = linear_cross_entropy_plain if compiling else linear_cross_entropy
        for k, rows in enumerate(rows_of_parts or self._rows_of(part), 1):
            if compiling or len(rows):
                loss = loss + of_part(hiddens[rows], weights[k], biases[k],
                                      targets[rows] - self.splits[k - 1])
        if self.verbose:
            print("rows per part:", torch.bincount(part, minlength=self.nsplits).tolist())
        return loss / len(targets)

    def logprob(self, weight: Tensor, bias: Tensor, hiddens: Tensor,
                splits: Sequence[int] | None = None,
                softmaxed_head_res: Tensor | None = None) -> Tensor:
        """Log-probabilities of the words of the wanted parts (default: all), columns side by side.

        weight (V, H), bias (V), hiddens (N, H) -> (N, words). softmaxed_head_res may hold the
        log-softmax of the head, if the caller has it already.
        """
        weights, biases = self._parts(weight, bias)
        head = softmaxed_head_res
        if head is None:
            head = F.log_softmax(F.linear(hiddens, weights[0], biases[0]), dim=-1)
        words_in_head = head.shape[-1] - (self.nsplits - 1)
        columns = []
        for k in range(self.nsplits) if splits is None else splits:
            if k == 0:
                columns.append(head[:, :words_in_head])
            else:
                tail = F.log_softmax(F.linear(hiddens, weights[k], biases[k]), dim=-1)
                columns.append(head[:, -k, None] + tail)
        return torch.cat(columns, dim=1)
