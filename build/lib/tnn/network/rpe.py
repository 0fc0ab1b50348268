"""The relative position encoder: a small network from a lag to the coefficients of all channels
(section 3.3).

Notation: L positions, m hidden width, k outputs.
"""

import torch
from torch import Tensor, nn

from tnn.network.activations import activation
from tnn.network.norms import norm
from tnn.network.toeplitz import HALF


class Activation(nn.Module):
    """An element-wise function as a module, so that it may stand in a Sequential."""

    def __init__(self, name: str):
        super().__init__()
        self.function = activation(name)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _stage(m, k, act, bias, norm_type):
    return nn.Sequential(norm(norm_type, m), Activation(act), nn.Linear(m, k, bias=bias))


class Rpe(nn.Module):
    """Positions (L, 1) -> coefficients (L, outdim).

    Linear(1, dim), then `layers` stages norm, activation, Linear(dim, dim), each added to its
    input with `residual`, and a last stage to outdim.
    """

    def __init__(self, dim: int, outdim: int, residual: bool = False, act: str = "relu",
                 bias: bool = True, layers: int = 3, norm_type: str = "simplermsnorm"):
        super().__init__()
        self.residual = residual
        self.outdim = outdim
        self.pos_proj = nn.Linear(1, dim, bias=bias)
        self.layers = nn.ModuleList(_stage(dim, dim, act, bias, norm_type) for _ in range(layers))
        self.out = _stage(dim, outdim, act, bias, norm_type)

    def forward(self, positions: Tensor) -> Tensor:
        # Half precision cannot tell lags above 256 apart: a model in half precision computes this
        # with its weights widened.
        if self.pos_proj.weight.dtype in HALF:
            wide = {name: p.float() for name, p in self.named_parameters()}
            return torch.func.functional_call(self, wide, positions)
        with torch.autocast(positions.device.type, enabled=False):
            x = self.pos_proj(positions.to(self.pos_proj.weight.dtype))
            for layer in self.layers:
                x = x + layer(x) if self.residual else layer(x)
            return self.out(x)
