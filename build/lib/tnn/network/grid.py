"""Toeplitz products along rows and columns of a grid, such as the patches of an image.

Notation: C channels, H x W grid, b batch. Channels come first and the batch lies between the two
axes, so that both products are batched matrix products on the same memory, without a transposition:

    along columns (axis H)   (C, H, H) @ (C, H, b W)
    along rows    (axis W)   (C, H b, W) @ (C, W, W)

A channel's matrix serves b W (or H b) lines, which makes the dense product a large one: it beats
the transforms of toeplitz.py up to a hundred or two positions, until n^2 outgrows n log n and the
matrices the memory.
"""

import torch
from torch import Tensor
from torch.autograd.function import Function

from tnn.network.toeplitz_operator import ToeplitzOperator

DENSE_UP_TO = 256  # positions of a line: python benchmarks/tnn_im.py --lengths


def toeplitz_rows(t: Tensor, n: int) -> Tensor:
    """toeplitz.toeplitz_matrix, a row of all matrices at a time: t (..., L) -> (..., n, n)."""
    return _ToeplitzRows.apply(t, n)


class _ToeplitzRows(Function):
    """Row i is the window of the lags i, i - 1 .. i - (n - 1); its gradient adds up there. Linear,
    in operations that autograd follows: the backward pass can be differentiated as it stands."""

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


def along_rows(v: Tensor, operator: ToeplitzOperator, normalize: bool = False,
               dense_up_to: int = DENSE_UP_TO) -> Tensor:
    """v (C, H, b, W) -> the operator's product along W; lines longer than dense_up_to by FFT."""
    W = v.shape[-1]
    if dense_up_to >= W:
        T = operator.matrices(W, normalize)
        return torch.bmm(v.flatten(1, 2), T.mT).view(v.shape)
    lines = v.flatten(1, 2).transpose(0, 1)  # (H b, C, W)
    return operator.mix(lines, normalize).transpose(0, 1).reshape(v.shape)


def along_columns(v: Tensor, operator: ToeplitzOperator, normalize: bool = False,
                  dense_up_to: int = DENSE_UP_TO) -> Tensor:
    """v (C, H, b, W) -> the operator's product along H; lines longer than dense_up_to by FFT."""
    H = v.shape[1]
    if dense_up_to >= H:
        return torch.bmm(operator.matrices(H, normalize), v.flatten(2)).view(v.shape)
    lines = v.permute(2, 3, 0, 1).flatten(0, 1)  # (b W, C, H)
    return operator.mix(lines, normalize).unflatten(0, (-1, v.shape[-1])).permute(2, 3, 0, 1)


def along_both(v: Tensor, columns: ToeplitzOperator, rows: ToeplitzOperator,
               normalize: bool = False, dense_up_to: int = DENSE_UP_TO) -> Tensor:
    """v (C, H, b, W) -> the product of `columns` along H plus that of `rows` along W: the token
    mixing of the image models, and tno_type 6 of the Long Range Arena's."""
    H, W = v.shape[1], v.shape[-1]
    if max(H, W) <= dense_up_to:
        return mixed(v, columns.matrices(H, normalize), rows.matrices(W, normalize))
    return (along_columns(v, columns, normalize, dense_up_to)
            + along_rows(v, rows, normalize, dense_up_to))
