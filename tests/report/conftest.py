"""The command line of report on runs below a temporary folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAKE_TORCH = """
__version__ = "9.9"
def get_num_threads(): return 2
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    get_device_name = staticmethod(lambda i: "NVIDIA H200")
"""


@pytest.fixture
def rec(tmp_path):
    """A function that calls report on runs below tmp_path; torch is a stand-in (fast)."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "torch.py").write_text(FAKE_TORCH)

    def start(action, *words):
        place = ["--workdir-root", str(tmp_path / "runs")] if "--smoke" not in words else []
        cut = words.index("--") if "--" in words else len(words)
        env = {**os.environ, "PYTHONPATH": f"{tmp_path / 'fake'}{os.pathsep}{ROOT}"}
        argv = [sys.executable, "-m", "report", action, *words[:cut], *place, *words[cut:]]
        # a test run started in the background ignores Ctrl-C, and its children would too
        return subprocess.Popen(
            argv, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    def call(*words):
        process = start(*words)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    call.start = start
    return call
