"""The scripts run as a user runs them, in processes of their own, on a small text."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from harness import files
from tests.awd_lstm.small import SETTINGS

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "awd_lstm"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def command(script, *flags) -> list[str]:
    return [sys.executable, str(SCRIPTS / script), *map(str, flags)]


def run(argv, cwd, code=0, path=None) -> subprocess.CompletedProcess:
    """Runs a command; its exit code must be `code`, and no traceback may show. path: a folder whose
    modules come before the installed ones."""
    environment = ENVIRONMENT | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(argv, cwd=cwd, env=environment, text=True, capture_output=True,
                          timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def training(folder, *flags) -> list:
    """Flags of a small run in `folder`."""
    return [*SETTINGS.split(), "--data", folder / "texts", "--save", folder / "m.pt",
            "--log-dir", folder / "logs", *flags]


def assert_same_files(folder, expected):
    """Weights, training state and curves, bit for bit."""
    for name in ("m.pt", "m.pt.state"):
        a, b = (files.read(f / name) for f in (folder, expected))
        assert a["model"].keys() == b["model"].keys()
        for key in a["model"]:
            assert torch.equal(a["model"][key], b["model"][key]), f"{name} {key}"
    for key in ("i", "step", "epoch", "stored_loss", "best_val_loss", "lr"):
        assert a["progress"][key] == b["progress"][key]
    assert torch.equal(a["processes"][0]["random"]["torch"],
                       b["processes"][0]["random"]["torch"])
    curves = [(f / "logs" / "m.pt" / "metrics.csv").read_text() for f in (folder, expected)]
    assert curves[0] == curves[1]
