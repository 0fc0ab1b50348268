"""The speed test and the benchmark of the Long Range Arena run and say what they should."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tnn import speed_test

ROOT = Path(__file__).resolve().parents[3]


def test_table_and_figure(tmp_path, capsys):
    torch.manual_seed(1)
    rows = speed_test.main([
        "--lengths", "256", "512", "--steps", "1", "--device", "cpu", "--settings", "yaml",
        "--models", "TNN", "transformer", "linear attention", "S4D", "--out", str(tmp_path)])
    with (tmp_path / "tnn_speed.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert len(rows) == len(written) == 8
    for row in rows:
        assert row["ms_per_step"] > 0
        assert row["memory_mib"] > 0
        if row["model"] == "transformer":
            assert row["relative_to_transformer"] == 1
    memory = {(row["model"], row["length"]): row["memory_mib"] for row in rows}
    assert all(1.5 < memory[model, 512] / memory[model, 256] < 2.5
               for model in ("TNN", "linear attention"))
    assert "<svg" in (tmp_path / "tnn_speed.svg").read_text()
    assert "float32" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "said"), [
    (["--lengths", "20000"], "16384"), (["--models", "TNN"], "transformer"),
    (["--steps", "0"], "--steps")])
def test_bad_input(flags, said, capsys):
    with pytest.raises(SystemExit) as stop:
        speed_test.main(flags)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_benchmark_compares_equal_gradients():
    """In double precision the plain form and ours agree to rounding."""
    for task in ("imdb", "cifar"):
        done = subprocess.run([sys.executable, ROOT / "benchmarks/tnn_lra.py", "--task", task,
                               "--length", "64", "--batch", "2", "--repeats", "1"],
                              capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stderr
        line = next(x for x in done.stdout.splitlines() if "relative difference" in x)
        assert float(line.split()[-1]) < 1e-10
        assert "transformer" in done.stdout
