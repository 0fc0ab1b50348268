"""How a run ends: its exit code, and one clear line in place of a traceback.

    0         done
    1         failed: a loss that is not finite, a full disk; also any error of the program itself,
              with its traceback
    2         bad input
    128 + n   stopped by signal n with the state saved: 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP

HARNESS_TRACEBACK=1 in the environment prints the traceback behind the line.
"""

import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness import home
from harness.notices import drop_output, notice

# By which a user, a scheduler or a terminal that closes asks a program to end.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")
                if hasattr(signal, name))


class BadInput(Exception):
    """What the user gave cannot be used; the message says what is wrong and what to do."""


class Interrupted(Exception):
    """A signal asked the run to stop."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum, self.exit_code = signum, 128 + signum


@contextmanager
def orderly_exit(script: str) -> Iterator[None]:
    """Turns an error whose cause is known into one line on stderr and the exit code above.

    script: begins the line, by its file name.
    """
    try:
        yield
    except Interrupted as stop:
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:  # before or after training, where there is nothing to save
        sys.exit(128 + signal.SIGINT)
    except BadInput as error:
        sys.exit(complain(script, error, 2))
    except BrokenPipeError:  # `generate.py --outf - | head`: whoever read has enough
        drop_output()
        sys.exit(128 + getattr(signal, "SIGHUP", 1))
    except (FloatingPointError, OSError) as error:
        sys.exit(complain(script, error, 1))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:150]
        sys.exit(complain(script, f"these sizes need more memory than there is: give smaller ones "
                                  f"({reason})", 2))


def clear_up_on_signals() -> None:
    """From now on SIGTERM and SIGHUP end the program as Ctrl-C does, by an exception, so that
    `with` blocks remove what is half done. A hang-up that is ignored stays so: nohup."""
    for signum in SIGNALS:
        if signum != signal.SIGINT and signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, lambda number, _: sys.exit(128 + number))


def leave_signals_to_parent() -> None:
    """For a process that works for another: what a terminal sends reaches both, and the main
    process alone acts upon it; it ends the others by SIGTERM."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_DFL if signum == signal.SIGTERM else signal.SIG_IGN)


@contextmanager
def signals_held() -> Iterator[Callable[[], None]]:
    """Signals wait until the work can be left: an exception that breaks into an executor of
    processes may leave its lock held for ever. Gives the function to call at such places; it raises
    Interrupted if a signal has come."""
    came: list[int] = []

    def leave_if_asked() -> None:
        if came:
            raise Interrupted(came[0])

    old = {signum: signal.signal(signum, lambda number, _: came.append(number))
           for signum in SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN}
    try:
        yield leave_if_asked
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


@contextmanager
def bad_input(what: str = "") -> Iterator[None]:
    """Inside the block a missing file or a refused value is a user error: BadInput, with `what`
    (the flag) before the message."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError) as error:
        raise BadInput(f"{what}{error}") from error


def complain(script: str, reason: object, code: int) -> int:
    """Prints the line, with HARNESS_TRACEBACK=1 after the traceback; returns `code`."""
    if os.environ.get("HARNESS_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exc()
    text = home.commands(" ".join(str(reason).split("\n")))
    notice(f"{os.path.basename(script)}: {text}")
    return code


def out_of_memory(error: BaseException) -> bool:
    """Is this an error of an allocator? Python's and the GPU's have types of their own; the CPU's
    allocator in PyTorch raises a bare RuntimeError, known here by comparing it with the one that it
    raises when asked for the impossible."""
    import torch  # slow to import: not for -h
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return str(error).startswith(_cpu_allocator_errors())


@functools.cache
def _cpu_allocator_errors() -> tuple[str, ...]:
    """How this build of PyTorch begins its message for too many bytes, and for a number of bytes
    beyond 64 bits."""
    import torch
    found = []
    for shape, end in (((2**46,), "you tried"), ((2**62, 4), "with sizes")):
        try:
            torch.empty(shape)
        except RuntimeError as error:
            head, mark, _ = str(error).partition(end)
            found += [head] if mark else []
    return tuple(found)
