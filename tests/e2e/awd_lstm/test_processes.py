"""Several processes that share the work; a compiled model."""

import sys

import pytest
import torch

from harness import files
from tests.awd_lstm.small import SETTINGS, train, write_corpus
from tests.e2e.awd_lstm.scripts import SCRIPTS, assert_same_files, command, run, training

QUIET = ("--dropout", "0", "--dropouth", "0", "--dropouti", "0", "--dropoute", "0", "--wdrop", "0",
         "--epochs", "1")


def assert_close_to_one_process(folder, tmp_path_factory, rtol, *flags):
    alone = tmp_path_factory.mktemp("alone")
    write_corpus(alone / "texts")
    train("main", alone, *QUIET, *flags)
    ours, expected = (files.read(f / "m.pt") for f in (folder, alone))
    for key, value in expected["model"].items():
        torch.testing.assert_close(ours["model"][key], value, rtol=0, atol=rtol, msg=key)
    assert ours["valid_loss"] == pytest.approx(expected["valid_loss"], rel=rtol * 10)


# By default tests/trust/test_parallel.py holds several processes against one.
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["LSTM", "QRNN"])
def test_two_processes_share_an_uneven_batch(folder, tmp_path_factory, kind):
    """5 columns over 2 processes: each column counts the same, so the update is that of one
    process on the whole batch."""
    flags = ["--batch_size", "5", "--precision", "64", "--model", kind]
    done = run(command("main.py", *training(folder, *QUIET, *flags, "--devices", "2")), folder)
    assert done.stdout.count("| End of training") == 1
    assert files.read(folder / "m.pt")["model"]["encoder.weight"].dtype == torch.float64
    assert_close_to_one_process(folder, tmp_path_factory, 1e-10, *flags)


def test_torchrun(folder, tmp_path_factory):
    flags = ["--batch_size", "8"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
                "--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
                SCRIPTS / "main.py"]
    done = run([*map(str, torchrun), *map(str, training(folder, *QUIET, *flags))], folder)
    assert done.stdout.count("| End of training") == 1
    assert_close_to_one_process(folder, tmp_path_factory, 1e-5, *flags)


@pytest.mark.slow
def test_two_processes_agree_on_a_default_name(folder):
    """Without --save the name is the time, which must be one for all."""
    flags = [*SETTINGS.split(), "--data", "texts", "--log-dir", "logs", "--max-steps", "2",
             "--devices", "2"]
    run(command("main.py", *flags), folder)
    model, = folder.glob("*.pt")
    assert sorted(p.name for p in folder.glob("*.pt*")) == [model.name, f"{model.name}.state"]


@pytest.mark.slow
def test_two_processes_resume(folder, tmp_path_factory):
    """Bit for bit, each process with its own masks and hidden states."""
    expected = tmp_path_factory.mktemp("expected")
    write_corpus(expected / "texts")
    flags = ["--devices", "2", "--epochs", "2"]
    run(command("main.py", *training(expected, *flags)), expected)
    run(command("main.py", *training(folder, *flags, "--max-steps", "20")), folder)
    run(command("main.py", *training(folder, *flags, "--resume")), folder)
    assert_same_files(folder, expected)


@pytest.mark.slow
def test_compile(folder):
    done = run(command("main.py", *training(folder, "--compile", "--max-steps", "3")), folder)
    assert "| End of training" in done.stdout
