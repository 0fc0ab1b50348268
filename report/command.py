"""Starts a command, shows and logs its output, passes Ctrl-C on, and measures it.

The command learns from HARNESS_CURVES_LIST where to note the folders of its curves.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from harness.endings import SIGNALS
from report import CODE
from report.errors import UserError
from report.step_files import Step


def executable(command: list[str], workdir: Path) -> list[str]:
    """The typed command -> what is started: script paths made absolute, `python` = this Python.
    Raises UserError."""
    words = list(command)
    if words[0] in ("python", "python3"):
        words[0] = sys.executable
    for i, word in enumerate(words):  # the script itself, or that of `bash X.sh`, `torchrun X.py`
        if word.endswith((".py", ".sh")) and not (workdir / word).exists():
            if (CODE / word).is_file():
                words[i] = str(CODE / word)
            elif i == 0:
                raise UserError(f"no such script: {word}")
            break
    if words[0].endswith(".py"):
        return [sys.executable, *words]
    if not shutil.which(words[0]):
        raise UserError(f"no such command: {words[0]}")
    return words


def child_environment(step: Step) -> dict[str, str]:
    """This environment, unbuffered, with this Python's tools first on the PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PATH": path,
            "HARNESS_CURVES_LIST": str(step.curves)}


@contextmanager
def passing_signals(children: list[subprocess.Popen]) -> Iterator[list[int]]:
    """Signals reach the command once, as Ctrl-C, and we wait for it; yields the list of those that
    came."""
    received = []

    def handler(signum, frame):
        received.append(signum)
        for child in children:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGINT)

    kept = {s: signal.getsignal(s) for s in SIGNALS}
    kept = {s: old for s, old in kept.items() if old is not signal.SIG_IGN}  # nohup stays nohup
    for signum in kept:
        signal.signal(signum, handler)
    try:
        yield received
    finally:
        for signum, old in kept.items():
            signal.signal(signum, old)


def tee(stream: BinaryIO, log: BinaryIO) -> None:
    """Copies the command's output to the log and, while someone listens, to the screen."""
    sys.stdout.flush()
    while chunk := os.read(stream.fileno(), 65536):
        log.write(chunk)
        log.flush()
        try:
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        except OSError:  # whoever read our output has gone; the run goes on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def execute(words: list[str], step: Step, headline: str) -> tuple[int, bool, float, int]:
    """Runs a command to its end -> (exit code, interrupted, wall seconds, peak RSS in MB). Raises
    UserError on Windows, whose processes have no groups that a signal reaches."""
    if not hasattr(os, "wait4"):
        raise UserError("`run` records a command on Linux and macOS alone; here start the script "
                        "itself")
    began, children = time.monotonic(), []
    with open(step.log, "ab") as log, passing_signals(children) as received:
        log.write(f"{headline}\n".encode())
        log.flush()
        child = subprocess.Popen(
            words, cwd=step.workdir, env=child_environment(step), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        children.append(child)
        if received:  # the signal came while we were starting it
            os.killpg(child.pid, signal.SIGINT)
        try:
            tee(child.stdout, log)
        except OSError:  # a full disk: the command must not run on unseen
            os.killpg(child.pid, signal.SIGINT)
            child.stdout.close()
            child.wait()
            raise
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = code = os.waitstatus_to_exitcode(status)
        child.stdout.close()
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes there, KiB here
    return (code if code >= 0 else 128 - code, bool(received),
            round(time.monotonic() - began, 2), round(usage.ru_maxrss / unit))
