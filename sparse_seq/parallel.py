"""The blocks of sparse layers on several processes or devices (torch.distributed), exactly.

    dist.init_process_group("gloo")                 # or nccl, one device per process
    distribute(model)                               # every SparseLSTM in it; in place
    loss.backward()
    clip_grad_norm_(model, 0.25)
    optimizer.step()                                # made after distribute()
    dist.destroy_process_group()                    # at the end: see harness/processes.py

Block number m of every layer lives on process m mod n: its weights, gradients, optimizer state and
activations exist only there, which is what makes room for layers that no single device could hold.
Everything else of the model is computed by all processes alike, on the same batch. Per layer,
forward, each process sends its blocks' outputs to the others; backward, the gradients of the
layer's input are summed over the processes. The recurrent weights need no exchange at all.

The numbers are those of one process: the same seed draws the same masks, and only the order in
which a few terms are summed differs.

Notation: T time, B batch, I input size, H hidden size, D directions; h, c hidden and cell states.
"""

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before there is a group: see harness/processes.py
from torch import Tensor, nn
from torch.autograd.function import Function

from common.dropout import dropout_mask
from kernels.second_derivatives import refuse_second_derivative
from sparse_seq.blocks import States, lstm
from sparse_seq.rnn import Composition, SparseLSTM

__all__ = ["ParallelSparseLSTM", "clip_grad_norm_", "distribute", "full_state_dict"]


class _ReadByAll(Function):
    """Every process reads the whole of x, h and c; their gradients are the sums of what the
    processes find. One function for all three: were they three, autograd might run their backward
    passes in another order on each process, and the sums would wait for one another for ever."""

    @staticmethod
    def forward(ctx, group, *tensors):
        ctx.group = group
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx, *grads):
        refuse_second_derivative("a sum over processes")
        sums = [grad.contiguous().clone() for grad in grads]
        for grad in sums:
            dist.all_reduce(grad, group=ctx.group)
        return None, *sums


class _Exchange(Function):
    """Own columns (..., own) -> everyone's, in order of process (..., all). All processes then
    compute the same, so each has the whole gradient and takes its own columns: no sum is needed."""

    @staticmethod
    def forward(ctx, own, widths, group):
        rank = dist.get_rank(group)
        ctx.own = slice(sum(widths[:rank]), sum(widths[:rank + 1]))
        parts = []
        for source, width in enumerate(widths):
            part = (own.contiguous() if source == rank
                    else own.new_empty(*own.shape[:-1], width))
            dist.broadcast(part, dist.get_global_rank(group, source), group=group)
            parts.append(part)
        return torch.cat(parts, -1)

    @staticmethod
    def backward(ctx, grad):
        refuse_second_derivative("an exchange between processes")
        return grad[..., ctx.own].contiguous(), None, None


class ParallelSparseLSTM(nn.Module):
    """A SparseLSTM of which this process holds every n-th block; shapes as SparseLSTM.

    Parameter names are the original's, LSTMs.{number}...., for the blocks that are here; together
    the processes' state_dicts are the layer's.

    Args:
        layer: the whole layer, equal on all processes; its blocks of other processes are let go.
        group: the processes (default: all).
    """

    def __init__(self, layer: SparseLSTM, group: dist.ProcessGroup | None = None):
        super().__init__()
        self.group = group or dist.group.WORLD
        self.processes, rank = dist.get_world_size(self.group), dist.get_rank(self.group)
        self.composition: Composition = layer.composition
        self.wdrop, self.bidirectional = layer.wdrop, layer.bidirectional
        self.own = list(range(rank, self.composition.blocks, self.processes))
        self._layer = [layer]  # in a list, so that its parameters are not ours
        self.LSTMs = nn.ModuleDict({str(number): layer.LSTMs[number] for number in self.own})
        for number in range(self.composition.blocks):
            if number not in self.own:
                layer.LSTMs[number] = nn.Identity()

    def forward(self, input: Tensor, hidden: States | None = None) -> tuple[Tensor, States]:
        """As SparseLSTM: input (T, B, I), hidden (h, c) each (D, B, H), zeros if left out ->
        output (T, B, D*H), (h, c)."""
        x, h, c = _ReadByAll.apply(self.group, input, *self._layer[0].checked(input, hidden))
        results = []
        for number, ((i0, i1), (o0, o1)) in enumerate(self.composition.ranges):
            if number not in self.own:
                self._skip_mask(o1 - o0, input)
                continue
            states = (h[..., o0:o1].contiguous(), c[..., o0:o1].contiguous())
            results.append(lstm(x[..., i0:i1], states, self._weights(number)))
        # A process without a block adds nothing, but its graph must reach x, h and c too: the other
        # processes wait for it in the backward pass of _ReadByAll.
        nothing = (x[..., :0], h[..., :0], c[..., :0])
        y, hn, cn = (torch.cat(each, -1) for each in zip(nothing, *results, strict=True))
        return self._in_order(y, len(h)), (self._in_order(hn, 1), self._in_order(cn, 1))

    def _weights(self, number: int) -> list[Tensor]:
        return self._layer[0].train(self.training).block_weights(number)

    def _skip_mask(self, size: int, like: Tensor) -> None:
        """Draws another process's mask, so that all random streams stay together."""
        if self.wdrop and self.training:
            dropout_mask(like, (4 * size, size), self.wdrop)

    def _in_order(self, own: Tensor, per_unit: int) -> Tensor:
        """Everyone's columns (..., all), put from order of process into order of block."""
        n = self.processes
        sizes = [per_unit * (o1 - o0) for o0, o1 in self.composition.outputs]
        order = [number for rank in range(n) for number in range(rank, len(sizes), n)]
        widths = [sum(sizes[rank::n]) for rank in range(n)]
        parts = _Exchange.apply(own, widths, self.group).split(
            [sizes[number] for number in order], -1)
        return torch.cat([parts[order.index(number)] for number in range(len(sizes))], -1)


def distribute(model: nn.Module, group: dist.ProcessGroup | None = None) -> nn.Module:
    """Replaces every SparseLSTM in `model` by its ParallelSparseLSTM, in place; returns it."""
    if isinstance(model, SparseLSTM):
        return ParallelSparseLSTM(model, group)
    for name, child in model.named_children():
        setattr(model, name, distribute(child, group))
    return model


def _own_parameters(model: nn.Module) -> list[nn.Parameter]:
    return [p for module in model.modules() if isinstance(module, ParallelSparseLSTM)
            for p in module.parameters()]


@torch.no_grad()
def clip_grad_norm_(model: nn.Module, max_norm: float,
                    group: dist.ProcessGroup | None = None) -> Tensor:
    """torch.nn.utils.clip_grad_norm_ over the whole model, wherever its parts are."""
    own = _own_parameters(model)
    here = {id(p) for p in own}
    shared = [p for p in model.parameters() if id(p) not in here]
    squares = [sum((p.grad.pow(2).sum() for p in part if p.grad is not None), torch.zeros(()))
               for part in (own, shared)]
    away = squares[0].to(next(model.parameters()).device)
    dist.all_reduce(away, group=group)
    norm = (away + squares[1]).sqrt()
    torch.nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, norm)
    return norm


def full_state_dict(model: nn.Module, group: dist.ProcessGroup | None = None) -> dict[str, Tensor]:
    """The state_dict of the whole model, on every process, under the original's names."""
    parts: list[dict] = [{}] * dist.get_world_size(group)
    dist.all_gather_object(parts, {k: v.cpu() for k, v in model.state_dict().items()}, group=group)
    return {key: value for part in parts for key, value in part.items()}
