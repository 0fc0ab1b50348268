"""`make gpu-check`: without a GPU one line and exit code 2; its steps, as far as they go, on the
pretended one."""

import subprocess
import sys

import pytest

from tests.awd_lstm.small import write_corpus
from tests.cuda_pretended.pretended import ROOT

SCRIPT = ROOT / "benchmarks/gpu_check.py"
STEPS = """
import json, sys
sys.path.insert(0, {root!r})
from dataclasses import replace
from pathlib import Path
import torch
torch.cuda.set_sync_debug_mode = lambda mode: None
from benchmarks import gpu_runs, gpu_speed, gpu_steps

TINY = {{
    "AWD-LSTM": "--batch_size 6 --emsize 8 --nhid 10 --nlayers 2 --log-interval 3",
    "QRNN": "--model QRNN --batch_size 6 --emsize 8 --nhid 10 --nlayers 2 --log-interval 3",
    "TrellisNet": "--emsize 8 --nhid 10 --nout 8 --nlevels 4 --horizon 4 --seq_len 10 --aux_freq 2 "
                  "--batch_size 8 --optim SGD --lr 1 --name m --log-interval 3",
    "LRA imdb": "--task imdb --n-layers 1 --d-model 8 --dpb-dim 4 --batch-size 4 --l-max 40 "
                "--workers 0 --warmup 2 --log-interval 3",
    "TNN-ViT tiny": "--data-set DIGITS --input-size 16 --arch-options patch_size=8 embed_dim=8 "
                    "glu_dim=8 depth=2 rpe_embdding=8 --num_workers 0 --batch-size 8 --clip-grad 5 "
                    "--warmup-epochs 1",
    "sparse, streams": "--batch_size 6 --emsize 8 --nhid 10 --nlayers 2 --log-interval 3 "
                       "--sparse_mode sparse_hidden --sparse_fract 0.666",
    "dense, cuDNN": "--batch_size 6 --emsize 8 --nhid 10 --nlayers 2 --log-interval 3"}}
TINY["sparse, sequential"] = TINY["sparse, streams"]
ROWS = tuple(replace(row, flags=TINY[row.name] + " --epochs 9",
                     modes=tuple(mode for mode in row.modes if mode != "compile"))
             for row in gpu_runs.SPEED if row.name in TINY)
gpu_speed.write_data = lambda folder: gpu_runs.write_data(
    folder, tokens=1500, words=40, reviews=30, letters=60, images=96)
value = {{}}
for name, more in {steps}.items():
    found = gpu_steps.Found(Path({folder!r}) / f"{{name}}.json", 1000)
    gpu_steps.STEPS[name](found, **more)
    value[name] = json.loads(found.path.read_text())
    assert not found.failed, (name, value[name])
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


def run_steps(run_jobs, folder, steps: str, seconds: float = 240) -> dict:
    """What the steps find, {name: arguments} as they stand in Python."""
    report, = run_jobs([{"code": STEPS.format(root=str(ROOT), steps=steps, folder=str(folder))}],
                       seconds=seconds)
    assert report["error"] == "", report["output"][-2000:]
    assert report["problems"] == {}
    return report["value"]


@pytest.mark.slow
def test_versions_kernels_and_precision(run_jobs, tmp_path):
    value = run_steps(run_jobs, tmp_path, """{
        "versions": {}, "kernels": {"T": 2, "B": 2, "H": 8, "repeats": 1},
        "precision": {"T": 3, "B": 2, "size": 4}}""")
    assert value["versions"]["gpu"]["capability"] == "9.0"
    assert set(value["kernels"]) == {"forget-mult, 2 warps, ms", "forget-mult, 4 warps, ms",
                                     "gates of a level, ms", "norm, ms"}
    assert value["precision"]["bf16-mixed"]["computed in"] in ("bfloat16", "float32")
    assert value["precision"]["float32"]["gradient"] < 1e-5


@pytest.mark.slow
def test_scripts_resume_tests_and_epoch(run_jobs, tmp_path):
    text = tmp_path / "penn"
    write_corpus(text, train=40, valid=20, test=20)
    value = run_steps(run_jobs, tmp_path, f"""{{
        "scripts": {{"names": ("awd-finetune", "lra-listops", "im-graphs"), "updates": 4}},
        "resume": {{"names": ("awd-lstm", "trellis-small-graphs", "im")}},
        "tests": {{"files": ("tests/sparse_seq/test_blocks.py",)}},
        "epoch": {{"data": Path({str(text)!r}), "flags": "--model QRNN --batch_size 6 --nhid 10 "
                   "--emsize 8 --nlayers 2 --epochs 1 --device cuda"}}}}""")
    assert set(value["scripts"]) == {"awd-finetune", "lra-listops", "im-graphs"}
    assert all(found["same bits"] for found in value["resume"].values())
    assert "skipped" in value["tests"]["pytest"][-1]
    assert len(value["epoch"]["end of epoch"]) == 1


@pytest.mark.slow
def test_speed(run_jobs, tmp_path):
    """Every row but fairseq's, whose test is in test_fairseq.py; but what is compiled."""
    found = run_steps(run_jobs, tmp_path, """{
        "speed": {"rows": ROWS, "peak_size": 64, "updates": (4, 2, 2)}}""", 600)["speed"]
    rows = {name: value for name, value in found.items() if name != "peak, TFLOP/s"}
    assert len(rows) == 3 * (8 + 5)   # in three arithmetics; five rows also as graphs
    for name, value in rows.items():
        assert isinstance(value, dict), (name, value)
        assert value["ms an update"] > 0
        assert value["TFLOP an update"] >= 0
