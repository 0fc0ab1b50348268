"""The norms that model.norm offers, on (b, n, D). Notation: b batch, n length, D width.

Padded positions count in the statistics of all but `layer`, as in the original, unless a padding
mask (b, n) is given, true where a position is padding.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class BatchNorm(nn.BatchNorm1d):
    """Statistics per channel over all positions of the batch; with `synchronised` over those of
    all processes, on any device (torch's own needs CUDA)."""

    def __init__(self, d: int, synchronised: bool = False):
        super().__init__(d)
        self.synchronised = synchronised

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        if padding is not None:
            real = ~padding
            return torch.zeros_like(x).masked_scatter(real.unsqueeze(-1), self.rows(x[real]))
        return self.rows(x.flatten(0, -2)).view(x.shape)

    def rows(self, x: Tensor) -> Tensor:
        """x (N, D) -> (N, D)."""
        together = self.synchronised and dist.is_initialized() and dist.get_world_size() > 1
        return self._across_processes(x) if self.training and together else super().forward(x)

    def _across_processes(self, x):
        sums = all_reduce(torch.cat([x.sum(0), x.new_tensor([len(x)])]))
        count = sums[-1].detach()
        centred = x - sums[:-1] / count
        variance = all_reduce(centred.square().sum(0)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(sums[:-1] / count, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return centred * (torch.rsqrt(variance + self.eps) * self.weight) + self.bias


class InstanceNorm(nn.Module):
    """Mean 0, variance 1 over the positions, per sample and channel (eps 1e-5)."""

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        if padding is None:
            return F.instance_norm(x.transpose(1, 2)).transpose(1, 2)
        real = (~padding).unsqueeze(-1).to(x.dtype)
        count = real.sum(1, keepdim=True)
        centred = (x - (x * real).sum(1, keepdim=True) / count) * real
        return centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / count + 1e-5)


class SequenceRMSNorm(nn.Module):
    """x / (L2 norm over the n positions * D^-1/2 + 1e-2), per sample and channel.

    So the original's `simplerms`, which transposes first: n values are summed, D scales.
    """

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        if padding is not None:
            x = x.masked_fill(padding.unsqueeze(-1), 0)
        return x / (x.norm(dim=1, keepdim=True) * x.shape[-1] ** -0.5 + 1e-2)


class LayerNorm(nn.LayerNorm):
    """Per position: padding has no say."""

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        return super().forward(x)


class NoNorm(nn.Module):
    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        return x


NORMS = {
    "layer": LayerNorm,
    "batch": BatchNorm,
    "synbatch": lambda d: BatchNorm(d, synchronised=True),
    "instance": lambda d: InstanceNorm(),
    "simplerms": lambda d: SequenceRMSNorm(),
    "none": lambda d: NoNorm(),
}


class Norm(nn.Module):
    """The norm of that name, as `norm` of this module: checkpoints call it so."""

    def __init__(self, d: int, name: str):
        super().__init__()
        if name not in NORMS:
            raise ValueError(f"norm {name!r} is not one of {', '.join(NORMS)}")
        self.norm = NORMS[name](d)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        return self.norm(x, padding)
