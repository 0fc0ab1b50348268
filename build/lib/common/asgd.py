"""Averaged SGD with the non-monotone trigger (NT-ASGD; Merity et al. 2017, section 5, Algorithm 1).

Typical use: train with plain SGD; after each epoch, when `non_monotone(history, n, valid_loss)`,
go on with `ASGD(params, lr)`; evaluate inside `with averaged(optimizer):`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


def non_monotone(history: Sequence[float], n: int, value: float) -> bool:
    """Has validation stopped improving? True if `value` is worse than the best of all but the last
    `n` entries of `history` (the trigger of Algorithm 1; `value` itself is appended afterwards).

    With n = 0 the comparison is with the whole history.
    """
    return len(history) > n and value > min(history[: len(history) - n])


class ASGD(torch.optim.Optimizer):
    """SGD that also keeps the running average `ax` of its iterates.

    The numbers are those of torch.optim.ASGD(lr, t0, lambd=0, weight_decay), in three fused passes
    over the parameters and with plain floats for step, eta and mu. Two of its habits matter:
    - the step size lags: step s uses the lr that the group had at step s-1 (the first its own), so
      a learning rate rescaled per batch acts one batch late;
    - with t0 = 0 the average is that of the iterates 2..s (after the second step it is a copy).

    Args:
        params: parameters or parameter groups.
        lr: learning rate (> 0).
        t0: number of steps after which averaging starts.
        weight_decay: L2 penalty added to the gradient.

    On a GPU, where `found_inf` (a tensor) is set, a step leaves the parameters alone if it is 1.

    State per parameter: step (int), eta (float), mu (float), ax (tensor like the parameter).
    """

    reads_found_inf = True
    found_inf: torch.Tensor | None = None

    def __init__(self, params, lr: float = 1e-2, t0: float = 0, weight_decay: float = 0):
        if lr <= 0 or weight_decay < 0:
            raise ValueError(f"need lr > 0 and weight_decay >= 0, got {lr} and {weight_decay}")
        super().__init__(params, {"lr": lr, "t0": t0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter that has a gradient. Returns the closure's loss, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if not self.state[p]:
                    self.state[p].update(step=0, eta=group["lr"], mu=1.0, ax=torch.zeros_like(p))
            # Parameters that have seen the same number of steps move together (nearly always: all).
            for same in _by_eta_and_mu(params, self.state):
                self._update(same, group)
        return loss

    def _update(self, params: list[torch.Tensor], group: dict) -> None:
        eta, mu = self.state[params[0]]["eta"], self.state[params[0]]["mu"]
        grads = [p.grad for p in params if p.grad is not None]
        if self.found_inf is not None:
            torch._fused_sgd_(params, grads, [], weight_decay=group["weight_decay"], momentum=0.0,
                              lr=eta, dampening=0.0, nesterov=False, maximize=False,
                              is_first_step=False, found_inf=self.found_inf)
        else:
            if group["weight_decay"]:
                grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
            torch._foreach_add_(params, grads, alpha=-eta)
        torch._foreach_lerp_([self.state[p]["ax"] for p in params], params, mu)
        for p in params:
            state = self.state[p]
            state["step"] += 1
            state["eta"] = group["lr"]
            state["mu"] = 1 / max(1, state["step"] - group["t0"])


def _by_eta_and_mu(params, state) -> list[list[torch.Tensor]]:
    groups: dict[tuple, list] = {}
    for p in params:
        key = (state[p]["eta"], state[p]["mu"], p.device, p.dtype)
        groups.setdefault(key, []).append(p)
    return list(groups.values())


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Inside the block every parameter of `optimizer` holds its ASGD average; afterwards, however
    the block ends, its own value again.

    Only references are exchanged, nothing is copied. A parameter that has not been stepped yet has
    no average and keeps its value.
    """
    pairs = [(p, optimizer.state[p]["ax"]) for group in optimizer.param_groups
             for p in group["params"] if "ax" in optimizer.state.get(p, {})]
    own = [p.data for p, _ in pairs]
    try:
        for p, ax in pairs:
            p.data = ax
        yield
    finally:
        for (p, _), data in zip(pairs, own, strict=True):
            p.data = data
