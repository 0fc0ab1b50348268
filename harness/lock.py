"""One run at a time writes to a place."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from harness.endings import BadInput

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Lock:
    """The lock on a hidden file, taken by the first process for all. If the run is killed, the
    kernel releases it; the empty file that is left does no harm."""

    def __init__(self, path: Path):
        self.path = path
        self.lock = FileLock(str(path))

    def acquire(self, flag: str, fabric: "Fabric") -> None:
        """flag: what says where the run writes, with its value. Raises BadInput, in all processes
        alike, if another run holds the lock."""
        if fabric.broadcast(fabric.is_global_zero and not self._acquired()):
            raise BadInput(f"{flag}: another run is writing there; wait for its end or give "
                           f"another {flag.split()[0]}")

    def _acquired(self) -> bool:
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            return False
        except (OSError, NotImplementedError) as error:
            print(f"{self.path.parent}: no lock can be had there ({error}); start no second run "
                  "that writes there", file=sys.stderr)
        return True

    def release(self) -> None:
        if self.lock.is_locked:
            # Before the release, so that no other run can have locked the file that goes.
            with contextlib.suppress(OSError):  # Windows removes no open file; filelock does, then
                self.path.unlink(missing_ok=True)
            self.lock.release()
