"""Values that follow from a module's weights alone, computed once and kept while they hold.

In evaluation every batch asks an operator for the same coefficients. To compute them is to run
the position encoder over all lags and to transform the result: three quarters of the operator's
work for one sequence of 512 positions, a sixth for eight of them. What is kept costs memory: a
spectrum of E (N / 2 + 1) complex numbers, N the transforms' length (6 MB for the published layer
at 512 positions, 61 MB at 8192), and a decay (3 and 12 MB); of one length only, the last.

A kept value is used only while all of these hold, and none of them alone is enough:

- nobody has called eval(), load_state_dict(), to(), or in evaluation train() on the module
  (KeepingModule); training loops call train() before each update, and what is kept in training
  follows from frozen weights;
- the weights are the same tensors in the same version: whatever writes to a tensor in place
  raises its version, but for the next kind;
- no optimiser has made a step. torch's fused ones (AdamW(fused=True)) write without raising the
  version, and a model that is fine-tuned in evaluation mode sees no train() between its steps;
- on a CPU, the weights hold the same bytes: a write through `.data` (an average of the weights put
  in their place) or through NumPy raises no version either. A CRC of them takes 0.2 ms, a
  three-hundredth of the published layer's work on one sequence of 512 positions.

On a GPU, where to look at the weights would make the host wait, a write through `.data` is seen by
none of them: call eval() after it.

While a CUDA graph is being recorded nothing but plain numbers is kept: a graph goes on to read
where a tensor was. (To look at a number stops a GPU, which a recording cannot.)
"""

import zlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

_steps_made = 0  # by all optimisers of this process


def _count_step(optimizer, args, kwargs):
    global _steps_made
    _steps_made += 1


register_optimizer_step_post_hook(_count_step)


class Kept:
    """The last value under each name. Copies and pickles of it start empty."""

    def __init__(self):
        self._values: dict[str, tuple[tuple, Any]] = {}

    def get(self, name: str, key: Any, weights: Iterable[Tensor], make: Callable[[], Any]) -> Any:
        """make(), or what it gave for the same `key` while the weights have not changed."""
        # What was made in inference mode cannot take part in a backward pass.
        state = (key, torch.is_inference_mode_enabled(), *map(_state, weights))
        found = self._values.get(name)  # read once: replicas in other threads may write
        if _recording() and not (found and isinstance(found[1], (int, float))):
            return make()
        if found is None or found[0] != state:
            found = self._values[name] = state, make()
        return found[1]

    def forget(self) -> None:
        self._values.clear()

    def __reduce__(self):
        return Kept, ()


def _recording():
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _state(weight):
    """What changes when the weight may have. Frozen ones take no part in an optimiser's step."""
    version = 0 if weight.is_inference() else weight._version  # inference tensors have none
    steps = _steps_made if weight.requires_grad else 0
    return weight.data_ptr(), version, steps, _checksum(weight)


def _checksum(weight):
    """Of a CPU's memory; 0 on another device."""
    if weight.device.type != "cpu":
        return 0
    return zlib.crc32(weight.detach().contiguous().flatten().view(torch.uint8).numpy())


class KeepingModule(nn.Module):
    """A module with `kept`, which forgets whenever it is told to change."""

    def __init__(self):
        super().__init__()
        self.kept = Kept()

    def train(self, mode: bool = True):
        if not (mode and self.training):
            self.kept.forget()
        return super().train(mode)

    def _load_from_state_dict(self, *args, **kwargs):
        self.kept.forget()
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, fn, *args, **kwargs):
        self.kept.forget()  # .half().float() may end at the same address with other numbers
        return super()._apply(fn, *args, **kwargs)
