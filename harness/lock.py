"""One process at a time works in a place. Imports neither torch nor Lightning: report and getdata
take their locks here too."""

import contextlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from harness.endings import BadInput
from harness.notices import notice

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def take(lock: FileLock, advice: str, timeout: float = 0) -> bool:
    """Takes the lock; False if another still holds it after `timeout` seconds (-1: waits for it).

    On a file system that has no locks one line says so, with `advice`, and there is none. Where
    flock alone is missing, filelock writes a file that says who holds the place; that takes a line
    too.
    """
    path = Path(lock.lock_file)
    try:
        with warnings.catch_warnings(record=True) as said:  # filelock's own takes two lines
            warnings.simplefilter("always")
            lock.acquire(timeout=timeout)
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:
        notice(f"{path.parent}: no lock can be had there ({error}); {advice}")
    else:
        if said:
            notice(f"{path.parent}: no flock there, so {path.name} says who holds it; remove it if "
                   "that process was killed on another machine")
    return True


class Lock:
    """The lock on a hidden file, taken by the first process for all. If the run is killed, the
    kernel releases it; the empty file that is left does no harm."""

    def __init__(self, path: Path):
        self.path = path
        self.lock = FileLock(str(path))

    def acquire(self, flag: str, fabric: "Fabric") -> None:
        """flag: what says where the run writes, with its value. Raises BadInput, in all processes
        alike, if another run holds the lock."""
        advice = "start no second run that writes there"
        if fabric.broadcast(fabric.is_global_zero and not take(self.lock, advice)):
            raise BadInput(f"{flag}: another run is writing there; wait for its end or give "
                           f"another {flag.split()[0]}")

    def release(self) -> None:
        if self.lock.is_locked:
            # Before the release, so that no other run can have locked the file that goes.
            with contextlib.suppress(OSError):  # Windows removes no open file; filelock does, then
                self.path.unlink(missing_ok=True)
            self.lock.release()
