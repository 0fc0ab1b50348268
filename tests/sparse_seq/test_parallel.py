"""Blocks on two processes: the numbers of one (outputs, states, gradients, updates)."""

import os
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).with_name("parallel_worker.py")
ROOT = WORKER.parents[2]


def test_two_processes_are_one(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen([sys.executable, WORKER, str(rank), "2", str(tmp_path / "meet")],
                                  env=environment, text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE) for rank in range(2)]
    for rank, process in enumerate(processes):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert f"process {rank}: equal" in out
