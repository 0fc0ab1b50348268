"""Channel mixers (section 3.1). Notation: d1 width, d2 hidden width."""

import torch.nn.functional as F
from torch import Tensor, nn

from tnn.network.activations import activation


class GLU(nn.Module):
    """Gated linear unit: fina_act( l3( act(l1 x) * l2 x ) ), x (..., d1) -> (..., d1), hidden
    width d2. Dropout follows act."""

    def __init__(self, d1: int, d2: int, act_fun: str = "silu", fina_act: str = "None",
                 dropout: float = 0.0, bias: bool = True):
        super().__init__()
        self.l1 = nn.Linear(d1, d2, bias=bias)
        self.l2 = nn.Linear(d1, d2, bias=bias)
        self.l3 = nn.Linear(d2, d1, bias=bias)
        self.dropout = dropout
        self.act, self.fina_act = activation(act_fun), activation(fina_act)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.dropout(self.act(self.l1(x)), self.dropout, self.training)
        return self.fina_act(self.l3(gate * self.l2(x)))


class GLUv2(nn.Module):
    """The form with one projection less: fina_act( l2( h * act(h) ) ), h = l1 x. Dropout, broken
    in the original, is applied to h * act(h)."""

    def __init__(self, d1: int, d2: int, act_fun: str = "silu", fina_act: str = "None",
                 dropout: float = 0.0, bias: bool = True):
        super().__init__()
        self.l1 = nn.Linear(d1, d2, bias=bias)
        self.l2 = nn.Linear(d2, d1, bias=bias)
        self.dropout = dropout
        self.act, self.fina_act = activation(act_fun), activation(fina_act)

    def forward(self, x: Tensor) -> Tensor:
        h = self.l1(x)
        h = F.dropout(h * self.act(h), self.dropout, self.training)
        return self.fina_act(self.l2(h))
