"""A run's updates: gradients checked and clipped; and what is read of a GPU only now and then, for
each reading makes the host wait until the GPU has done all that it was asked so far.

Elsewhere everything is read at once. So the numbers are the same, and so is what is done with them,
in the same order; on a GPU it is done some updates later.
"""

import math
from argparse import Namespace
from collections.abc import Callable
from functools import cached_property
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from harness import machine
from harness.forecast import Forecast

# An optimiser that has one of these looks at its `found_inf`: torch's fused ones, and common.asgd's
MASKED = ("_step_supports_amp_scaling", "reads_found_inf")


def inner(optimizer) -> Any:
    """The optimiser itself, without Fabric's around it."""
    return getattr(optimizer, "optimizer", optimizer)


class Updates:
    """The part of Keeper that concerns numbers. It has `args`, `writes`, `run`, `fabric` and
    `waiting`."""

    args: Namespace
    writes: bool
    run: Any
    fabric: Fabric
    waiting: "Waiting"

    def later(self, then: Callable, *values: Tensor, over: str = "mean") -> None:
        """Calls `then` with the values, of any shape, as numbers: at once, or on a GPU when it is
        read next (settle). over: the `mean` or `sum` over the processes, or `own`."""
        self.waiting.add(then, *values, over=over)

    def settle(self) -> None:
        """Reads what the GPU has been asked for: before a report, a file, an evaluation. Raises
        FloatingPointError if an update was left out for its loss or gradient."""
        self.waiting.read()

    def gradient_norm(self, module: nn.Module, loss: Tensor | float) -> Tensor:
        """The norm of all gradients. Raises FloatingPointError, before the update, if it or the
        loss is not finite. On a GPU `step` leaves the update out, and settle raises the error."""
        p = self.run.progress
        where = f"epoch {p.epoch}, step {p.step}"
        if self.waiting.deferred and isinstance(loss, Tensor):
            return self.waiting.check(module, loss, where)
        return machine.gradient_norm(self.fabric, module, loss, where)

    def clip_gradients(self, module: nn.Module, loss: Tensor | float, most: float,
                       optimizer=None) -> None:
        """Scales all gradients of `module` so that their norm is at most `most` (0 or less: leaves
        them as they are). optimizer: needed with 16-mixed. Raises FloatingPointError like
        gradient_norm."""
        norm = self.gradient_norm(module, loss)
        if most > 0 and (scaler := machine.scaler_of(self.fabric)) is not None:
            # Not by Fabric, which refuses a fused optimiser here; torch's scaler does not.
            scaler.unscale_(inner(optimizer))
            norm = torch.nn.utils.get_total_norm(
                [p.grad for p in module.parameters() if p.grad is not None])
        if most > 0:
            torch.nn.utils.clip_grads_with_norm_(module.parameters(), most, norm)

    def step(self, optimizer) -> None:
        """The update, unless its loss or gradient, or that of one before, was not finite."""
        self.waiting.step(optimizer)
        if self.writes and self.fabric.is_global_zero:
            self.forecast.update(self.run)

    def check_finite(self, loss: float, what: str = "the validation loss") -> float:
        """Returns `loss`. Raises FloatingPointError if it is no number or infinite."""
        self.settle()
        if not math.isfinite(loss):
            p = self.run.progress
            raise FloatingPointError(
                f"{what} is {loss} at epoch {p.epoch}, step {p.step}. Files written so far are "
                "good; a smaller --lr may help")
        return loss

    @cached_property
    def forecast(self) -> Forecast:
        """Says how long the run will take."""
        return Forecast(self.args, self.fabric.device)


