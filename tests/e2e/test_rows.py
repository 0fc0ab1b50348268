"""Every published row of the Makefile: it exists, and its shrunk form runs from data to record."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = """
awd-ptb awd-ptb-qrnn awd-wt2 awd-wt2-qrnn awd-ptbc awd-enwik8 awd-wt103 awd-scratch-ptb
trellis-ptb trellis-ptb-mos trellis-ptbc trellis-wt103 trellis-smnist trellis-pmnist trellis-scifar
sparse-ptb sparse-ptb-dense sparse-recite-dense sparse-recite-reduced sparse-recite-sparse1
sparse-recite-sparse2 sparse-pos-dense sparse-pos-sparse sparse-pos-down
tnn-alm tnn-extrapolation tnn-blm tnn-glue tnn-im-tiny tnn-im-small tnn-lra-listops tnn-lra-imdb
tnn-lra-aan tnn-lra-cifar tnn-lra-pathfinder tnn-lra-pathfinderx tnn-speed
""".split()


def make(*words: str, timeout: int = 600) -> subprocess.CompletedProcess:
    """`make`, in the environment that runs the tests, which is not set up anew."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "SMOKE": "1"}
    return subprocess.run(["make", "-o", f"{sys.prefix}/.ready", f"VENV={sys.prefix}", *words],
                          cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout,
                          check=False)


def test_every_row_is_listed_with_what_it_is():
    text = make("help").stdout
    listed = dict(re.findall(r"^  reproduce-(\S+) +(\S.*)$", text, re.MULTILINE))
    assert set(ROWS) <= set(listed)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("row", ROWS)
def test_the_shrunk_row_runs_and_is_recorded(row):
    shutil.rmtree(ROOT / "runs/smoke" / row, ignore_errors=True)
    records = ROOT / "runs/smoke/records" / row
    shutil.rmtree(records, ignore_errors=True)
    done = make(f"reproduce-{row}")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    if row == "tnn-speed":  # a table and a plot
        assert (ROOT / "runs/smoke/figures").is_dir()
        return
    record = json.loads(next(records.glob("*.json")).read_text())
    assert record["steps"]
    assert all(step["final"] for step in record["steps"])
