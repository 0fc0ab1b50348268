"""The examples run as they stand."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_pieces():
    env = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, EXAMPLES / "pieces.py"], text=True, env=env,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    losses = [float(line.rsplit(maxsplit=1)[1]) for line in done.stdout.splitlines()]
    assert len(losses) == 5
    assert max(losses) < 3  # 3.7 by chance among the 40 words that occur


def test_quickstart(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    matplotlib.use("agg")
    cells = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in cells if cell["cell_type"] == "code")
    names: dict = {"__name__": "__main__"}
    for text in code:
        exec(text, names)
    said = capsys.readouterr().out
    chance = math.log(len(names["vocabulary"]))
    assert names["curve"][0] == pytest.approx(chance, abs=0.2)
    assert names["held_out"].item() < chance - 1.5
    assert len(said.splitlines()[-1].split()) == 43
