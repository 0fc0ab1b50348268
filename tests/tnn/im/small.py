"""Small runs of the trainer on the embedded digits."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from tnn.im import main as script

ROOT = Path(__file__).resolve().parents[3]
SIZES = ["--input-size", "32", "--arch-options", "patch_size=8", "embed_dim=32", "glu_dim=32",
         "depth=2"]


def write_digits(folder: Path, train: int = 320, test: int = 80) -> Path:
    """digits.npz with the first images, in getdata's format."""
    data = load_digits()
    images, labels = data.images.astype(np.uint8), data.target.astype(np.int64)
    np.savez(folder / "digits.npz", train_images=images[:train], train_labels=labels[:train],
             test_images=images[-test:], test_labels=labels[-test:])
    return folder


def flags(data: Path, out: str, *more: str) -> list[str]:
    """Four updates of 64 images an epoch; later flags win."""
    return ["--data-set", "DIGITS", "--data-path", str(data), *SIZES, "--device", "cpu",
            "--num_workers", "0", "--batch-size", "64", "--epochs", "3", "--warmup-epochs", "1",
            "--lr", "0.01", "--clip-grad", "5", "--output_dir", str(data / out),
            "--log-dir", str(data / "metrics"), *more]


def train(data: Path, out: str, *more: str):
    """In this process."""
    return script.main(flags(data, out, *more))


def command(data: Path, out: str, *more: str) -> list[str]:
    return [sys.executable, str(ROOT / "tnn/im/main.py"), *flags(data, out, *more)]


def start(data: Path, out: str, *more: str, **options):
    """As a process, its output in pipes."""
    return subprocess.Popen(command(data, out, *more), text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **options,
                            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"})


def finish(process) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    out, errors = process.communicate(timeout=240)
    return process.returncode, out, errors
