"""The levels of a TrellisNet (Bai et al. 2019, sec. 4) as one differentiable operation.

Forward. Every level applies the same weights to the input x and to the level below it:

    a(t) = sum_j W1_j x(t - (k-1-j) d) + sum_j W2_j [m * h'(t - (k-1-j) d)] + b
    i, o, g, f = the four H rows of a(t), through sigmoid, sigmoid, tanh, sigmoid
    c(t) = f * c'(t - d) + i * g                        h(t) = o * tanh(c(t))

h', c' belong to the level below. Left of time 0, x is zero, and h' and c' are h0 and c0 at every
level; under the first level they are zero from time 0 on.

Backward. Write Dy for the gradient of the loss with respect to y. A level is given Dh(t), Dc(t),
what the level above and the outputs say about its h and c, and passes on:

    Dc(t) += Dh(t) * o * (1 - tanh(c)^2)                                     (h reads c)
    Da(t)  = [Dc * g * i(1-i),   Dh * tanh(c) * o(1-o),   Dc * i * (1-g^2),   Dc * c'(t-d) * f(1-f)]

    Dc'(t - d)  = f * Dc(t)                                 where t < d:  Dc0 += f * Dc(t)
    Dh'(s)      = m * sum_j W2_j^T Da(s + (k-1-j) d)        where s < 0:  Dh0 += ...
    DW2_j      += sum_t Da(t) [m * h'(t - (k-1-j) d)]^T
    Db         += sum_t Da(t)
    DW1_j      += sum_t S(t) x(t - (k-1-j) d)^T             S = sum of Da over the levels of one d
    Dx(s)      += sum_j W1_j^T S(s + (k-1-j) d)

What makes it fast, each of it exact:

- Time comes first in memory, so that a tap is one matrix product on a shifted view of the rows
  (time * batch), without the copies of a general convolution (dilated_products.py).
- A level computes only the positions that a wanted output can see (level_plan.py).
- The input's part of a is computed once for all levels of one dilation, the bias with it; backward,
  the levels' Da are summed to S first, so that W1 and x take part in one product per dilation.
- W2_j h0 is the same product at every position and level: N rows, once; and so is its gradient.
- One backward for all levels adds each level's DW2 into one buffer. It keeps the gates and c. It
  makes h again from them, at the moment when Da needs tanh(c) anyway.
  On the CPU a program should keep freed memory: with glibc's a step takes 1.4 times as long.

Notation: L time steps, N batch, E input channels, H hidden channels, k taps of the kernel, d
dilation of a level, j a tap, m the mask. Arrays are (time, batch, channels).
"""

import torch
from torch import Tensor
from torch.autograd.function import Function

from kernels.second_derivatives import plain_gradients
from trellisnet.gates import gates_backward, gates_forward
from trellisnet.level_passes import Backward, Forward, How
from trellisnet.level_plan import Plan, first_positions
from trellisnet.levels_plain import trellis_plain


def trellis_levels(x: Tensor, weight1: Tensor, weight2: Tensor, bias: Tensor, h0: Tensor,
                   c0: Tensor, mask: Tensor | None, dilations: tuple, nout: int, start: int = 0,
                   aux_levels: tuple = (), *, checkpoint: int = 0, fir: bool = False, fuse=None
                   ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All levels; everything but the mask may need gradients.

    Args:
        x: input (L, N, E).
        weight1, weight2: (4H, E, k) and (4H, H, k); tap k-1 is the current step. Fastest if
            weight.permute(2, 0, 1) is contiguous.
        bias: (4H,). Its rows, and those of the weights, belong to i, o, g, f.
        h0, c0: (N, H), the state that stands left of time 0 at every level.
        mask: (N, H) dropout mask, already scaled, on what enters the hidden product; or None.
        dilations: the dilation of each level, from the first to the top.
        nout: number of last channels of h that are the output.
        start: first position of the outputs that is wanted.
        aux_levels: levels (from 0) whose outputs are wanted too.
        checkpoint: if K > 0, keep for backward only every K-th level and recompute the others.
        fir: three products in place of four (k = 2 only), see dilated_products.py.
        fuse: the gates' functions, forward and backward, such as compiled_gates(); None: eager.

    Returns:
        output of the top level (L-start, N, nout), outputs of `aux_levels` (their number, L-start,
        N, nout), and h and c (N, H) of the top level at the last step.

    Under autocast the products are in its dtype; gates, cell and sums stay in float32. Second
    derivatives are those of `trellis_plain`. ValueError for `fir` with another kernel size than 2.
    """
    if torch.compiler.is_compiling():  # packed weights cannot be traced; to compile there is fuse
        return torch.compiler.disable(trellis_levels)(
            x, weight1, weight2, bias, h0, c0, mask, dilations, nout, start, aux_levels,
            checkpoint=checkpoint, fir=fir, fuse=fuse)
    kernel = weight2.shape[2]
    if fir and kernel != 2:
        raise ValueError(f"fir needs a kernel of 2 taps, not {kernel}")
    plan = Plan(len(x), kernel, tuple(dilations), first_positions(len(x), start, dilations, kernel),
                start, tuple(aux_levels), checkpoint)
    device = x.device.type
    autocast = torch.is_autocast_enabled(device)
    given = (x, weight1, weight2, bias, h0, c0)
    how = How(torch.get_autocast_dtype(device) if autocast else x.dtype, fir,
              *(fuse or (gates_forward, gates_backward)), nout,
              torch.is_grad_enabled() and any(t.requires_grad for t in given))
    if autocast:
        given = tuple(t.float() for t in given)
        mask = mask if mask is None else mask.float()
    with torch.autocast(device, enabled=False):
        return _AllLevels.apply(*given, mask, plan, how)


class _AllLevels(Function):
    @staticmethod
    def forward(ctx, x, weight1, weight2, bias, h0, c0, mask, plan, how):
        run = Forward(x, weight1, weight2, bias, h0, c0, mask, plan, how)
        kept, outputs = [], {}

        def visit(level, gates, c, h):
            if how.will_backward and not plan.checkpoint:
                kept.extend((gates, c))
            if plan.is_output(level):
                outputs[level] = h[plan.start - plan.starts[level]:, :, h.shape[2] - how.nout:]
                outputs["last"] = h[-1]

        h = c = None
        for levels in plan.groups():
            if how.will_backward and plan.checkpoint and h is not None:
                kept.extend((h, c))
            h, c = run.run(levels, h, c, visit)
        ctx.save_for_backward(x, weight1, weight2, bias, h0, c0, mask, *kept)
        ctx.plan, ctx.how, top = plan, how, outputs[plan.top]
        ctx.set_materialize_grads(False)
        aux = torch.stack([outputs[level] for level in plan.aux_levels]) if plan.aux_levels \
            else top.new_empty(0, *top.shape)
        return top.clone(), aux, outputs["last"].clone(), c[-1].clone()

    @staticmethod
    def backward(ctx, *output_grads):
        given, kept = ctx.saved_tensors[:7], ctx.saved_tensors[7:]
        with torch.autocast(given[0].device.type, enabled=False):
            if torch.is_grad_enabled():  # create_graph=True: what follows leaves no graph
                rest = ctx.plan.dilations, ctx.how.nout, ctx.plan.start, ctx.plan.aux_levels
                return *plain_gradients(lambda *g: trellis_plain(*g, *rest), given, output_grads), \
                    None, None
            forward = Forward(*given, ctx.plan, ctx.how)
            run = Backward(forward, given, output_grads, ctx.needs_input_grad)
            return *run.all_levels(kept), None, None, None
