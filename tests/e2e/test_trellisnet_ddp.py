"""Several processes that share the batch compute what one process does on the whole of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness import files
from tests.trellisnet import small
from tests.trellisnet.small import NO_DROPOUT, NO_TEXT_DROPOUT, SCRIPTS, flags_of

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
            "--rdzv-endpoint", "localhost:0"]
# Columns and images that two cannot share evenly; of the last batch one has nothing.
SMALL = {"wt": [*NO_TEXT_DROPOUT, "--batch_size", "5", "--splits", "8", "20"],
         "seq": [*NO_DROPOUT, "--batch_size", "8"]}


def write_data(folder):
    small.write_data(folder, images=41)
    return folder


def two_processes(name, folder, *more, torchrun=False):
    argv = flags_of(name, folder, *more)
    start = TORCHRUN if torchrun else []
    argv += [] if torchrun else ["--devices", "2"]
    done = subprocess.run([sys.executable, *start, str(ROOT / "trellisnet" / SCRIPTS[name]), *argv],
                          cwd=folder, env=ENVIRONMENT, text=True, capture_output=True, timeout=200,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def assert_close(folder, expected, tolerance):
    """Weights after the last update, and every loss on the way."""
    ours, theirs = (files.read(f / "m.pt.state") for f in (folder, expected))
    assert ours["progress"]["step"] == theirs["progress"]["step"] > 4
    assert len(ours["processes"]) == 2
    for key, value in theirs["model"].items():
        torch.testing.assert_close(ours["model"][key], value, rtol=tolerance, atol=tolerance,
                                   msg=key)
    losses = [[line.split(",") for line in (f / "logs/m.pt/metrics.csv").read_text().splitlines()
               if "loss" in line] for f in (folder, expected)]
    assert len(losses[0]) == len(losses[1]) > 3
    for (*a, ours), (*b, theirs) in zip(*losses, strict=True):
        assert a == b
        assert float(ours) == pytest.approx(float(theirs), rel=tolerance), a


# By default tests/trust/test_parallel.py holds several processes against one.
@pytest.mark.slow
@pytest.mark.parametrize(("name", "torchrun"), [("wt", False), ("seq", True)],
                         ids=["wt-devices", "seq-torchrun"])
def test_two_processes_in_double_precision(tmp_path_factory, name, torchrun):
    """One process speaks, and the update is that of the whole batch."""
    folder, alone = (write_data(tmp_path_factory.mktemp(which)) for which in ("two", "one"))
    flags = [*SMALL[name], "--precision", "64"]
    said = two_processes(name, folder, *flags, torchrun=torchrun)
    assert said.count("Model total parameters") == 1
    small.train(name, alone, *flags)
    assert_close(folder, alone, 1e-10)
    assert_streams_of_their_own(folder, name)


def assert_streams_of_their_own(folder, name):
    """The processes' random states, from which their masks come, differ, and both are saved."""
    one, two = files.read(folder / "m.pt.state")["processes"]
    assert not torch.equal(one["random"]["torch"], two["random"]["torch"])
    if name == "wt":  # and their parts of the carried state: two and three of the five columns
        assert [part["own"]["hidden"][0].shape for part in (one, two)] == [(2, 20), (3, 20)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "torchrun"), [("wt", True), ("seq", False)],
                         ids=["wt-torchrun", "seq-devices"])
def test_two_processes_in_single_precision(tmp_path_factory, name, torchrun):
    folder, alone = (write_data(tmp_path_factory.mktemp(which)) for which in ("two", "one"))
    flags = [*SMALL[name], "--optim", "SGD", "--lr", "0.5"]
    two_processes(name, folder, *flags, torchrun=torchrun)
    small.train(name, alone, *flags)
    assert_close(folder, alone, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_two_processes_resume(tmp_path_factory, name):
    """Bit for bit, each process with its own masks and hidden states."""
    folder, expected = (write_data(tmp_path_factory.mktemp(which)) for which in ("a", "b"))
    two_processes(name, expected)
    two_processes(name, folder, "--max-steps", "4")
    two_processes(name, folder, "--resume")
    ours, theirs = (files.read(f / "m.pt.state") for f in (folder, expected))
    for key, value in theirs["model"].items():
        assert torch.equal(ours["model"][key], value), key
    for a, b in zip(ours["processes"], theirs["processes"], strict=True):
        assert torch.equal(a["random"]["torch"], b["random"]["torch"])


def test_the_number_of_processes_cannot_change(tmp_path, capsys):
    """Refused in one sentence: each process has its own part of the state."""
    write_data(tmp_path)
    small.train("seq", tmp_path, "--max-steps", "2")
    state = files.read(tmp_path / "m.pt.state")
    files.write(tmp_path / "m.pt.state", state | {"processes": state["processes"] * 2})
    with pytest.raises(SystemExit) as stop:
        small.train("seq", tmp_path, "--resume")
    assert stop.value.code == 2
    assert "is of 2 processes, not 1: give --devices 2" in capsys.readouterr().err