class Waiting:
    """Numbers that wait to be read, and the flag that stops updates until they are.

    Attributes:
        deferred: is this a GPU?
        updates: how many have been checked since the last reading.
    """

    def __init__(self, fabric: Fabric):
        self.fabric, self.updates = fabric, 0
        self.deferred = fabric.device.type == "cuda"
        self._entries: list[tuple[Callable, list[Tensor], str]] = []
        self._found_inf: Tensor | None = None   # 1 from the first loss or norm that is not finite
        self._one: Tensor | None = None

    def add(self, then: Callable, *values: Tensor, over: str = "mean") -> None:
        """Calls `then` with the values as numbers: now, or on a GPU in `read`. over: they are the
        mean or the sum over the processes, or `own`, those of this one."""
        values = tuple(value.detach() for value in values)
        if self.deferred:
            self._entries.append((then, list(values), over))
        else:
            then(*self._now(values, over))

    def _now(self, values: tuple[Tensor, ...], over: str) -> list[float]:
        if over == "mean":
            return [machine.mean(self.fabric, value) for value in values]
        if over == "sum" and self.fabric.world_size > 1:
            values = tuple(self.fabric.all_reduce(value, reduce_op="sum") for value in values)
        return [value.item() for value in values]

    def read(self) -> None:
        """Reads all that waits, in one transfer, and does what was to be done with it. All
        processes call it at the same place."""
        entries, self._entries, self.updates = self._entries, [], 0
        if not entries:
            return
        numbers = iter(self._numbers(entries))
        for then, values, _ in entries:
            then(*islice(numbers, sum(value.numel() for value in values)))

    def _numbers(self, entries: list) -> list[float]:
        """In order, as float64, which holds all of them exactly."""
        parts = [(value.reshape(-1), over) for _, values, over in entries for value in values]
        kinds = list(dict.fromkeys((part.dtype, over) for part, over in parts))
        found = {kind: self._reduced(torch.cat([part for part, over in parts
                                                if (part.dtype, over) == kind]).double(), kind[1])
                 for kind in kinds}
        numbers = torch.cat([found[kind] for kind in kinds]).tolist()
        starts, at = {}, 0
        for kind in kinds:
            starts[kind], at = at, at + len(found[kind])
        ordered = []
        for part, over in parts:
            start = starts[part.dtype, over]
            ordered += numbers[start:start + len(part)]
            starts[part.dtype, over] = start + len(part)
        return ordered

    def _reduced(self, numbers: Tensor, over: str) -> Tensor:
        if over != "own" and self.fabric.world_size > 1:
            dist.all_reduce(numbers)
            if over == "mean":
                numbers /= self.fabric.world_size
        return numbers

    # ---------------------------------------------------------------------------- updates
    def check(self, module: nn.Module, loss: Tensor, where: str) -> Tensor:
        """The norm of all gradients of `module`. If it or the loss is not finite, no `step` from
        now on changes a weight, and `read` raises FloatingPointError."""
        named = [(name, p.grad) for name, p in module.named_parameters() if p.grad is not None]
        loss, self.updates = loss.detach(), self.updates + 1
        if machine.scaler_of(self.fabric) is not None or not named:
            # The scaler leaves out updates whose gradients overflow, which those of a bad loss do.
            self.add(lambda loss: machine.refuse_not_finite(loss, 0.0, [], where), loss)
            return torch.zeros_like(loss)
        names, grads = zip(*named, strict=True)
        found = torch._foreach_norm(grads)
        norms = torch.stack([norm.to(found[0].dtype) for norm in found])
        norm = torch.linalg.vector_norm(norms)
        if self._found_inf is None or self._one is None:
            # Without dimensions: fused Adam subtracts it from each parameter's count of steps.
            self._found_inf = torch.zeros((), device=loss.device)
            self._one = torch.ones((), device=loss.device)
        torch._amp_foreach_non_finite_check_and_unscale_([norm + loss], self._found_inf, self._one)
        self.add(lambda loss, norm, *norms: machine.refuse_not_finite(
            loss, norm, zip(names, norms, strict=True), where), loss, norm, norms)
        return norm

    def step(self, optimizer) -> None:
        """optimizer.step(), masked on a GPU: one of torch's fused optimisers, or common.asgd's,
        looks at the flag itself. For any other the host waits."""
        own = inner(optimizer)
        if not self.deferred or self._found_inf is None:
            optimizer.step()
        elif any(getattr(own, name, False) for name in MASKED):
            own.grad_scale, own.found_inf = None, self._found_inf
            try:
                optimizer.step()
            finally:
                del own.grad_scale, own.found_inf
        else:
            self.read()
            optimizer.step()
