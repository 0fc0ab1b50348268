"""Every published row of the Makefile: it exists, and its shrunk form runs from data to record."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from report.published import ROWS

ROOT = Path(__file__).resolve().parents[2]


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
