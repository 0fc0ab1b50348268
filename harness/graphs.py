"""CUDA graphs: what a function launches on a GPU is recorded once for each shape of its arguments
and from then on launched as one. An update of thousands of small operations then costs the host
one launch.

    gradients = Graphed(forward_and_backward, model, wanted(args, fabric, say), trains=True)
    loss, = gradients(x, y)          the gradients are in the parameters, as without graphs

A recording replays launches, nothing else: the Python code runs no more, and what it read then,
numbers among them, stays as it was. So the function must ask the GPU for nothing, and must get what
changes as tensors, which are copied to where the recording reads them.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from harness.endings import BadInput

WARM_UP = 3  # calls before a recording: kernels are compiled, libraries choose their algorithms
MOST = 8     # recordings of one function: each keeps the memory of a call


def wanted(args: Namespace, fabric: Fabric, say: Callable[[str], None]) -> bool:
    """Does --cuda-graphs have an effect here? Where it has none, a line says so."""
    if not getattr(args, "cuda_graphs", False):
        return False
    if fabric.device.type != "cuda":
        say("--cuda-graphs: no effect without CUDA")
        return False
    return True


def check_recordable(splits: Sequence, remedy: str = "leave it out") -> None:
    """A split softmax cannot be recorded. Raises BadInput."""
    if splits:
        raise BadInput("--cuda-graphs: how many words of a batch lie in each part of the split "
                       f"softmax is read from the GPU, which a recording cannot: {remedy}")


class Graphed:
    """`function`, with the same results and random numbers, replayed where that is possible.

    Its arguments are tensors and plain values, its results a tuple of tensors without a history.
    Arguments are equal to those of a recording if the tensors have the same shapes and types and
    the values are the same. They are recorded when they come twice in a row: the last batch of an
    epoch, or texts of all lengths, are computed operation by operation.

    Args:
        module: what the function computes with. Its buffers may change in a call.
        on: False calls the function.
        trains: a call ends with the gradients in the module's parameters, which have none before.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], module: nn.Module, on: bool,
                 trains: bool = False):
        self.function, self.module, self.on, self.trains = function, module, on, trains
        self._recordings: dict[tuple, _Recording] = {}
        self._last: tuple | None = None
        self._tensors: list[Tensor] = []

    def __call__(self, *arguments: Any) -> tuple[Tensor, ...]:
        """Raises BadInput if the function cannot be recorded."""
        if not self.on:
            return self.function(*arguments)
        key = self._key(arguments)
        twice, self._last = key == self._last, key
        if key not in self._recordings:
            if not twice or len(self._recordings) == MOST:
                return self.function(*arguments)
            self._recordings[key] = _Recording(self, arguments)
        return self._recordings[key].replay(arguments)

    def _key(self, arguments: tuple) -> tuple:
        """All that a recording depends on, besides what the tensors hold. Weights may have been
        exchanged for others (averages): a recording reads the memory where they were."""
        if not self._tensors:
            self._tensors = [*self.module.parameters(), *self.module.buffers()]
        kinds = tuple((value.shape, value.stride(), value.dtype) if isinstance(value, Tensor)
                      else value for value in arguments)
        return (kinds, self.module.training, torch.is_grad_enabled(),
                tuple(tensor.untyped_storage().data_ptr() for tensor in self._tensors))


class _Recording:
    """One graph, and the memory that it reads its arguments from and writes its results to."""

    def __init__(self, of: Graphed, arguments: tuple):
        self.parameters = list(of.module.parameters()) if of.trains else []
        self.arguments = [torch.empty_like(value).copy_(value) if isinstance(value, Tensor)
                          else value for value in arguments]
        self.inputs = [value for value in self.arguments if isinstance(value, Tensor)]
        # What autocast keeps of an earlier call lies where a replay would not find it.
        torch.clear_autocast_cache()
        with _undone(of.module):
            self._warm_up(of.function)
        self.graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: threads that pin memory for the next batches may go on.
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.outputs = of.function(*self.arguments)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise BadInput(f"--cuda-graphs: this run cannot be recorded ({reason}): leave the flag "
                           "out") from error
        torch.clear_autocast_cache()
        self.gradients = [parameter.grad for parameter in self.parameters]

    def _warm_up(self, function: Callable) -> None:
        """On a stream of its own, as torch.cuda.graph asks for."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function(*self.arguments)
                for parameter in self.parameters:
                    parameter.grad = None
        torch.cuda.current_stream().wait_stream(stream)
        torch.clear_autocast_cache()

    def replay(self, arguments: tuple) -> tuple[Tensor, ...]:
        """The results are copies: the next replay writes to the same memory."""
        given = [value for value in arguments if isinstance(value, Tensor)]
        for into, value in zip(self.inputs, given, strict=True):
            into.copy_(value)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return tuple(output.clone() for output in self.outputs)


@contextmanager
def _undone(module: nn.Module) -> Iterator[None]:
    """Afterwards random numbers and the module's buffers (a batch norm's statistics) are those of
    before. PyTorch's own generator of the device is part of every graph; there is no other here."""
    state = torch.cuda.get_rng_state()
    kept = [buffer.clone() for buffer in module.buffers()]
    yield
    torch.cuda.set_rng_state(state)
    with torch.no_grad():
        for buffer, before in zip(module.buffers(), kept, strict=True):
            buffer.copy_(before)
