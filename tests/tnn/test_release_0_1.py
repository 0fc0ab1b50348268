"""States and checkpoints of release 0.1 load, and a stopped run ends as it did with that code."""

import importlib
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.fixtures.release_0_1.make import outcome

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures/release_0_1"


def unpacked(case, tmp_path):
    """A folder as release 0.1 left it, beside its data."""
    shutil.copytree(FIXTURES / "inputs", tmp_path / "data")
    folder = tmp_path / case
    with tarfile.open(FIXTURES / case / "files.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs a script in a folder; returns what it said."""
    def run(folder, script, flags):
        monkeypatch.chdir(folder)
        importlib.import_module(script.removesuffix(".py").replace("/", ".")).main(flags.split())
        return capsys.readouterr().out
    return run


def assert_close(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("case", ["tnn_im", "tnn_lra"])
def test_a_stopped_run_goes_on(case, tmp_path, run):
    folder, call = unpacked(case, tmp_path), json.loads((FIXTURES / case / "command.json")
                                                        .read_text())
    theirs = json.loads((FIXTURES / case / "expected.json").read_text())["resumed"]
    said = run(folder, call["script"], f"{call['flags']} --resume")
    state = call["state"].replace(".state.pt", ".pt.state")
    ours = outcome(folder, said, state, call["stop"])
    assert (ours["epoch"], ours["step"]) == (theirs["epoch"], theirs["step"])
    assert_close(ours["said"], theirs["said"])
    assert [row[:3] for row in ours["rows"]] == [row[:3] for row in theirs["rows"]]
    assert_close([row[3] for row in ours["rows"]], [row[3] for row in theirs["rows"]])
    for name, values in theirs["parameters"].items():
        assert ours["parameters"][name]["shape"] == values["shape"]
        assert_close(ours["parameters"][name]["first"], values["first"])


@pytest.mark.parametrize("case", ["tnn_im", "tnn_lra"])
def test_the_originals_checkpoint_is_evaluated(case, tmp_path, run):
    folder, call = unpacked(case, tmp_path), json.loads((FIXTURES / case / "command.json")
                                                        .read_text())
    theirs = json.loads((FIXTURES / case / "expected.json").read_text())["bare"]
    said = run(folder, call["script"], f"{call['flags']} {call['bare']}")
    assert_close(outcome(folder, said, None)["said"], theirs["said"])
