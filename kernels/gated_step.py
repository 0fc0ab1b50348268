"""One position of a layer of gated units, for generation: per half of the layer the norm, two
projections, a gate, the projection back and the sum with the input. PyTorch takes a dozen
operations, each of which costs as much as the arithmetic of a narrow layer; cpp/gated_step.cpp is
one call, in the time that reading the weights takes.

    n = x / (rms(x) + eps),  a = silu(W1 n + c1),  b = W2 n + c2
    y = x + W3 (a h) + c3,   h = b, or the recurrence's output for the input silu(b)

Notation: b sequences, D width, E inner width. Not differentiable.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import library
from kernels.rms_norm import rms_normalized_plain


class Recurrence(NamedTuple):
    """Output i of a Toeplitz operator: before[:, i] + the sum of t(i - j) block[:, j] over
    first <= j <= i. Input i is written to the block."""

    block: Tensor   # (b, Q, E)
    before: Tensor  # (b, Q, E)
    turned: Tensor  # t(P-1) .. t(0): (P, E)
    first: int
    i: int


# W1 (E, D), c1 (E), W2, c2, W3 (D, E), c3 (D)
Weights = tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor, Tensor | None]
Half = tuple[Weights, Recurrence | None]


def weights_of(l1: nn.Linear, l2: nn.Linear, l3: nn.Linear) -> Weights:
    """Those of the three projections."""
    return l1.weight, l1.bias, l2.weight, l2.bias, l3.weight, l3.bias


def gated_steps_plain(x: Tensor, eps: float, halves: Sequence[Half]) -> Tensor:
    """x (b, 1, D) -> the same, by PyTorch's operations."""
    for (w1, c1, w2, c2, w3, c3), recurrence in halves:
        n = rms_normalized_plain(x, eps)
        a, h = F.silu(F.linear(n, w1, c1)), F.linear(n, w2, c2)
        if recurrence is not None:
            block, before, turned, first, i = recurrence
            block[:, i] = F.silu(h)[:, 0]
            weights = turned[len(turned) - 1 - i + first:]
            h = before[:, i:i + 1] + (block[:, first:i + 1] * weights).sum(1, keepdim=True)
        x = x + F.linear(a * h, w3, c3)
    return x


def gated_steps(x: Tensor, eps: float, halves: Sequence[Half]) -> Tensor:
    """gated_steps_plain, in one call for each half. For arrays that has_kernel accepts."""
    y, b = x.clone(memory_format=torch.contiguous_format), x.shape[0]
    shapes = [weights[0].shape for weights, _ in halves]
    room = x.new_empty(max(b * (D + 2 * E) for E, D in shapes))
    step, threads = library.function("gated_step", torch.float32), torch.get_num_threads()
    for (weights, recurrence), (E, D) in zip(halves, shapes, strict=True):
        addresses = [None if t is None else t.data_ptr() for t in weights]
        past: tuple[int | None, ...] = (None, None, None)
        sizes: tuple[int, ...] = (0, 0, 0, 0)
        if recurrence is not None:
            block, before, turned, first, i = recurrence
            past = block.data_ptr(), before.data_ptr(), turned.data_ptr()
            sizes = block.shape[1], turned.shape[0], first, i
        step(b, D, E, eps, *addresses, y.data_ptr(), room.data_ptr(), *past, *sizes,
             threads if D * E >= 1 << 15 else 1)
    return y


def has_kernel(x: Tensor, weights: Sequence[Weights], memory: Sequence[Tensor] = ()) -> bool:
    """Whether gated_steps may compute this: float32 on a CPU, of sizes that fit one another, no
    gradients, not while compiling. memory: the recurrences' arrays."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or x.shape[1] != 1:
        return False
    for w1, _, w2, _, w3, _ in weights:
        if not w1.shape == w2.shape == w3.shape[::-1] or w1.shape[1] != x.shape[2]:
            return False
    for array in (*memory, *(t for each in weights for t in each if t is not None)):
        if not array.is_cpu or array.dtype != torch.float32 or not array.is_contiguous():
            return False
    return (x.dtype == torch.float32 and not torch.compiler.is_compiling() and library.available(x)
            and not torch._C._are_functorch_transforms_active())
