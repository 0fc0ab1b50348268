"""One more position of a whole layer in two compiled calls (kernels/gated_step.py), where the layer
is the published one: SimpleRMSNorm before, silu, no further norm or dropout."""

import torch.nn.functional as F
from torch import Tensor, nn

from kernels.gated_step import Recurrence, gated_steps, has_kernel, weights_of
from tnn.network.activations import identity
from tnn.network.glu import GLU
from tnn.network.gtu import Gtu
from tnn.network.norms import EPS, SimpleRMSNorm


def one_position(x: Tensor, memory, mixers: tuple[nn.Module, nn.Module],
                 norms: tuple[nn.Module, nn.Module]) -> Tensor | None:
    """x (b, 1, e), the position that follows those that memory (recurrence.py) has seen -> what
    norms.pre_normed makes of it; None where it is to do so itself."""
    gtu, glu = mixers
    if (memory.block is None or x.shape[1] != 1 or gtu.training
            or not (type(gtu) is Gtu and type(glu) is GLU and type(norms[0]) is SimpleRMSNorm
                    and type(norms[1]) is SimpleRMSNorm)
            or gtu.act is not F.silu or gtu.norm is not None or gtu.normalize
            or glu.act is not F.silu or glu.fina_act is not identity):
        return None
    token, channel = weights_of(gtu.u_proj, gtu.v_proj, gtu.o), weights_of(glu.l1, glu.l2, glu.l3)
    if (memory.block.shape[::2] != (x.shape[0], token[0].shape[0])
            or not has_kernel(x, (token, channel), (memory.block, memory.turned))):
        return None
    first, i = memory.advance()
    past = Recurrence(memory.block, memory.before, memory.turned, first, i)
    return gated_steps(x, EPS, ((token, past), (channel, None)))
