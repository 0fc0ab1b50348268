"""One layer of the language models: token mixer, channel mixer, norms and residuals (section 3.1,
figure 2).

Notation: b batch, n length, e width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from tnn.network.glu import GLU, GLUv2
from tnn.network.gtu import GTUS
from tnn.network.norms import norm, pre_normed
from tnn.network.one_position import one_position


class _TokenMixer(nn.Module):
    """Holds the unit under the name that checkpoints use: self_attn.gtu."""

    def __init__(self, gtu):
        super().__init__()
        self.gtu = gtu


class TnnBlock(nn.Module):
    """x (b, n, e) -> (b, n, e).

    before (pre_norm):  x = x + drop(GTU(n1(x)));  x = x + drop(GLU(n2(x)))
    after:              x = n1(x + drop(GTU(x)));  x = n2(x + drop(GLU(x)))

    gtu_type 1, 2 (published) or 3; glu_type 1 (published) or 2; `gtu` are further arguments of the
    unit. Raises ValueError for other types.
    """

    def __init__(self, width: int, heads: int = 1, glu_dim: int | None = None,
                 pre_norm: bool = True, dropout: float = 0.0, norm_type: str = "simplermsnorm",
                 glu_act: str = "silu", fina_act: str = "None", glu_dropout: float = 0.0,
                 bias: bool = True, gtu_type: int = 2, glu_type: int = 1, **gtu):
        super().__init__()
        if gtu_type not in GTUS or glu_type not in (1, 2):
            raise ValueError(f"TnnBlock: gtu_type {gtu_type} is not 1, 2 or 3, or glu_type "
                             f"{glu_type} not 1 or 2")
        self.pre_norm, self.dropout = pre_norm, dropout
        self.self_attn = _TokenMixer(GTUS[gtu_type](width, heads, bias=bias, norm_type=norm_type,
                                                    **gtu))
        self.glu = (GLU if glu_type == 1 else GLUv2)(width, glu_dim or width, glu_act, fina_act,
                                                     glu_dropout, bias)
        self.self_attn_layer_norm = norm(norm_type, width)
        self.final_layer_norm = norm(norm_type, width)

    def forward(self, x: Tensor, padding: Tensor | None = None, memory=None) -> Tensor:
        """padding (b, n), where given, is true where a position must not reach the others; memory
        (recurrence.py) continues a sequence whose earlier positions it has seen."""
        mixers = (lambda y: self._dropped(self.self_attn.gtu(y, padding, memory)),
                  lambda y: self._dropped(self.glu(y)))
        norms = self.self_attn_layer_norm, self.final_layer_norm
        if self.pre_norm:
            y = memory and one_position(x, memory, (self.self_attn.gtu, self.glu), norms)
            return pre_normed(x, mixers, norms) if y is None else y
        for mixer, layer_norm in zip(mixers, norms, strict=True):
            x = layer_norm(x + mixer(x))
        return x

    def _dropped(self, y):
        return F.dropout(y, self.dropout, self.training)
