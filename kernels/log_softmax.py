"""log softmax that writes over its argument. Of a language model's update, the four arrays of
(positions, vocabulary) are the peak of its memory; two of them are not needed: a linear layer's
output, once its log softmax is there, and that, once its gradient is."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

aten = torch.ops.aten


def log_softmax_(logits: Tensor) -> Tensor:
    """log softmax over the last dimension, torch's bits in the memory of `logits` (..., V), if that
    is float32 or float64 on the CPU. Of anything else torch's own, new and in float32.

    As of any function in place, autograd refuses a leaf, and an earlier operation that needs the
    values of `logits`. The result holds its gradient once there was a backward pass, unless that
    keeps the graph.
    """
    if logits.device.type != "cpu" or logits.dtype not in (torch.float32, torch.float64):
        return F.log_softmax(logits, -1, dtype=torch.float32)
    return _LogSoftmaxInPlace.apply(logits)


class _LogSoftmaxInPlace(Function):
    """torch's kernels on the CPU sum a row, then write each element from the one in its place."""

    @staticmethod
    def forward(ctx, logits):
        aten._log_softmax.out(logits, -1, False, out=logits)
        ctx.mark_dirty(logits)
        ctx.save_for_backward(logits)
        return logits

    @staticmethod
    def backward(ctx, grad):
        (found,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph
            return grad - found.exp() * grad.sum(-1, keepdim=True)
        if torch._C._autograd._get_current_graph_task_keep_graph():
            return aten._log_softmax_backward_data(grad, found, -1, found.dtype)
        return aten._log_softmax_backward_data.out(grad, found, -1, found.dtype, out=found)
