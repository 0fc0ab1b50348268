"""CUDA graphs on the pretended device: a tape of what is launched while a graph is recorded, done
again at each replay on the same memory.

As on a device, recording computes nothing: afterwards what was written to is as before, and what
was made holds nan. To ask the device for a number while recording is an error.
"""

import torch
from torch.utils._pytree import tree_flatten

from tests.cuda_pretended import device
from tests.cuda_pretended.device import PretendedTensor, unwrap
from tests.cuda_pretended.ledger import LEDGER


class Tape:
    """What has been launched since the recording began."""

    def __init__(self):
        self.again = []                                   # each does a launch again
        self.made: dict[int, torch.Tensor] = {}           # address -> what an operation has made
        self.before: dict[int, tuple] = {}                # address -> memory, and a copy of it

    def keep(self, tensors) -> None:
        """Remembers memory that is about to be written to."""
        for tensor in tensors:
            memory = unwrap(tensor).untyped_storage()
            if memory.data_ptr() not in self.before:
                self.before[memory.data_ptr()] = memory, memory.clone()

    def starts(self, func, args, kwargs) -> None:
        written = [value for argument, value in zip(func._schema.arguments, args, strict=False)
                   if argument.alias_info is not None and argument.alias_info.is_write]
        written += [kwargs[argument.name] for argument in func._schema.arguments
                    if argument.name in kwargs and argument.alias_info is not None
                    and argument.alias_info.is_write]
        if "batch_norm" in func._schema.name:  # writes its statistics, and does not say so
            written += args
        self.keep(t for t in tree_flatten(written)[0] if isinstance(t, PretendedTensor))

    def add(self, func, args, kwargs, out) -> None:
        """out: what the operation gave, without the device around it."""
        def found(out):
            return [t for t in tree_flatten(out)[0] if isinstance(t, torch.Tensor)]

        given = {unwrap(t).untyped_storage().data_ptr() for t in found((args, kwargs))}
        results = found(out)
        self.launched(lambda: found(device.compute(func, args, kwargs)), results,
                      [t for t in results if t.untyped_storage().data_ptr() not in given])

    def launched(self, compute, results, made) -> None:
        """compute() gives what goes into the memory of `results`; `made`: those that are new."""
        self.made |= {result.untyped_storage().data_ptr(): result for result in made}

        def again():
            for into, value in zip(results, compute(), strict=True):
                if into.data_ptr() != value.data_ptr():
                    into.copy_(value)
        self.again.append(again)

    def end(self) -> None:
        for result in self.made.values():
            if result.is_floating_point() or result.is_complex():
                result.fill_(float("nan"))
        for memory, copy in self.before.values():
            memory.copy_(copy)


class CUDAGraph:
    def __init__(self, *args, **kwargs):
        self.tape = Tape()

    @torch.no_grad()
    def replay(self):
        LEDGER.operations["graph replay"] += 1
        for again in self.tape.again:
            again()


class graph:
    def __init__(self, cuda_graph, pool=None, stream=None, capture_error_mode="global"):
        self.graph = cuda_graph

    def __enter__(self):
        LEDGER.sync("recording a graph")
        self.random = device.Stream.get()
        device.TAPE.append(self.graph.tape)

    @torch.no_grad()
    def __exit__(self, *error):
        device.TAPE.pop()
        device.Stream.set(self.random)
        self.graph.tape.end()


def refuse_sync(sync):
    def checked(kind: str) -> None:
        if device.TAPE:
            raise RuntimeError(f"operation not permitted when stream is capturing: {kind}")
        sync(kind)
    return checked


def install() -> None:
    torch.cuda.CUDAGraph, torch.cuda.graph = CUDAGraph, graph
    torch.cuda.is_current_stream_capturing = lambda: bool(device.TAPE)
    LEDGER.sync = refuse_sync(LEDGER.sync)
