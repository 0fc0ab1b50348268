"""The element-wise functions that the originals offer by name.

The code bases agree on all names but one: "exp". The fork of fairseq takes exp(x - max), and so
does this table, which the language models use; tnn-pytorch and the image models take the plain
exponential, here "exp_plain".
"""

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
    "exp_plain": torch.exp,
    "leak": F.leaky_relu,
    "1+elu": elu_plus_one,
    "2+elu": elu_plus_two,
    "silu": F.silu,
    "sine": torch.sin,
    "none": identity,
    "None": identity,
}


def activation(name: str, more: dict[str, Callable[[Tensor], Tensor]] | None = None
               ) -> Callable[[Tensor], Tensor]:
    """The function of that name; `more` are names that only one code base has.

    Raises ValueError for any other name. The originals take the identity for it, so that a typo
    trains another model.
    """
    known = ACTIVATIONS | (more or {})
    if name not in known:
        raise ValueError(f"activation {name!r} is not one of {', '.join(known)}")
    return known[name]
