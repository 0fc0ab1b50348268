"""Where the positions of a level look in the level below, of which only some are kept, and what is
given back there in the backward pass (last_output.py).

Notation: t a position, d dilation, k taps, N batch, C channels; G positions that look, G' that are
kept below.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Look(NamedTuple):
    """Where positions lie, so many steps back, among those that the level below computes: the first
    `before` of them left of time 0, the others in these rows."""

    before: int
    rows: slice

    def of(self, block: slice) -> "Look":
        """The same of some of the positions."""
        before = min(max(self.before - block.start, 0), block.stop - block.start)
        rows = range(self.rows.stop)[self.rows][max(block.start - self.before, 0):
                                                max(block.stop - self.before, 0)]
        return Look(before, slice(rows.start, rows.stop, rows.step) if rows else slice(0, 0))


def looked_at(positions: Sequence[int], look: int, stride: int, steps: int) -> Look:
    """`look` steps before each of the positions, where every `stride`-th one is kept, counted from
    the last of `steps`. With steps = 9, stride = 2 and look = 2:

        kept                  0   2   4   6   8
        positions             0       4       8
        seen          left of 0       2       6      one before position 0, then kept[1::2][:2]
    """
    first = (steps - 1) % stride                                        # position of kept[0]
    before = sum(t < look for t in positions)                           # that look too far
    count = len(positions) - before
    if not count:
        return Look(before, slice(0, 0))
    step = (positions[1] - positions[0]) // stride if len(positions) > 1 else 1
    start = (positions[before] - look - first) // stride
    return Look(before, slice(start, start + (count - 1) * step + 1, step))


def values(kept: Tensor, look: Look, initial: Tensor | None) -> Tensor:
    """What is looked at (G, N, C) in kept (G', N, C); left of time 0 stands `initial` (N, C), or
    zero."""
    inside = kept[look.rows]
    if not look.before:
        return inside
    pad = kept.new_zeros(()) if initial is None else initial
    return torch.cat([pad.expand(look.before, *kept.shape[1:]), inside])


def give(look: Look, dvalues: Tensor, dkept: Tensor | None, dinitial: Tensor | None,
         once: bool = False) -> None:
    """The backward of `values`: adds to the gradients of kept and initial, if they are wanted.
    once: nothing else is given to these rows of dkept."""
    if dkept is not None:
        rows = dkept[look.rows]
        rows.copy_(dvalues[look.before:]) if once else rows.add_(dvalues[look.before:])
    if dinitial is not None and look.before:
        dinitial += dvalues[:look.before].sum(0)


def give_all(looks: list[Look], dvalues: Tensor, dkept: Tensor | None, dinitial: Tensor | None,
             once: bool = False) -> None:
    """`give` for taps side by side."""
    for look, part in zip(looks, dvalues.chunk(len(looks), -1), strict=True):
        give(look, part, dkept, dinitial, once)


def room(looks: list[Look], kept: Tensor) -> tuple[Tensor, bool]:
    """A gradient of kept to give to, and whether all is given once: in published models no row is
    looked at twice. Zeros, unless every row is written."""
    rows = [row for look in looks for row in range(len(kept))[look.rows]]
    once = len(set(rows)) == len(rows)
    return (torch.empty_like if once and len(rows) == len(kept) else torch.zeros_like)(kept), once


class Looks(NamedTuple):
    """Where a level looks: per tap at x and at h'; and at c'(t - d)."""

    x: list[Look]
    h: list[Look]
    c: Look
    seeing: int                # how many positions look left of time 0 for x or h'

    @property
    def first(self) -> int:
        """The first position that sees nothing left of time 0."""
        return max(self.seeing, self.c.before)

    @classmethod
    def of(cls, steps: int, k: int, d: int, stride: int, stride_below: int) -> "Looks":
        positions = range((steps - 1) % stride, steps, stride)
        back = [(k - 1 - tap) * d for tap in range(k)]
        return cls([looked_at(positions, look, 1, steps) for look in back],
                   [looked_at(positions, look, stride_below, steps) for look in back],
                   looked_at(positions, d, stride_below, steps),
                   sum(t < back[0] for t in positions))
