"""The levels of a TrellisNet when only the last position's output is wanted, as in classification.

With dilations 1, 1, 2, 4, ..., 512 the top level at position t looks at t and t - 512 of the level
below, that one at every 256th position of the next, and so on: of 11 levels of 784 positions only
about two levels' worth are ever seen. Each level here computes its output at every S-th position
counted from the last one, where S of the level below is gcd(S, d), and the top level's S is 0, one
position. The numbers are those of the other positions' absence: exactly the same.

Letters: L time steps, N batch, E input and H hidden channels, k taps, d dilation, S stride.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def strides(dilations: tuple[int, ...]) -> list[int]:
    """S of each level; 0 for the top one: the last position alone."""
    found = [0]
    for d in reversed(dilations[1:]):
        found.append(math.gcd(found[-1], d))
    return found[::-1]


def trellis_last(x: Tensor, weight1: Tensor, weight2: Tensor, bias: Tensor, h0: Tensor, c0: Tensor,
                 mask: Tensor | None, dilations: tuple[int, ...], nout: int
                 ) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments as `trellis_plain`. Returns output (1, N, nout), h and c (N, H), all of the top
    level at the last position."""
    steps, batch, _ = x.shape
    k = weight2.shape[-1]
    kernel1 = weight1.permute(0, 2, 1).flatten(1)                       # (4H, k E)
    kernel2 = weight2.permute(0, 2, 1).flatten(1)                       # (4H, k H)
    h = c = None
    below = 1
    for d, stride in zip(dilations, strides(dilations), strict=True):
        stride = stride or steps
        rows = range((steps - 1) % stride, steps, stride)               # positions of this level
        looks = [(k - 1 - j) * d for j in range(k)]
        inputs = torch.cat([at(x, rows, look, None, 1, steps) for look in looks], -1)
        a = F.linear(inputs, kernel1, bias)                             # (G, N, 4H)
        seeing = rows
        if h is None:  # below the first level there is nothing but the state left of time 0
            h = c = h0.new_zeros(steps, batch, h0.shape[1])
            seeing = [t for t in rows if t < looks[0]]
        hidden = torch.cat([at(h, seeing, look, h0, below, steps) for look in looks], -1)
        if mask is not None:
            hidden = hidden * mask.repeat(1, k)
        a = add_to_first(a, F.linear(hidden, kernel2))
        i, o, g, f = a.chunk(4, dim=-1)
        c = f.sigmoid() * at(c, rows, d, c0, below, steps) + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()                                      # (G, N, H)
        below = stride
    return h[:, :, -nout:], h[-1], c[-1]


def add_to_first(a: Tensor, part: Tensor) -> Tensor:
    """a with `part` added to its first rows."""
    if len(part) == len(a):
        return a + part
    return torch.cat([a[:len(part)] + part, a[len(part):]]) if len(part) else a


def at(kept: Tensor, rows: Sequence[int], look: int, start: Tensor | None, stride: int, steps: int
       ) -> Tensor:
    """The values at positions rows - look of what is kept at every `stride`-th position (G', N, C):
    (G, N, C), with `start` (N, C), or zero, left of position 0."""
    first = (steps - 1) % stride                                        # position of kept[0]
    before = sum(t < look for t in rows)                                # rows that look too far
    inside = kept[:0]
    if before < len(rows):
        step = rows[1] - rows[0] if len(rows) > 1 else stride
        inside = kept[(rows[before] - look - first) // stride::step // stride]
        inside = inside[:len(rows) - before]
    if not before:
        return inside
    pad = kept.new_zeros(()) if start is None else start
    return torch.cat([pad.expand(before, *kept.shape[1:]), inside])
