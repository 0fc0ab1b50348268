"""Of two runs in one --save-dir the second is refused; a killed one does not stand in the way."""

import argparse
import contextlib
import os
import subprocess
import sys

import pytest
import torch
from filelock import FileLock

from harness import files
from tests.exits import free_port
from tests.tnn.lm.conftest import FORK, ROOT

FLAGS = ["--user-dir", ROOT / "tnn/fairseq_plugin", "--task", "language_modeling", "--arch",
         "tnn_v2_decay_99_pre", "--decoder-embed-dim", "8", "--decoder-layers", "1",
         "--rpe-layers", "1", "--rpe-embedding", "8",
         "--tokens-per-sample", "16", "--optimizer", "adam", "--lr", "0.005", "--batch-size", "4",
         "--num-workers", "0", "--cpu", "--disable-validation", "--save-interval-updates", "2",
         "--no-epoch-checkpoints", "--log-format", "none", "--max-update", "4"]
REFUSED = "train.py: --save-dir {}: another run is writing there; wait for its end or give another "


def start(server, folder, *more, save=None, data=FORK / "data-bin", **hooks):
    argv = [data, *FLAGS, "--save-dir", save or folder, *more]
    return server.start("fairseq_cli.train", argv, folder, call="cli_main", **hooks)


def updates(folder) -> int:
    state = files.read(folder / "checkpoint_last.pt", safe=(argparse.Namespace,))
    return state["optimizer_history"][-1]["num_updates"]


def test_a_second_run_in_one_save_dir_is_refused(fairseq, tmp_path):
    first = start(fairseq, tmp_path, hold={"save": 1, "stage": "half"})
    assert first.wait() is None
    (tmp_path / "link").symlink_to(tmp_path)
    second = start(fairseq, tmp_path, save=f"{tmp_path}/link/").wait()
    assert second.code == 2, second.err
    assert second.complaints[0].startswith(REFUSED.format(tmp_path / "link"))
    assert len(second.complaints) == 1
    assert updates(tmp_path) == 2
    first.kill()
    assert first.wait().code == -9
    third = start(fairseq, tmp_path).wait()
    assert third.code == 0, third.err
    assert updates(tmp_path) == 4


def test_a_second_run_of_several_processes_is_refused_by_all(fairseq, tmp_path):
    """And says it once."""
    with FileLock(tmp_path / ".lock"):
        port = free_port()
        pair = [start(fairseq, tmp_path, "--distributed-world-size", "2", "--distributed-rank",
                      rank, "--distributed-init-method", f"tcp://127.0.0.1:{port}",
                      "--distributed-backend", "gloo", "--distributed-no-spawn") for rank in (0, 1)]
        done = [child.wait() for child in pair]
    assert [each.code for each in done] == [2, 2], done[0].err
    assert [sum("another run" in line for line in each.complaints) for each in done] == [1, 0]
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}


@pytest.mark.slow
def test_a_refusal_of_spawned_processes_is_the_commands_exit_code(tmp_path):
    """fairseq starts a process per GPU; here it is told that there are two."""
    code = ("import sys, torch; torch.cuda.device_count = lambda: 2; from fairseq_cli.train import "
            "cli_main; cli_main()")
    flags = [*map(str, [FORK / "data-bin", *FLAGS]), "--save-dir", str(tmp_path),
             "--distributed-world-size", "2", "--distributed-backend", "gloo", "--ddp-backend",
             "legacy_ddp"]
    with FileLock(tmp_path / ".lock") as lock:
        for expected in (2, 0):
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", code, *flags], capture_output=True,
                text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)})
            assert done.returncode == expected, done.stderr[-3000:]
            assert done.stderr.count("another run is writing there") == expected // 2
            lock.release()
    assert updates(tmp_path) == 4


@pytest.mark.parametrize("folder", ["file", "file/below", "closed/new"])
def test_a_save_dir_that_cannot_be_written_is_one_line(fairseq, tmp_path, folder):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "closed").mkdir(mode=0o500)
    if os.access(tmp_path / "closed", os.W_OK) and folder.startswith("closed"):
        pytest.skip("root may write everywhere")
    done = start(fairseq, tmp_path, save=tmp_path / folder).wait()
    assert done.code == 2
    assert len(done.complaints) == 1
    assert done.line.startswith(f"train.py: --save-dir {tmp_path / folder}: ")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_error_of_the_allocator_is_one_line(capsys):
    """As a length extrapolation meets it, inside any of fairseq's commands."""
    pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")
    from tnn.fairseq_plugin import commands

    def main(cfg):
        torch.empty(2**46)

    cfg = argparse.Namespace(distributed_training=argparse.Namespace(distributed_init_method=None),
                             common=argparse.Namespace(bf16=False, cpu=True))
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(commands, "fairseq_call_main", lambda cfg, main: main(cfg))
        patch.setattr(sys, "argv", ["eval_lm.py"])
        with pytest.raises(SystemExit) as stop:
            commands.call_main(cfg, main)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("eval_lm.py: these sizes need more memory than there is")
    assert said.count("\n") == 1
