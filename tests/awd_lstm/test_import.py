"""What importing the toolkit costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import awd_lstm

ROOT = Path(__file__).resolve().parents[2]


def imported(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after `statement`."""
    program = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, check=True,
                          capture_output=True)
    return set(done.stdout.split())


def test_the_package_imports_no_torch():
    assert not imported("import awd_lstm; awd_lstm.MODELS") & {"torch", "numpy"}


@pytest.mark.parametrize("name", awd_lstm.__all__)
def test_models_need_torch_and_numpy_alone(name):
    found = imported(f"from awd_lstm import {name}")
    assert "torch" in found
    assert not found & {"lightning_fabric", "harness", "tensorboard", "filelock"}


def test_other_names_are_not_there():
    assert set(awd_lstm.__all__) <= set(dir(awd_lstm))
    with pytest.raises(AttributeError, match="Transformer"):
        _ = awd_lstm.Transformer
