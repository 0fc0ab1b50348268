"""Starts processes that have a pretended GPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def why_not() -> str:
    """Why there can be no pretended device here; empty if there can."""
    if sys.platform != "linux" or shutil.which("gcc") is None:
        return "needs Linux and gcc"
    import torch
    if torch.cuda.is_available():
        return "there is a real GPU"
    return "" if torch.version.cuda else "PyTorch is built without CUDA"


def build(folder: Path) -> Path:
    """The stub of the driver, compiled."""
    library = folder / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(HERE / "stub.c")],
                   check=True)
    return library


def environment(library: Path, devices: int = 1) -> dict:
    paths = [str(library.parent), os.environ.get("LD_LIBRARY_PATH", "")]
    return os.environ | {
        "LD_PRELOAD": str(library), "PRETEND_LIB": str(library), "PRETEND_DEVICES": str(devices),
        "LD_LIBRARY_PATH": ":".join(filter(None, paths)), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT)}


def run_jobs(library: Path, folder: Path, jobs: list[dict], seconds: float = 240,
             devices: int = 1) -> list[dict]:
    """The reports of the jobs (jobs.py), done in one process."""
    folder.mkdir(exist_ok=True, parents=True)
    given, found = folder / "jobs.json", folder / "reports.json"
    given.write_text(json.dumps(jobs))
    ended = subprocess.run(
        [sys.executable, "-m", "tests.cuda_pretended.jobs", str(given), str(found)], cwd=ROOT,
        env=environment(library, devices), capture_output=True, text=True, timeout=seconds)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-4000:]
    return json.loads(found.read_text())
