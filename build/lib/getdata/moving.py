"""Move a new file to its place, which may be on another disk and hold a file of the user's."""

import contextlib
import errno
import itertools
import os
import shutil
import tempfile

from getdata.checksums import BLOCK, size_of


def put(new, path):
    """Move the file `new` to path; return the name that another file there has got, None if there
    was none. A piece of the new file, which a damaged disk may have left, is nothing to keep."""
    kept = None
    if os.path.lexists(path):
        same, size = agreement(new, path), size_of(path)
        if same == size == size_of(new):
            return None
        if path.is_symlink() or same < size:
            kept = set_aside(path)
    try:
        os.replace(new, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy_to_other_disk(new, path)
    return kept


def agreement(one, other):
    """Return how many bytes two files have in common at their beginning, to a block; all of the
    shorter one if it is the beginning of the other. -1 if one of them is not a file."""
    if not (one.is_file() and other.is_file()):
        return -1
    same = 0
    with open(one, "rb") as first, open(other, "rb") as second:
        while True:
            ours, theirs = first.read(BLOCK), second.read(BLOCK)
            shorter = min(len(ours), len(theirs))
            if ours[:shorter] != theirs[:shorter]:
                return same
            same += shorter
            if shorter < BLOCK:
                return same


def set_aside(path):
    """Rename a file to NAME.old, NAME.old2, ..., and return the new name."""
    for number in itertools.count(1):
        old = path.with_name(f"{path.name}.old{number if number > 1 else ''}")
        if not os.path.lexists(old):
            os.rename(path, old)
            return old
    raise AssertionError("unreachable")


def copy_to_other_disk(new, path):
    """Copy a file beside path, durably, then rename the copy."""
    handle, copy = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(new, "rb") as source, open(handle, "wb") as target:
            shutil.copyfileobj(source, target, BLOCK)
            target.flush()
            os.fsync(target.fileno())
        os.chmod(copy, new.stat().st_mode & 0o777)
        os.replace(copy, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(copy)
        raise
