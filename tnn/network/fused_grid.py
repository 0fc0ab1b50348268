"""The silu gates of the image model with their gradients by hand, on any device: compiled where
kernels/silu_gates.py has them, else as a few PyTorch operations, on a CPU some channels at a time.

Notation: N positions, G inner width, C channels, H x W grid, b batch. Second derivatives go through
fused_plain.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

from kernels import silu_gates
from kernels.library import exporting
from kernels.second_derivatives import plain_gradients
from tnn.network import fused_plain
from tnn.network.fused import pieces
from tnn.network.grid import mixed

silu_backward = torch.ops.aten.silu_backward  # (gradient of silu(a), a) -> gradient of a


def silu_product(z: Tensor) -> Tensor:
    """z (2 G, N) -> silu of the first half times the second (G, N)."""
    return _SiluProduct.apply(z)


def gated_grid(z: Tensor, T_H: Tensor, T_W: Tensor) -> Tensor:
    """The inner part of the gated Toeplitz unit on a grid: z (2, C, H, b, W) -> u * mixed(v)
    (C, H, b, W) with (u, v) = silu(z); half precision is computed in float32."""
    if exporting():
        return fused_plain.gated_grid(z, T_H, T_W)
    return _GatedGrid.apply(z.contiguous(), T_H, T_W)


class _SiluProduct(Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        if silu_gates.has_kernel(z):
            return silu_gates.silu_product(z)
        a, b = z.chunk(2)
        return F.silu(a).mul_(b)

    @staticmethod
    def backward(ctx, d):
        z, = ctx.saved_tensors
        if torch.is_grad_enabled():
            return plain_gradients(fused_plain.silu_product, [z], [d])[0]
        if silu_gates.has_kernel(z):
            return silu_gates.silu_product_backward(z, d)
        dz = torch.empty_like(z)
        (a, b), (da, db) = z.chunk(2), dz.chunk(2)
        torch.mul(F.silu(a), d, out=db)
        silu_backward(d * b, a, grad_input=da)
        return dz


class _GatedGrid(Function):
    """Some channels at a time, on other devices all of them; u and v are computed again in the
    backward pass, which is cheaper than to read them."""

    @staticmethod
    def forward(ctx, z, T_H, T_W):
        if silu_gates.has_grid_kernel(z, T_H, T_W):
            ctx.save_for_backward(z, None, T_H, T_W)
            return silu_gates.gated_grid(z, T_H, T_W)
        g, m = torch.empty_like(z[0]), z.new_empty(z.shape[1:], dtype=T_H.dtype)
        with torch.autocast(z.device.type, enabled=False):
            for part in channel_pieces(z):
                u, v = F.silu(z[0, part].to(T_H.dtype)), F.silu(z[1, part].to(T_H.dtype))
                mixed(v, T_H[part], T_W[part], out=m[part])
                torch.mul(u, m[part], out=g[part])
        ctx.save_for_backward(z, m, T_H, T_W)
        return g

    @staticmethod
    def backward(ctx, dg):
        z, m, T_H, T_W = ctx.saved_tensors
        if torch.is_grad_enabled():
            with torch.autocast(z.device.type, enabled=False):
                return tuple(plain_gradients(fused_plain.gated_grid, (z, T_H, T_W), [dg]))
        if m is None:
            return silu_gates.gated_grid_backward(z, T_H, T_W, dg)
        dz = torch.empty_like(z, dtype=T_H.dtype)
        dT_H, dT_W = torch.empty_like(T_H), torch.empty_like(T_W)
        with torch.autocast(z.device.type, enabled=False):
            for part in channel_pieces(z):
                zu, zv, d = (a.to(T_H.dtype) for a in (z[0, part], z[1, part], dg[part]))
                silu_backward(d * m[part], zu, grad_input=dz[0, part])
                dm, v = F.silu(zu).mul_(d), F.silu(zv)
                torch.bmm(dm.flatten(2), v.flatten(2).mT, out=dT_H[part])
                torch.bmm(dm.flatten(1, 2).mT, v.flatten(1, 2), out=dT_W[part])
                silu_backward(mixed(dm, T_H[part].mT, T_W[part].mT), zv, grad_input=dz[1, part])
        return dz.to(z.dtype), dT_H, dT_W


def channel_pieces(z):
    """Slices of the channels of z (2, C, H, b, W)."""
    C, positions = z.shape[1], z[0, 0].numel()
    return pieces(C, positions, least=1) if z.device.type == "cpu" else [slice(0, C)]
