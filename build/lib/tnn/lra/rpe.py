"""The position encoder of the published rows. Notation: L positions, r hidden width, k outputs.
"""

import torch
from torch import Tensor, nn


class RpeV4(nn.Module):
    """Positions (L, 1) -> coefficients (L, k): Linear(1, r), two stages ReLU, Linear(r, r), and a
    last stage LayerNorm, ReLU, Linear(r, k).

    What every dpb_type but 8 means, whatever dpb_layers says. With residual the original's ReLU
    works in place, so that what is added back has been rectified: x = relu(x) + Linear(relu(x)).
    """

    def __init__(self, dim: int, outdim: int, residual: bool = False, bias: bool = True):
        super().__init__()
        self.residual = residual
        self.pos_proj = nn.Linear(1, dim, bias=bias)
        self.pos1 = nn.Sequential(nn.ReLU(), nn.Linear(dim, dim, bias=bias))
        self.pos2 = nn.Sequential(nn.ReLU(), nn.Linear(dim, dim, bias=bias))
        self.pos3 = nn.Sequential(nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, outdim, bias=bias))

    def forward(self, positions: Tensor) -> Tensor:
        # Half precision cannot tell lags above 256 apart.
        with torch.autocast(positions.device.type, enabled=False):
            x = self.pos_proj(positions.to(self.pos_proj.weight.dtype))
            for stage in (self.pos1, self.pos2):
                x = torch.relu(x) + stage(x) if self.residual else stage(x)
            return self.pos3(x)
