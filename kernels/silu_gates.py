"""Gates silu(a) b with their gradients on a CPU, in one pass each way (cpp/silu_gates.cpp): alone,
and around the Toeplitz products of a small grid, whose matrices are too small for a library.

Notation: G width, N positions, C channels, H x W grid, b batch.
"""

import torch
from torch import Tensor

from kernels import library

LINE = 32  # positions of a line up to which its products are too small for a library (measured)


def has_kernel(*tensors: Tensor) -> bool:
    """Whether the kernels work on these: contiguous, of one type, on the CPU, not while compiling
    or under torch.func."""
    return (not torch.compiler.is_compiling()
            and not torch._C._are_functorch_transforms_active() and library.available(*tensors)
            and all(t.is_contiguous() and t.numel() for t in tensors))


def has_grid_kernel(z: Tensor, T_H: Tensor, T_W: Tensor) -> bool:
    """The same, and whether it pays."""
    return max(z.shape[2], z.shape[4]) <= LINE and has_kernel(z, T_H, T_W)


def silu_product(z: Tensor) -> Tensor:
    """z (2 G, N) -> silu of the first half times the second (G, N)."""
    y = torch.empty_like(z[:len(z) // 2])
    library.call("silu_product_forward", *y.shape, *z.chunk(2), y)
    return y


def silu_product_backward(z: Tensor, dy: Tensor) -> Tensor:
    """From the gradient dy (G, N) that of z."""
    dz = torch.empty_like(z)
    library.call("silu_product_backward", *dy.shape, *z.chunk(2), dy.contiguous(), *dz.chunk(2))
    return dz


def gated_grid(z: Tensor, T_H: Tensor, T_W: Tensor) -> Tensor:
    """z (2, C, H, b, W), T_H (C, H, H), T_W (C, W, W) -> u (T_H along H of v + T_W along W of v)
    (C, H, b, W), (u, v) = silu(z)."""
    g = torch.empty_like(z[0])
    library.call("gated_grid_forward", *g.shape, z, T_H, T_W, g)
    return g


def gated_grid_backward(z: Tensor, T_H: Tensor, T_W: Tensor, dg: Tensor
                        ) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradient dg (C, H, b, W) those of z, T_H and T_W."""
    found = torch.empty_like(z), torch.empty_like(T_H), torch.empty_like(T_W)
    library.call("gated_grid_backward", *dg.shape, z, T_H, T_W, dg.contiguous(), *found)
    return found
