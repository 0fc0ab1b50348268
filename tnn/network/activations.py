"""The element-wise functions that the original offers by name."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def shifted_exp(x: Tensor) -> Tensor:
    """exp(x - max over the last axis); the maximum counts as a constant in the gradient."""
    return torch.exp(x - x.detach().amax(dim=-1, keepdim=True))


def elu_plus_one(x: Tensor) -> Tensor:
    return 1 + F.elu(x)


def elu_plus_two(x: Tensor) -> Tensor:
    return 2 + F.elu(x)


def identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "elu": F.elu,
    "sigmoid": torch.sigmoid,
    "exp": shifted_exp,
    "exp_plain": torch.exp,  # what tnn-pytorch calls exp
    "leak": F.leaky_relu,
    "1+elu": elu_plus_one,
    "2+elu": elu_plus_two,
    "silu": F.silu,
    "sine": torch.sin,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of that name; any other name is the identity, as in the original, where
    "none" and "None" stand for it."""
    return ACTIVATIONS.get(name, identity)
