"""The Triton kernels without a GPU: right in the interpreter; compiled for three generations of
GPUs without a spilt register, the recurrence without a barrier in its loop."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None,
                                reason="Triton is not installed")


def run(module: str, *argv: str, **environment: str) -> str:
    done = subprocess.run([sys.executable, "-m", f"tests.kernels.{module}", *argv], cwd=ROOT,
                          env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_kernels_equal_the_plain_forms():
    assert run("triton_kernels", TRITON_INTERPRET="1") == "equal\n"


@pytest.mark.parametrize("capability", [
    "90", pytest.param("80", marks=pytest.mark.slow), pytest.param("100", marks=pytest.mark.slow)])
def test_compiled_without_spills(capability, tmp_path):
    found = json.loads(run("compiled_kernels", capability, TRITON_CACHE_DIR=str(tmp_path)))
    assert len(found) == 11
    for name, facts in found.items():
        assert facts["local"] == 0, name
        if name.startswith(("forget-mult", "gates")):
            assert facts["barriers"] == 0, name
