"""The gates of fused.py and fused_grid.py as PyTorch operations: the references, and what they are
differentiated twice through.

Notation: b batch, n length, N = b n positions, D width, E and G inner widths, C channels, H x W
grid. `mask` is that of a dropout, already scaled, in any shape with as many elements; or None.
"""

import torch.nn.functional as F
from torch import Tensor

from tnn.network.grid import mixed_plain


def glu(x: Tensor, w: Tensor, c: Tensor | None, w3: Tensor, c3: Tensor | None,
        mask: Tensor | None = None) -> Tensor:
    """x (N, D), w (2G, D) and c (2G) of two layers one after the other, w3 (D, G), c3 (D)."""
    a, b = F.linear(x, w, c).chunk(2, -1)
    return F.linear(dropped(F.silu(a) * b, mask), w3, c3)


def activated(x: Tensor, w: Tensor, c: Tensor | None) -> Tensor:
    """x (b, n, D), w (E, D), c (E) -> silu(w x + c) (b, E, n)."""
    return F.silu(F.linear(x, w, c)).transpose(1, 2)


def gated_output(x: Tensor, m: Tensor, w: Tensor, c: Tensor | None, wo: Tensor, co: Tensor | None,
                 mask: Tensor | None = None) -> Tensor:
    """x (b, n, D), m (b, E, n), w (E, D), c (E), wo (D, E), co (D) -> (b, n, D)."""
    gated = activated(x, w, c) * dropped(m, mask)
    return F.linear(gated.transpose(1, 2), wo, co)


def silu_product(z: Tensor) -> Tensor:
    """z (2 G, N) -> silu of the first half times the second (G, N)."""
    a, b = z.chunk(2)
    return F.silu(a) * b


def gated_grid(z: Tensor, T_H: Tensor, T_W: Tensor) -> Tensor:
    """z (2, C, H, b, W) -> u * mixed(v) (C, H, b, W), (u, v) = silu(z), in T_H's precision."""
    u, v = F.silu(z.to(T_H.dtype)).unbind(0)
    return (u * mixed_plain(v, T_H, T_W)).to(z.dtype)


def dropped(x: Tensor, mask: Tensor | None) -> Tensor:
    """x under the mask."""
    return x if mask is None else x * mask.view(x.shape)
