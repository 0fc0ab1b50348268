"""Starts a command, shows and logs its output, passes Ctrl-C on, and measures it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from results.store import ROOT, UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # all reach the command as Ctrl-C


def executable(command, workdir):
    """The typed command -> what is started: script paths made absolute, `python` = this Python."""
    words = list(command)
    if words[0] in ("python", "python3"):
        words[0] = sys.executable
    for i, word in enumerate(words):  # the script itself, or that of `bash X.sh`, `torchrun X.py`
        if word.endswith((".py", ".sh")) and not (workdir / word).exists():
            if (ROOT / word).is_file():
                words[i] = str(ROOT / word)
            elif i == 0:
                raise UserError(f"no such script: {word}")
            break
    if words[0].endswith(".py"):
        return [sys.executable, *words]
    if not shutil.which(words[0]):
        raise UserError(f"no such command: {words[0]}")
    return words


def child_environment():
    """This environment, unbuffered, with this Python's tools first on the PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PATH": path}


@contextmanager
def passing_signals(children):
    """Ctrl-C (and a polite kill) reaches the command once, and we wait for it; yields the hits."""
    hits = []

    def handler(signum, frame):
        hits.append(signum)
        for child in children:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGINT)

    kept = {s: signal.getsignal(s) for s in SIGNALS}
    kept = {s: old for s, old in kept.items() if old is not signal.SIG_IGN}  # nohup stays nohup
    for signum in kept:
        signal.signal(signum, handler)
    try:
        yield hits
    finally:
        for signum, old in kept.items():
            signal.signal(signum, old)


def tee(stream, log):
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


def execute(words, step, headline):
    """Runs a command to its end -> (exit code, interrupted, wall seconds, peak RSS in MB)."""
    began, children = time.monotonic(), []
    with open(step.log, "ab") as log, passing_signals(children) as hits:
        log.write(f"{headline}\n".encode())
        log.flush()
        child = subprocess.Popen(
            words, cwd=step.workdir, env=child_environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        children.append(child)
        if hits:  # the signal came while we were starting it
            os.killpg(child.pid, signal.SIGINT)
        tee(child.stdout, log)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = code = os.waitstatus_to_exitcode(status)
        child.stdout.close()
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes there, KiB here
    seconds = round(time.monotonic() - began, 2)
    return (code if code >= 0 else 128 - code), bool(hits), seconds, round(usage.ru_maxrss / unit)
