"""Toeplitz products along rows and columns of images, by dense n x n matrices: lines are short.

Letters: C channels, H x W grid of patches, b batch, N = H b W. Channels come first and the batch
lies between the two axes, so that both products are batched matrix products on the same memory,
without a transposition:

    along columns (axis H)   (C, H, H) @ (C, H, b W)
    along rows    (axis W)   (C, H b, W) @ (C, W, W)
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

# Longer lines go by FFT: python benchmarks/tnn_im.py --lengths.
DENSE_UP_TO = 64
CHUNK = 1 << 18  # numbers of one array worked on at a time: a few such arrays fit the cache

silu_backward = torch.ops.aten.silu_backward.grad_input


def toeplitz_rows(t: Tensor, n: int) -> Tensor:
    """tnn.network.toeplitz.toeplitz_matrix, a row of all matrices at a time: t (..., L) -> (..., n, n)."""
    return _ToeplitzRows.apply(t, n)


class _ToeplitzRows(Function):
    """Row i is the window of the lags i, i - 1 .. i - (n - 1); its gradient adds up there."""

    @staticmethod
    def forward(ctx, t, n):
        before = t[..., n:] if t.shape[-1] > n else t.new_zeros(*t.shape[:-1], n - 1)
        falling = torch.cat([t[..., :n].flip(-1), before.flip(-1)], dim=-1)  # lags n-1 .. -(n-1)
        T = t.new_empty(*t.shape[:-1], n, n)
        for i in range(n):
            T[..., i, :] = falling[..., n - 1 - i:2 * n - 1 - i]
        ctx.lags = t.shape[-1]
        return T

    @staticmethod
    @once_differentiable
    def backward(ctx, dT):
        n = dT.shape[-1]
        falling = dT.new_zeros(*dT.shape[:-2], 2 * n - 1)
        for i in range(n):
            falling[..., n - 1 - i:2 * n - 1 - i] += dT[..., i, :]
        after, before = falling[..., :n].flip(-1), falling[..., n:].flip(-1)
        return (after if ctx.lags == n else torch.cat([after, before], dim=-1)), None


def mixed_plain(v: Tensor, T_H: Tensor, T_W: Tensor) -> Tensor:
    """The equation: v (C, H, b, W) -> T_H along H of v + T_W along W of v, for one matrix per
    channel, T_H (C, H, H) and T_W (C, W, W)."""
    return torch.einsum("cij,cjbw->cibw", T_H, v) + torch.einsum("cij,chbj->chbi", T_W, v)


def mixed(v: Tensor, T_H: Tensor, T_W: Tensor, out: Tensor | None = None) -> Tensor:
    """mixed_plain, as two batched products of which the second adds to the first. v contiguous."""
    C, H, b, W = v.shape
    y = torch.bmm(v.view(C, H * b, W), T_W.mT, out=None if out is None else out.view(C, H * b, W))
    y.view(C, H, b * W).baddbmm_(T_H, v.view(C, H, b * W))
    return y.view(v.shape)


def gated_plain(z: Tensor, T_H: Tensor, T_W: Tensor) -> Tensor:
    """The reference for gated."""
    u, v = F.silu(z).unbind(0)
    return u * mixed_plain(v, T_H, T_W)


def gated(z: Tensor, T_H: Tensor, T_W: Tensor) -> Tensor:
    """The inner part of the gated Toeplitz unit: z (2, C, H, b, W) -> u * mixed(v) (C, H, b, W)
    with (u, v) = silu(z). Half precision is computed in float32. Differentiable once."""
    return _Gated.apply(z.contiguous(), T_H, T_W)


class _Gated(Function):
    """On a CPU some channels at a time, so that what lies between two products stays in the
    cache; u and v are computed again in the backward pass, which is cheaper than to read them."""

    @staticmethod
    def forward(ctx, z, T_H, T_W):
        g, m = torch.empty_like(z[0]), z.new_empty(z.shape[1:], dtype=T_H.dtype)
        with torch.autocast(z.device.type, enabled=False):
            for part in _parts(z):
                u, v = F.silu(z[0, part].to(T_H.dtype)), F.silu(z[1, part].to(T_H.dtype))
                mixed(v, T_H[part], T_W[part], out=m[part])
                torch.mul(u, m[part], out=g[part])
        ctx.save_for_backward(z, m, T_H, T_W)
        return g

    @staticmethod
    @once_differentiable
    def backward(ctx, dg):
        z, m, T_H, T_W = ctx.saved_tensors
        dz = torch.empty_like(z, dtype=T_H.dtype)
        dT_H, dT_W = torch.empty_like(T_H), torch.empty_like(T_W)
        with torch.autocast(z.device.type, enabled=False):
            for part in _parts(z):
                zu, zv, d = (a.to(T_H.dtype) for a in (z[0, part], z[1, part], dg[part]))
                silu_backward(d * m[part], zu, grad_input=dz[0, part])
                dm, v = F.silu(zu).mul_(d), F.silu(zv)
                torch.bmm(dm.flatten(2), v.flatten(2).mT, out=dT_H[part])
                torch.bmm(dm.flatten(1, 2).mT, v.flatten(1, 2), out=dT_W[part])
                silu_backward(mixed(dm, T_H[part].mT, T_W[part].mT), zv, grad_input=dz[1, part])
        return dz.to(z.dtype), dT_H, dT_W


def _parts(z):
    C = z.shape[1]
    step = C if z.device.type != "cpu" else max(CHUNK // z[0, 0].numel(), 1)
    return [slice(i, min(i + step, C)) for i in range(0, C, step)]
