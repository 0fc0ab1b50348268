"""How processes of several end, in processes of their own: those of tests.trust.forked leave before
Python tears itself down.

    python -m tests.exits MODULE ARGUMENT...

runs a program, and ends with exit code 3 if threads of gloo's are left when all else is done.
"""

import atexit
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def threads_of_gloo() -> list[str]:
    """Names of those of this process; none are known where there is no /proc."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


def look() -> None:
    if left := threads_of_gloo():
        print("still there at the end:", *left, file=sys.stderr, flush=True)
        os._exit(3)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_torchrun_starts(rank: int, world: int, port: int) -> dict[str, str]:
    """The environment of one of `world` processes of this machine."""
    found = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world,
             "GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
             "TORCHELASTIC_RUN_ID": "tests"}
    return {name: str(value) for name, value in found.items()}


def two_processes(module: str, *arguments, cwd: Path) -> list[tuple[int, str]]:
    """Exit code and stderr of each of two processes of one run of `module`."""
    port = free_port()
    pair = [subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.exits", module, *map(str, arguments)],
        cwd=cwd, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
             **as_torchrun_starts(rank, 2, port)}) for rank in range(2)]
    texts = [child.communicate(timeout=240)[1] for child in pair]
    return [(child.returncode, text) for child, text in zip(pair, texts, strict=True)]


if __name__ == "__main__":
    atexit.register(look)  # the first to be registered is the last to be called
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
