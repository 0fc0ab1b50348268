"""What the C library does with the memory of arrays that are no longer used."""

import ctypes
import os
import sys
from contextlib import suppress

from torch.optim.optimizer import register_optimizer_step_post_hook

_hook = None     # called after every update of this process
_asked = False   # is memory to be kept after the next one?


def keep_freed_memory() -> None:
    """Lets glibc keep the memory of freed arrays for the next ones.

    By default it returns every large array to the system and asks for it again at the next step:
    75,000 to 120,000 page faults, 5 to 40 % of a training step. The price is that a process may
    grow beyond its need, since sequence lengths vary; MALLOC_MMAP_MAX_ in the environment (glibc's
    own setting) overrules this. Does nothing with another C library.
    """
    if sys.platform != "linux" or "MALLOC_MMAP_MAX_" in os.environ:
        return
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)          # M_MMAP_MAX
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def keep_freed_memory_later() -> None:
    """The same from the end of the first update on. What lives as long as the run, gradients and
    the optimiser's state, would otherwise lie among the arrays of the first pass, and leave gaps
    that fit nothing: up to a tenth more memory."""
    global _hook, _asked
    _hook = _hook or register_optimizer_step_post_hook(_after_update)
    _asked = True


def _after_update(*_) -> None:
    """It stays registered: a hook that is taken out while hooks are called breaks the call."""
    global _asked
    if _asked:
        _asked = False
        keep_freed_memory()
