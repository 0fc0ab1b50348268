"""fairseq-train with the plugin: killed and resumed, and on two processes."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from harness import files
from tests.exits import free_port

pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / "tests/golden/cases/tnn_lm/cli/data-bin"
COMMON = [str(DATA), "--user-dir", "tnn/fairseq_plugin", "--tokens-per-sample", "32",
          "--rpe-layers", "1", "--optimizer", "adam", "--adam-betas", "(0.9, 0.98)",
          "--weight-decay", "0.2", "--clip-norm", "1", "--lr", "0.005", "--batch-size", "4",
          "--num-workers", "0", "--disable-validation", "--cpu", "--log-interval", "1",
          "--log-format", "simple"]
CAUSAL = [*COMMON, "--task", "language_modeling", "--arch", "tnn_v2_decay_99_pre",
          "--decoder-embed-dim", "16", "--decoder-layers", "2", "--lr-scheduler", "inverse_sqrt",
          "--warmup-updates", "4", "--warmup-init-lr", "1e-7", "--share-decoder-input-output-embed"]
MASKED = [*COMMON, "--task", "masked_lm", "--criterion", "masked_lm", "--arch",
          "roberta_tnn_v2_decay_99", "--encoder-embed-dim", "16", "--encoder-layers", "2",
          "--mask-padding", "--lr-scheduler", "polynomial_decay", "--total-num-update", "50",
          "--warmup-updates", "4", "--sample-break-mode", "complete"]


def start(flags, folder, updates):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.exits", "fairseq_cli.train", *flags,
         "--save-dir", str(folder), "--max-update", str(updates)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(*processes) -> str:
    """The first one's output, once all have ended well."""
    texts = [process.communicate(timeout=300)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), texts[0][-3000:]
    return texts[0]


def state(folder):
    """The last checkpoint: weights, optimiser state, and where in the data it stands."""
    saved = files.read(folder / "checkpoint_last.pt", safe=(argparse.Namespace,))
    return saved["model"], saved["last_optimizer_state"]["state"], saved["extra_state"][
        "train_iterator"]


def assert_same(a, b, **tolerance):
    for name, value in a.items():
        if isinstance(value, dict):
            assert_same(value, b[name], **tolerance)
        elif torch.is_tensor(value):
            torch.testing.assert_close(b[name], value, **tolerance, msg=name)
        else:
            assert b[name] == value, name


@pytest.mark.slow
@pytest.mark.parametrize("flags", [CAUSAL, MASKED], ids=["causal", "masked"])
def test_killed_and_resumed_is_exact(flags, tmp_path):
    """With dropout, in the middle of an epoch: the same bits, optimiser state included."""
    flags = [*flags, "--save-interval-updates", "5", "--keep-interval-updates", "1"]
    finish(start(flags, tmp_path / "whole", 40))
    killed = start(flags, tmp_path / "parts", 40)
    end = time.monotonic() + 120
    while not list((tmp_path / "parts").glob("checkpoint_*_10.pt")):
        assert killed.poll() is None, killed.communicate()[0][-3000:]
        assert time.monotonic() < end
        time.sleep(0.01)
    # Copies of the newest checkpoint, among them checkpoint_last.pt, may still be being written.
    while not re.search(r"num_updates=1[1-9]", killed.stdout.readline()):
        pass
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    text = finish(start(flags, tmp_path / "parts", 40))
    at = int(re.search(r"Loaded checkpoint .* @ (\d+) updates", text)[1])
    assert 10 <= at < 40
    for whole, parts in zip(state(tmp_path / "whole"), state(tmp_path / "parts"), strict=True):
        assert_same(whole, parts, atol=0, rtol=0)


def losses(text):
    return [float(value) for value in re.findall(r"epoch 001:.*? loss=([\d.]+)", text)]


def one_and_two_processes(flags, folder, updates):
    """One process that accumulates two batches against two processes with one each."""
    flags = [*flags, "--dropout", "0"]
    port = free_port()
    pair = [start([*flags, "--distributed-world-size", "2", "--distributed-rank", str(rank),
                   "--distributed-init-method", f"tcp://127.0.0.1:{port}", "--distributed-backend",
                   "gloo", "--distributed-no-spawn", "--ddp-backend", "legacy_ddp"],
                  folder / "two", updates) for rank in (0, 1)]
    alone = start([*flags, "--update-freq", "2"], folder / "one", updates)
    one, two = losses(finish(alone)), losses(finish(*pair))
    assert len(one) == updates
    assert one[-1] < one[0]
    assert two == pytest.approx(one, abs=1.1e-3)  # as printed; to more digits by the weights:
    assert_same(state(folder / "one")[0], state(folder / "two")[0], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batches(tmp_path):
    one_and_two_processes(CAUSAL, tmp_path, 6)


@pytest.mark.slow
def test_two_processes_equal_one_when_masked(tmp_path):
    one_and_two_processes(MASKED, tmp_path, 20)
