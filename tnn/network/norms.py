"""The norms over the last axis that the originals offer by name. Notation: d its width."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import Function

from kernels import rms_norm
from kernels.second_derivatives import plain_gradients, shadow
from tnn.network.toeplitz import HALF

EPS = 1e-8  # added to the root mean square itself, not below the root


def rms_normalized(x: Tensor) -> Tensor:
    """x / (root mean square of x + 1e-8) over the last axis; computed in float32 for half
    precision, where 1e-8 is zero. The zero vector stays zero, with gradient 1e8 (the norm's
    derivative there is taken as 0): see the README on the masked language model's first steps."""
    return rms_norm.rms_normalized(x, EPS)


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
         "scalenorm": ScaleNorm, "layernorm": nn.LayerNorm}


def norm(name: str, d: int) -> nn.Module:
    """The norm of that name for width d.

    Raises ValueError for an unknown name. The originals take LayerNorm for it, so that a typo
    trains another model.
    """
    if name not in NORMS:
        raise ValueError(f"norm {name!r} is not one of {', '.join(NORMS)}")
    return NORMS[name](d)


# ------------------------------------------------------------------ layers with a norm before
def pre_normed(x: Tensor, mixers: tuple[Callable, Callable], norms: tuple[nn.Module, nn.Module]
               ) -> Tensor:
    """The two halves of a layer: x + first(n1(x)), and that plus second(n2(that)). Under autocast
    the sums stay in x's type, and what the mixers read is rounded once, not by each product."""
    y = mixers[0](_mixer_input(x, norms[0]))
    if isinstance(norms[1], SimpleRMSNorm):
        x, y = rms_norm.added_and_normalized(x, y, EPS)
    else:
        x = x + y
        y = _mixer_input(x, norms[1])
    return rms_norm.added(x, mixers[1](y))


def _mixer_input(x, norm):
    """norm(x), under autocast in the type that the products compute in."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return norm(x)
    dtype = torch.get_autocast_dtype(kind)
    if isinstance(norm, SimpleRMSNorm):
        return rms_norm.rms_normalized(x, EPS, dtype)
    return norm(x).to(dtype)


def norm_by_hand(name: str, d: int) -> nn.Module:
    """norm(name, d), the parameter-free one with its gradient by hand: fewer passes over memory
    than autograd makes of the formula. Not for torch.func."""
    return SimpleRMSNormByHand() if name == "simplermsnorm" else norm(name, d)


class SimpleRMSNormByHand(nn.Module):
    """SimpleRMSNorm to rounding, with the same gradient at the zero vector."""

    def forward(self, x: Tensor) -> Tensor:
        return _RmsNormalized.apply(x, shadow(x))


class _RmsNormalized(Function):
    """y = x / (r + eps), r = ||x|| / sqrt(d);  dx = dy / (r + eps) - y (dy . y) / (d r)."""

    @staticmethod
    def forward(ctx, x, x_shadow):
        wide = x.float() if x.dtype in HALF else x
        r = wide.norm(dim=-1, keepdim=True).mul_(x.shape[-1] ** -0.5)
        scale = (r + EPS).reciprocal_()
        y = wide * scale
        ctx.save_for_backward(y, r, scale, x_shadow)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx, dy):
        y, r, scale, x_shadow = ctx.saved_tensors
        if torch.is_grad_enabled():
            x = (y.detach() / scale).to(dy.dtype)  # y has a history of its own
            x = x if x_shadow is None else x + x_shadow
            return *plain_gradients(rms_normalized, [x], [dy]), None
        share = (dy * y).sum(-1, keepdim=True)
        share /= r.clamp(min=torch.finfo(r.dtype).tiny) * y.shape[-1]  # where r is 0, so is y
        return (dy * scale).addcmul_(y, share, value=-1).to(dy.dtype), None
