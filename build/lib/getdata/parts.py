"""Half downloads in data/.downloads, a folder in which others may be able to write as well.

What stands there under a part's name may be a link that somebody has planted, or a named pipe: only
a plain file with no other name is ever written to.
"""

import os
import stat

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # Windows has none


def validator_path(part):
    """Return where the ETag or date of a half download stands, for If-Range."""
    return part.with_name(part.name + ".tag")


def discard(part):
    """Forget a half download."""
    part.unlink(missing_ok=True)
    validator_path(part).unlink(missing_ok=True)


def tidy(part, largest):
    """Forget a half download that cannot be continued: too long, not a plain file, or another
    user's. Without this it would stop every later run."""
    for path in (part, validator_path(part)):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
        if not plain or status.st_size > largest or not os.access(path, os.R_OK | os.W_OK):
            discard(part)
            return


def open_part(path, mode):
    """Open a half download, or what belongs to it, for writing; follow no link."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags | NO_FOLLOW, 0o666))
