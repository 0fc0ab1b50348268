"""The position encoders of several Toeplitz operators computed as one.

An encoder is some ten small operations a stage, forward and backward; k encoders side by side are
as many. On a GPU each is a launch that costs more than what it computes. Batched products sum in
another order than single ones, so on a CPU each encoder is computed for itself.

Notation: k operators, L positions, m hidden width.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tnn.network.norms import SimpleRMSNorm
from tnn.network.rpe import Rpe
from tnn.network.tno import Tno
from tnn.network.toeplitz import HALF


@contextmanager
def encoders_together(operators: list[Tno], n: int) -> Iterator[None]:
    """In the block the operators, of one model and kind, have what their encoders say of a sequence
    of length n. Does nothing where they are better off alone."""
    if pays(operators):
        first = operators[0]
        counts = {operator.lags_that_count(n, torch.float32) for operator in operators}
        if len(counts) == 1:
            lags = first.lag_list(0, counts.pop(), first.rpe.pos_proj.weight.device)
            found = encoded([operator.rpe for operator in operators], first.positions(lags, n))
            for operator, r in zip(operators, found.unbind(0), strict=True):
                operator.given = r
    try:
        yield
    finally:
        for operator in operators:
            operator.given = None


def pays(operators: list[Tno]) -> bool:
    """On a GPU, in training, in float32 or with weights that are widened to it; with norms that
    have no parameters."""
    if len(operators) < 2 or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return all(p.is_cuda and p.dtype in (torch.float32, *HALF) for operator in operators
               for p in operator.rpe.parameters()) and all(
        isinstance(stage[0], SimpleRMSNorm) for operator in operators
        for stage in (*operator.rpe.layers, operator.rpe.out))


def encoded(encoders: list[Rpe], positions: Tensor) -> Tensor:
    """Encoders of the same sizes, positions (L, 1) -> (k, L, outdim)."""
    first = encoders[0]
    with torch.autocast(positions.device.type, enabled=False):
        x = stacked_linear([e.pos_proj for e in encoders],
                           positions.float().expand(len(encoders), -1, -1))
        for stages in zip(*(e.layers for e in encoders), strict=True):
            x = x + stacked_stage(stages, x) if first.residual else stacked_stage(stages, x)
        return stacked_stage([e.out for e in encoders], x)


def stacked_stage(stages, x: Tensor) -> Tensor:
    """norm, activation, Linear of k encoders: x (k, L, m) -> (k, L, m')."""
    norm, activation, _ = stages[0]
    return stacked_linear([stage[2] for stage in stages], activation(norm(x)))


def stacked_linear(linears: list[nn.Linear], x: Tensor) -> Tensor:
    """k linear maps at once, in float32 as an encoder alone: x (k, L, m) -> (k, L, m')."""
    weight = torch.stack([linear.weight for linear in linears]).float().mT
    if linears[0].bias is None:
        return torch.bmm(x, weight)
    bias = torch.stack([linear.bias for linear in linears]).float().unsqueeze(1)
    return torch.baddbmm(bias, x, weight)
