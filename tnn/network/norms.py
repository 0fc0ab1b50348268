"""The norms over the last axis that the original offers by name. Letter: d its width."""

import torch
from torch import Tensor, nn

EPS = 1e-8  # added to the root mean square itself, not below the root


def rms_normalized(x: Tensor) -> Tensor:
    """x / (root mean square of x + 1e-8) over the last axis; computed in float32 for half
    precision, where 1e-8 is zero. The zero vector stays zero, with gradient 1e8 (the norm's
    derivative there is taken as 0): see the README on the masked language model's first steps."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    rms = wide.norm(dim=-1, keepdim=True) * wide.shape[-1] ** -0.5
    return (wide / (rms + EPS)).to(x.dtype)


class SimpleRMSNorm(nn.Module):
    """rms_normalized, without parameters (the paper's choice)."""

    def __init__(self, d: int):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return rms_normalized(x)


class RMSNorm(nn.Module):
    """rms_normalized with a learnt scale per channel."""

    def __init__(self, d: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * rms_normalized(x)


class GatedRMSNorm(nn.Module):
    """RMSNorm times sigmoid(gate x), the gate seeing x itself."""

    def __init__(self, d: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(d))
        self.gate = nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * rms_normalized(x) * torch.sigmoid(self.gate * x)


class ScaleNorm(nn.Module):
    """x / sqrt(mean of x^2 + 1e-5), times one learnt number."""

    def __init__(self, d: int):
        super().__init__()
        self.scala = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-5) * self.scala


NORMS = {"simplermsnorm": SimpleRMSNorm, "rmsnorm": RMSNorm, "gatedrmsnorm": GatedRMSNorm,
         "scalenorm": ScaleNorm}


def norm(name: str, d: int) -> nn.Module:
    """The norm of that name for width d; any other name is LayerNorm, as in the original."""
    return NORMS.get(name, nn.LayerNorm)(d)
