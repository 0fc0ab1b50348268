"""-h and typing mistakes are answered before anything slow is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

TNN = Path(__file__).resolve().parents[2] / "tnn"
SCRIPTS = ["im/main.py", "lra/main.py", "lra/tasks/listops.py", "lra/tasks/pathfinder.py",
           "lm/extrapolation.py", "lm/figure.py", "lm/generate.py", "lm/predict_glue.py",
           "lm/prepare_glue.py", "lm/prepare_text.py", "lm/score.py", "script_lra.py",
           "speed_test.py"]
# Runs a script as a program; says which slow modules were imported, then ends as it did.
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("slow:", [m for m in ("torch", "timm", "numpy", "matplotlib") if m in sys.modules])
"""


def answer(script, *flags):
    return subprocess.run([sys.executable, "-c", RUN, str(TNN / script), *flags], text=True,
                          capture_output=True, check=False)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_slow(script):
    done = answer(script, "-h")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert done.stdout.splitlines()[-1] == "slow: []"


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s != "script_lra.py"])
def test_a_mistyped_flag_is_named_at_once(script):
    done = answer(script, "--no-such-flag")
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == "slow: []"
    assert "no-such-flag" in done.stderr or "are required" in done.stderr


def test_all_commands_are_tried():
    """All that take flags."""
    found = {str(path.relative_to(TNN)) for path in TNN.rglob("*.py")
             if "argparse" in (text := path.read_text()) and 'if __name__ == "__main__"' in text}
    assert found == set(SCRIPTS)
