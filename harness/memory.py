"""What the C library does with the memory of arrays that are no longer used."""

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from torch.optim.optimizer import register_optimizer_step_post_hook

MOST = 1.5  # times what an update needs may be kept
_hook = None     # called after every update of this process
_asked = False   # is memory to be kept after the next one?
_bound: "Bound | None" = None


def keep_freed_memory() -> bool:
    """Lets glibc keep the memory of freed arrays for the next ones; returns whether it does.

    By default it returns every large array to the system and asks for it again at the next step:
    75,000 to 120,000 page faults, 5 to 40 % of a training step. The price is that a process may
    grow beyond its need (Bound). MALLOC_MMAP_MAX_ in the environment (glibc's own setting)
    overrules this. Does nothing with another C library.
    """
    if sys.platform != "linux" or "MALLOC_MMAP_MAX_" in os.environ:
        return False
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)          # M_MMAP_MAX
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        return True
    return False


def keep_freed_memory_later() -> None:
    """The same from the end of the first update on, within a Bound. What lives as long as the run,
    gradients and the optimiser's state, would otherwise lie among the arrays of the first pass, and
    leave gaps that fit nothing: up to a tenth more memory."""
    global _hook, _asked
    _hook = _hook or register_optimizer_step_post_hook(_after_update)
    _asked = True


def _after_update(*_) -> None:
    """It stays registered: a hook that is taken out while hooks are called breaks the call."""
    global _asked, _bound
    if _asked:
        _asked, _bound = False, None
        if keep_freed_memory():
            _bound = Bound(ctypes.CDLL(None).malloc_trim, memory_of_arrays)
    elif _bound is not None:
        _bound.after_update()


def memory_of_arrays() -> int:
    """Bytes of this process that are in memory and no file's."""
    resident, files = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    return (resident - files) * os.sysconf("SC_PAGESIZE")


class Bound:
    """Gives all free memory back to the system after an update that ends with more than MOST times
    what one needs.

    Sequences of other lengths leave gaps that the next ones do not fit into. oneDNN makes code for
    every new shape of a matrix and keeps it, between the arrays: without a bound a run whose
    lengths vary (awd_lstm's) grew to three times its need. What an update needs is what the first
    one after giving back takes.

    give_back(0) does so (glibc's malloc_trim); used() tells the bytes in use.
    """

    def __init__(self, give_back: Callable[[int], object], used: Callable[[], int]):
        self.give_back, self.used = give_back, used
        self.floor: int | None = None   # bytes in use after giving back
        self.need = 0                   # the most that an update has taken beyond that
        self.first = False              # is the next update the first one since?

    def after_update(self) -> None:
        if self.floor is not None:
            more = self.used() - self.floor
            self.need = max(self.need, more) if self.first else self.need
            self.first = False
            if more <= MOST * self.need:
                return
        self.give_back(0)
        self.floor, self.first = self.used(), True
