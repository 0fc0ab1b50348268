"""The levels of a TrellisNet when only the last position's output is wanted, as in classification.

With dilations 1, 1, 2, 4, ..., 512 the top level at position t looks at t and t - 512 of the level
below, that one at every 256th position of the next, and so on: of 11 levels of 784 positions only
about two levels' worth are ever seen. Each level here computes its output at every S-th position
counted from the last one. Leaving the other positions out changes no number.

The equations are those of trellisnet.py; autograd differentiates them.

Notation: L time steps, t a position, N batch, E input and H hidden channels, k taps, d dilation,
S stride, G positions that a level computes.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def strides(dilations: tuple[int, ...]) -> list[int]:
    """S of each level; 0 for the top one: the last position alone.

    A level that computes every S-th position looks d and 0 (with k > 2 further multiples of d)
    steps back, so the level below needs every gcd(S, d)-th. For dilations 1, 1, 2, 4 and L = 9:

        t         0 1 2 3 4 5 6 7 8     d   S
        level 3                   o     4   0
        level 2   o       o       o     2   4
        level 1   o   o   o   o   o     1   2
        level 0   o o o o o o o o o     1   1
    """
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
    stride_below = 1
    for d, stride in zip(dilations, strides(dilations), strict=True):
        stride = stride or steps
        positions = range((steps - 1) % stride, steps, stride)
        looks = [(k - 1 - tap) * d for tap in range(k)]                 # steps back, tap by tap
        inputs = torch.cat([values_before(x, positions, look, None, 1, steps) for look in looks],
                           -1)
        a = F.linear(inputs, kernel1, bias)                             # (G, N, 4H)
        seeing = positions
        if h is None:  # below the first level there is nothing but the state left of time 0
            h = c = h0.new_zeros(steps, batch, h0.shape[1])
            seeing = [t for t in positions if t < looks[0]]
        hidden = torch.cat([values_before(h, seeing, look, h0, stride_below, steps)
                            for look in looks], -1)
        if mask is not None:
            hidden = hidden * mask.repeat(1, k)
        a = add_to_first(a, F.linear(hidden, kernel2))
        i, o, g, f = a.chunk(4, dim=-1)
        c_delayed = values_before(c, positions, d, c0, stride_below, steps)
        c = f.sigmoid() * c_delayed + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()                                      # (G, N, H)
        stride_below = stride
    return h[:, :, -nout:], h[-1], c[-1]


def add_to_first(a: Tensor, part: Tensor) -> Tensor:
    """a with `part` added to its first rows."""
    if len(part) == len(a):
        return a + part
    return torch.cat([a[:len(part)] + part, a[len(part):]]) if len(part) else a


def values_before(kept: Tensor, positions: Sequence[int], look: int, initial: Tensor | None,
                  stride: int, steps: int) -> Tensor:
    """The values `look` steps before each of the positions: (G, N, C).

    kept (G', N, C) holds every `stride`-th position, counted from the last of `steps`; left of
    position 0 stands `initial` (N, C), or zero. With steps = 9, stride = 2 and look = 2:

        kept                  0   2   4   6   8
        positions             0       4       8
        values at       initial       2       6      one before position 0, then kept[1::2][:2]
    """
    first = (steps - 1) % stride                                        # position of kept[0]
    before = sum(t < look for t in positions)                           # that look too far
    inside = kept[:0]
    if before < len(positions):
        step = positions[1] - positions[0] if len(positions) > 1 else stride
        inside = kept[(positions[before] - look - first) // stride::step // stride]
        inside = inside[:len(positions) - before]
    if not before:
        return inside
    pad = kept.new_zeros(()) if initial is None else initial
    return torch.cat([pad.expand(before, *kept.shape[1:]), inside])
