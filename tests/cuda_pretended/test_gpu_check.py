"""`make gpu-check`: without a GPU one line and exit code 2; its steps, as far as they go, on the
pretended one."""

import json
import subprocess
import sys

import pytest

from tests.cuda_pretended.pretended import ROOT

SCRIPT = ROOT / "benchmarks/gpu_check.py"
# kernels, resume and tests are left out: they measure what a pretended device does not have.
STEPS = """
import json, sys
sys.path.insert(0, {root!r})
import torch
torch.cuda.set_sync_debug_mode = lambda mode: None
from pathlib import Path
from benchmarks import gpu_steps
value = {{}}
for name, more in {steps!r}:
    found = gpu_steps.Found(Path({folder!r}) / f"{{name}}.json", 100)
    gpu_steps.STEPS[name](found, **more)
    value[name] = json.loads(found.path.read_text())
"""


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    done = subprocess.run([sys.executable, str(SCRIPT), "--out", str(tmp_path / "out")],
                          capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("gpu-check: PyTorch finds no CUDA device here")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_step_that_takes_too_long_leaves_what_it_has_found(tmp_path, monkeypatch):
    from benchmarks import gpu_check
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "gpu_steps.py").write_text(
        "import sys, time\nopen(sys.argv[2], 'w').write('{\"a\": 1}')\n"
        "print('so far', flush=True)\ntime.sleep(60)\n")
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    found = gpu_check.run("versions", 4.0)
    assert found["outcome"] == "stopped after 4 s"
    assert found["found"] == {"a": 1}
    assert "so far" in found["said"]


@pytest.mark.slow
def test_its_steps_run(run_jobs, tmp_path):
    steps = [("versions", {}), ("precision", {"T": 3, "B": 2, "size": 4}),
             ("scripts", {"names": ("awd-lstm", "lra")})]
    report, = run_jobs([{"code": STEPS.format(root=str(ROOT), steps=steps,
                                              folder=str(tmp_path))}])
    assert report["error"] == ""
    assert report["problems"] == {}
    value = report["value"]
    assert value["versions"]["gpu"]["capability"] == "9.0"
    assert value["precision"]["bf16-mixed"]["computed in"] in ("bfloat16", "float32")
    assert value["precision"]["float32"]["gradient"] < 1e-5
    assert set(value["scripts"]) == {"awd-lstm", "lra"}
    json.dumps(value)
