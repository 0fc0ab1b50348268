"""Several processes that end in order.

A thread of gloo's may let go of a tensor late, and needs Python for it: if the interpreter is being
torn down by then, the process dies ("terminate called without an active exception", exit code 134)
after work that is done. So the group of processes, with its threads, goes before the interpreter.
"""

import atexit
import gc

import torch.distributed as dist

if dist.is_available():
    # Parts of PyTorch import this when they are first used. Its functions have the group that there
    # is by then as a default argument, and would hold it to the end.
    import torch.distributed.nn.functional  # noqa: F401


def end_in_order() -> None:
    """The program dissolves its group of processes, now or later made, when it ends."""
    atexit.unregister(_dissolve)
    atexit.register(_dissolve)


def _dissolve() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
    gc.collect()  # what refers to it may lie in a circle
