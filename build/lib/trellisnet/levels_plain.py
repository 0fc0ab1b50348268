"""The levels of a TrellisNet as the equations of trellisnet.py stand: the reference for the fast
forms in levels.py and last_output.py, and what they are differentiated twice through."""

import torch
import torch.nn.functional as F
from torch import Tensor


def trellis_plain(x: Tensor, weight1: Tensor, weight2: Tensor, bias: Tensor, h0: Tensor, c0: Tensor,
                  mask: Tensor | None, dilations: tuple[int, ...], nout: int, start: int = 0,
                  aux_levels: tuple[int, ...] = ()) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every position of every level, with the arguments and results of `trellis_levels`."""
    k = weight1.shape[-1]
    x, h0, c0 = x.permute(1, 2, 0), h0.unsqueeze(-1), c0.unsqueeze(-1)  # (N, E, L), (N, H, 1)
    steps = x.shape[-1]
    m = 1 if mask is None else mask.unsqueeze(-1)
    h = c = h0.new_zeros(*h0.shape[:2], steps)
    aux = []
    for level, d in enumerate(dilations):
        past = (k - 1) * d
        padded = torch.cat([h0.expand(-1, -1, past), h], -1)             # (N, H, past + L)
        a = (F.conv1d(F.pad(x, (past, 0)), weight1, bias, dilation=d)
             + F.conv1d(m * padded, weight2, dilation=d))                # (N, 4H, L)
        i, o, g, f = a.chunk(4, dim=1)
        delayed = torch.cat([c0.expand(-1, -1, d), c], -1)[..., :steps]  # c'(t - d)
        c = f.sigmoid() * delayed + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        if level in aux_levels:
            aux.append(h)

    def outputs(h: Tensor) -> Tensor:
        return h[:, -nout:, start:].permute(2, 0, 1)                     # (L - start, N, nout)

    empty = x.new_zeros(0, steps - start, len(h0), nout)
    return (outputs(h), torch.stack([outputs(a) for a in aux]) if aux else empty,
            h[..., -1], c[..., -1])
