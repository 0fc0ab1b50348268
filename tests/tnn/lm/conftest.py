"""fairseq's commands as forks of one process that has imported fairseq, which takes seconds."""

import logging
import shutil
import sys
from pathlib import Path

import pytest

from tests.trust.forked import Server

ROOT = Path(__file__).resolve().parents[3]
FORK = ROOT / "tests/golden/cases/tnn_lm/cli"   # a checkpoint of the fork and its data
MODULES = ["torch._dynamo", "fairseq_cli.train", "fairseq_cli.eval_lm", "fairseq_cli.generate",
           "fairseq_cli.interactive", "tnn.fairseq_plugin", "tnn.lm.generate",
           "tnn.lm.prepare_glue", "tnn.lm.predict_glue"]


@pytest.fixture(scope="session")
def fairseq():
    """A tests.trust.forked.Server; its runs' working folders hold nothing but their own files."""
    pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")
    if sys.platform != "linux":
        pytest.skip("forks a process that uses torch")
    with Server(MODULES) as server:
        yield server


@pytest.fixture
def complaint(capsys):
    """complaint(main, argv): the one line on stderr with which main ends, exit code 2."""
    def call(main, argv):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in argv])
        said = capsys.readouterr().err
        assert stop.value.code == 2, said
        assert "Traceback" not in said
        lines = said.splitlines()
        return lines[-1] if lines[0].startswith("usage:") else said.removesuffix("\n")
    return call


@pytest.fixture
def fork(tmp_path):
    """A folder with the fork's checkpoint, fork.pt, and its dictionary."""
    shutil.copy(FORK / "alm_fork_checkpoint.pt", tmp_path / "fork.pt")
    shutil.copy(FORK / "data-bin/dict.txt", tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def loud():
    """The tools silence fairseq for the rest of their process."""
    yield
    logging.disable(logging.NOTSET)
