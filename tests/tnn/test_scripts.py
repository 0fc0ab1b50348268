"""The shell scripts: what they say when something is missing, and the whole path when all is there.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")

ROOT = Path(__file__).resolve().parents[2]
FORK = ROOT / "tests/golden/cases/tnn_lm/cli"


def run(script, *arguments, **environment):
    return subprocess.run(["bash", str(ROOT / "tnn" / script), *arguments], text=True, check=False,
                          capture_output=True, env=os.environ | environment)


@pytest.mark.parametrize(("call", "said"), [
    (("script_alm.sh",), "bash tnn/prepare_lm_data.sh"),
    (("script_blm.sh",), "bash tnn/prepare_lm_data.sh"),
    (("train_alm.sh", "1"), "usage: bash train_alm.sh GPUS ARCH DATA_DIR"),
    (("train_blm.sh",), "usage: bash train_blm.sh GPUS ARCH DATA_DIR"),
    (("train_alm.sh", "many", "tnn_v2_decay_99_pre", "x"), "GPUS is a positive number"),
    (("length_extrapolation.sh", "tnn_v2_decay_99_pre", "long"), "LENGTH is a positive number"),
    (("length_extrapolation.sh", "tnn_v2_decay_99_pre", "512"), "bash tnn/prepare_lm_data.sh"),
    (("script_glue.sh", "WNLI", "x", "y"), "TASK is one of MNLI"),
    (("script_glue.sh", "RTE", "x", "y"), "./getdata.sh glue"),
    (("prepare_lm_data.sh", "nowhere", "out"), "no wiki.train.raw"),
])
def test_one_line_and_exit_code_2(call, said, tmp_path):
    done = run(*call, DATA_DIR=str(tmp_path / "none"), CKPT_DIR=str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_no_checkpoint(tmp_path):
    done = run("length_extrapolation.sh", "tnn_v2_decay_99_pre", "64",
               DATA_DIR=str(FORK / "data-bin"), CKPT_DIR=str(tmp_path))
    assert done.returncode == 2
    assert "train_alm.sh" in done.stderr


@pytest.mark.parametrize(("sequences", "each", "workers", "expected"), [
    (128, 8, 1, "16"), (128, 8, 8, "2"), (128, 8, 3, None), (128, 8, 32, None),
])
def test_update_freq_keeps_the_batch(sequences, each, workers, expected):
    done = subprocess.run(
        ["bash", "-c", f"source {ROOT}/tnn/environment.sh; "
                       f"update_freq {sequences} {each} {workers}"],
        text=True, capture_output=True, check=False,
        env={k: v for k, v in os.environ.items() if k != "UPDATE_FREQ"})
    if expected is None:
        assert done.returncode == 2
        assert "set UPDATE_FREQ" in done.stderr
    else:
        assert done.stdout.strip() == expected


def test_fork_checkpoint_by_the_script():
    """Published fork checkpoint, perplexity as the fork printed it."""
    done = run("length_extrapolation.sh", "tnn_v2_decay_99_pre", "128", "--num-workers", "0",
               DATA_DIR=str(FORK / "data-bin"), CHECKPOINT=str(FORK / "alm_fork_checkpoint.pt"))
    assert done.returncode == 0, done.stderr
    assert "Perplexity: 61.42" in done.stderr + done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", ["script_alm.sh", "script_blm.sh"])
def test_smoke(script):
    done = run(script, SMOKE="1")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    text = done.stdout + done.stderr
    losses = [float(loss) for loss in re.findall(r"epoch 001.*? loss=([\d.]+)", text)]
    assert losses[-1] < losses[0]
    if script == "script_alm.sh":
        assert len(re.findall(r"Perplexity: [\d.]+", text)) == 2
