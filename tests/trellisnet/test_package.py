"""What can be imported, and that flags are parsed before torch is."""

import subprocess
import sys
from pathlib import Path

import pytest

import trellisnet
from tests.trellisnet.small import SCRIPTS

ROOT = Path(__file__).resolve().parents[2]


def test_the_names_of_the_package():
    assert all(hasattr(trellisnet, name) for name in trellisnet.__all__)
    assert set(trellisnet.__all__) <= set(dir(trellisnet))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        trellisnet.nothing  # noqa: B018


WITHOUT_TORCH = """
import runpy, sys
import trellisnet
for path in sys.argv[1:]:
    for word in ("-h", "--nonsense"):
        sys.argv = [path, word]
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as stop:
            assert stop.code == (0 if word == "-h" else 2), (path, stop.code)
assert not {"torch", "numpy"} & set(sys.modules)
"""


def test_help_and_typing_mistakes_need_no_torch():
    paths = [str(ROOT / "trellisnet" / path) for path in (*SCRIPTS.values(), "generate.py",
                                                          "theorem1.py")]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *paths], cwd=ROOT, text=True,
                          capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: unrecognized arguments: --nonsense") == 5  # --load is missing
