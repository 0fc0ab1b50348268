"""Runs of the scripts as processes that cost nothing to start.

Importing torch and the scripts takes seconds, a tiny training run a few tenths. So one process,
the server, imports everything once and computes nothing; each run is a fork of it, with its own
working folder, environment, output files and signal handling, and can be killed like any process.

The client sends one line of JSON per request and gets one line back:
    {"start": {...}} -> {"pid": n}
    {"wait": pid, "seconds": s} -> {"code": n}, {"signal": n}, {"stopped": n} or {} (still running)
"""

import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Its data set is small: results are not comparable; a rate that was typed is kept; a flag does
# nothing.
NOTICE = re.compile(r"listops: \(|\w+ with --lr \S+ will diverge; usual is|--\S.*: no effect, ")
PAUSE = 0.002  # seconds between two looks at a child


# --------------------------------------------------------------------------------------- client
@dataclass
class Ended:
    """How a run ended: exit code (negative: killed by that signal), output, complaints."""

    code: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        """The lines on stderr, but for the notices that a sound run prints too."""
        return [line for line in self.err.splitlines()
                if line.strip() and not NOTICE.match(line)]

    @property
    def line(self) -> str:
        """The last of them."""
        return self.complaints[-1] if self.complaints else ""


@dataclass
class Child:
    """A running script."""

    server: "Server"
    pid: int
    output: Path
    done: Ended | None = None

    def wait(self, seconds: float = 120) -> Ended | None:
        """How it ended; None if it has stopped itself (a hook holds it)."""
        if self.done is None:
            answer = self.server.ask({"wait": self.pid, "seconds": seconds})
            if "stopped" in answer:
                return None
            if not answer:
                os.kill(self.pid, signal.SIGKILL)
                self.server.ask({"wait": self.pid, "seconds": 10})
                raise TimeoutError(f"still running after {seconds} s: {self.read('err')}")
            self.done = Ended(answer.get("code", -answer.get("signal", 0)), self.read("out"),
                              self.read("err"))
        return self.done

    def read(self, name: str) -> str:
        path = self.output.with_suffix(f".{name}")  # not there yet if it was killed at once
        return path.read_text(errors="replace") if path.exists() else ""

    def kill(self, signum: int = signal.SIGKILL) -> None:
        if self.done is None:
            os.kill(self.pid, signum)

    def kill_after(self, seconds: float, signum: int = signal.SIGKILL) -> Ended:
        """Sends the signal at that moment, unless it is through before."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            answer = self.server.ask({"wait": self.pid, "seconds": left})
            if answer:
                self.done = Ended(answer.get("code", -answer.get("signal", 0)), self.read("out"),
                                  self.read("err"))
                return self.done
        self.kill(signum)
        return self.wait()


class Server:
    """The process that forks. Use as a context."""

    def __init__(self, modules: list[str], preload: Path | None = None):
        mine, theirs = socket.socketpair()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        if preload:
            environment["LD_PRELOAD"] = str(preload)
        environment.pop("MALLOC_MMAP_MAX_", None)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.trust.forked", str(theirs.fileno()),
                 *modules], cwd=ROOT, env=environment, pass_fds=[theirs.fileno()])
        self.line = mine.makefile("rw", encoding="utf-8")
        mine.close()
        self.runs = 0

    def ask(self, request: dict) -> dict:
        self.line.write(json.dumps(request) + "\n")
        self.line.flush()
        answer = self.line.readline()
        if not answer:
            raise RuntimeError("the server of the trust tests has died")
        return json.loads(answer)

    def start(self, module: str, argv: list[str], folder: Path, environment: dict | None = None,
              call: str = "main", **hooks) -> Child:
        """Runs module.main(argv) in `folder`; `hooks` are hooks.install's arguments. The output
        goes to files beside the folder."""
        self.runs += 1
        output = folder.parent / f".{folder.name}-{self.runs}"
        request = {"module": module, "call": call, "argv": [str(a) for a in argv],
                   "folder": str(folder), "environment": environment or {}, "output": str(output),
                   "hooks": hooks}
        return Child(self, self.ask({"start": request})["pid"], output)

    def run(self, module: str, argv: list[str], folder: Path, **more) -> Ended:
        """Runs it to its end."""
        return self.start(module, argv, folder, **more).wait()

    def close(self) -> None:
        self.line.close()
        self.process.wait(timeout=30)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.close()


# --------------------------------------------------------------------------------------- server
def serve(connection: socket.socket, modules: list[str]) -> None:
    """Imports, then answers until the client hangs up."""
    import torch
    torch.set_num_threads(1)
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401

    from tests.trust import hooks  # noqa: F401
    for module in modules:
        importlib.import_module(module)
    line = connection.makefile("rw", encoding="utf-8")
    children: set[int] = set()
    try:
        for text in line:
            request = json.loads(text)
            if "start" in request:
                pid = os.fork()
                if pid == 0:
                    child(request["start"], connection.fileno())
                children.add(pid)
                answer = {"pid": pid}
            else:
                answer = wait(request["wait"], request["seconds"])
                if "code" in answer or "signal" in answer:
                    children.discard(request["wait"])
            line.write(json.dumps(answer) + "\n")
            line.flush()
    finally:
        for pid in children:  # of a test that failed
            os.kill(pid, signal.SIGKILL)


def wait(pid: int, seconds: float) -> dict:
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if found:
            if os.WIFSTOPPED(status):
                return {"stopped": os.WSTOPSIG(status)}
            return ({"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status)
                    else {"code": os.WEXITSTATUS(status)})
        if time.monotonic() >= deadline:
            return {}
        time.sleep(PAUSE)


def child(request: dict, connection: int) -> None:
    """The run. Never returns: it leaves as a script does, with its exit code."""
    code = 1
    try:
        os.close(connection)
        os.chdir(request["folder"])
        for name, number in (("out", 1), ("err", 2)):
            file = os.open(f"{request['output']}.{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(file, number)
        os.environ.update(request["environment"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may have been started by nohup
        sys.argv = [request["module"].rpartition(".")[2] + ".py", *request["argv"]]
        from tests.trust import hooks
        hooks.install(**request["hooks"])
        main = getattr(importlib.import_module(request["module"]), request["call"])
        main(request["argv"]) if request["call"] == "main" else main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
    os._exit(0)  # nothing to tidy up
