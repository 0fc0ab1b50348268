"""One run at a time writes to a folder."""

import fcntl
import os
from pathlib import Path

from lightning_fabric import Fabric

_claims: dict[Path, int] = {}  # lock file -> descriptor, of this process


def claim(save: str, fabric: Fabric) -> None:
    """Makes sure that no other run writes to --save. Raises ValueError, in all processes alike.

    The first process locks (flock) a hidden file in it, which goes when the run ends; of a run
    that was killed the kernel takes the lock, and the empty file that is left does no harm.
    """
    path = Path(save).resolve() / ".lock"
    if fabric.broadcast(fabric.is_global_zero and not _locked(path)):
        raise ValueError(f"{save}: another run is writing there; wait for its end or give "
                       "another --save")


def _locked(path: Path) -> bool:
    """Takes the lock, unless this process has it. False if another has."""
    while path not in _claims:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        except OSError:
            pass  # a file system without locks
        if os.fstat(handle).st_nlink:  # else its last owner removed it just now
            _claims[path] = handle
        else:
            os.close(handle)
    return True


def release_claims() -> None:
    """At the end of the run."""
    while _claims:
        path, handle = _claims.popitem()
        path.unlink(missing_ok=True)
        os.close(handle)
