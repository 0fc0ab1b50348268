"""What a program says to whoever looks. A terminal that is gone, a pipe that nobody reads, a full
disk behind either of them: the lines are lost, never the work."""

import contextlib
import errno
import os
import sys


def notice(text: str) -> None:
    """A line on stderr, which no run depends on."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def speak(text: str) -> OSError | None:
    """A line on stdout, at once. If it cannot be written, all that is printed from now on is
    dropped, and the error is returned."""
    try:
        print(text, flush=True)
    except OSError as error:
        drop_output()
        return OSError(error.errno, error.strerror, "standard output")
    return None


def drop_output() -> None:
    """Nothing more is printed, to the end of the process."""
    # The old object stays, with what it could not write; the interpreter would try again at exit.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def nobody_reads(error: OSError) -> bool:
    """Is it a closed pipe or a terminal that is gone, and not a disk?"""
    return error.errno in (errno.EPIPE, errno.EIO)
