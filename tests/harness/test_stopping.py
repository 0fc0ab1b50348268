"""How a kept run stops: signals, values that are not finite, a terminal that is gone, faults."""

import argparse
import errno
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness import curves, files, forecast
from tests.harness import toy
from tests.harness.keeping import assert_same_run
from tests.harness.same import same
from tests.trust.forked import ROOT

TOY = "tests.harness.toy"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
EQUAL = ("model", "optimizer", "processes", "progress", "best")


# --------------------------------------------------------------------------------- signals
@pytest.mark.parametrize(("signum", "where", "at"), [
    (signal.SIGINT, "update", 0), (signal.SIGINT, "update", 8), (signal.SIGTERM, "update", 6),
    (signal.SIGHUP, "backward", 0), (signal.SIGTERM, "save", 2), (signal.SIGINT, "saved", 1)])
def test_a_signal_saves_the_state(server, unbroken, tmp_path, signum, where, at):
    """Wherever it comes the run stops after the update, and goes on as if nothing had happened."""
    done = server.run(TOY, ["--save-interval", "4"], tmp_path,
                      send={"signal": signum, "where": where, "at": at})
    assert done.code == CODES[signum], done.err
    assert done.err == ""
    lines = done.out.splitlines()
    place = lines.index("Exiting from training early")
    assert lines[place + 1] == "To go on: the same command with --resume (m.pt.state)"
    closing_test = signum == signal.SIGINT and (tmp_path / "m.pt").exists()
    assert [line.split()[0] for line in lines[place + 2:]] == ["test"] * closing_test
    assert 0 < files.read(tmp_path / "m.pt.state")["progress"]["step"] < 15
    done = server.run(TOY, ["--save-interval", "4", "--resume"], tmp_path)
    assert done.code == 0, done.err
    assert_same_run(tmp_path, unbroken)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_second_signal_while_the_state_is_saved(server, unbroken, tmp_path, signum):
    """Impatience costs nothing."""
    child = server.start(TOY, [], tmp_path, hold={"save": 0, "stage": "sync"},
                         send={"signal": signum, "where": "update", "at": 2})
    assert child.wait() is None  # it holds itself inside the save that the signal asked for
    child.kill(signum)
    child.kill(signal.SIGCONT)
    assert child.wait().code == CODES[signum]
    assert files.read(tmp_path / "m.pt.state")["progress"]["step"] == 3
    assert server.run(TOY, ["--resume"], tmp_path).code == 0
    assert_same_run(tmp_path, unbroken)


def test_nohup_stays_nohup(here, monkeypatch):
    """A hang-up that is ignored when the run starts is ignored by it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    seen, own = [], toy.one_update

    def update(run, keeper):
        seen.append(signal.getsignal(signal.SIGHUP))
        os.kill(os.getpid(), signal.SIGHUP)
        own(run, keeper)
    monkeypatch.setattr(toy, "one_update", update)
    try:
        toy.main(["--epochs", "1"])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert set(seen) == {signal.SIG_IGN}


def test_ctrl_c_before_training_has_nothing_to_save(here, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(toy, "Run", interrupted)
    with pytest.raises(SystemExit) as stop:
        toy.main([])
    assert stop.value.code == 130
    assert capsys.readouterr().err == ""
    assert list(here.iterdir()) == []


def test_handlers_and_settings_are_put_back(here):
    handlers = {signum: signal.getsignal(signum) for signum in CODES}
    toy.main(["--precision", "64", "--epochs", "1"])
    assert {signum: signal.getsignal(signum) for signum in CODES} == handlers
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("stage", ["before the state", "behind the state"])
def test_a_signal_after_max_steps(server, unbroken, tmp_path, stage):
    """The state is written already; writing it again would be of other hidden states."""
    at = 7 if stage == "before the state" else 6
    done = server.run(TOY, ["--max-steps", "7"], tmp_path,
                      send={"signal": signal.SIGTERM, "where": "update", "at": at - 1})
    assert done.code in (0, 143)
    assert server.run(TOY, ["--resume"], tmp_path).code == 0
    assert_same_run(tmp_path, unbroken)


# ----------------------------------------------------------------------------- not finite
def test_a_loss_that_is_not_finite(server, unbroken, tmp_path):
    """Stopped before the update, with the state as it was; what was written stays good."""
    done = server.run(TOY, ["--spoil", "7", "--save-interval", "1"], tmp_path)
    assert done.code == 1
    assert done.complaints == [
        "toy.py: the loss is not finite at epoch 2, step 7; stopped before the update. Files "
        "written so far are good; a smaller --lr or --clip may help"]
    state = files.read(tmp_path / "m.pt.state")
    assert state["progress"]["step"] == 7
    assert all(value.isfinite().all() for value in state["model"].values())


def test_a_validation_loss_that_is_not_finite(here, monkeypatch, capsys):
    """No model is kept for it, and --resume does not begin with it."""
    def evaluate(run, keeper):
        return keeper.check_finite(float("nan"))
    monkeypatch.setattr(toy, "evaluate", evaluate)
    with pytest.raises(SystemExit) as stop:
        toy.main(["--save-interval", "2"])
    assert stop.value.code == 1
    assert capsys.readouterr().err == (
        "toy.py: the validation loss is nan at epoch 1, step 5. Files written so far are good; a "
        "smaller --lr may help\n")
    assert not Path("m.pt").exists()
    assert files.read("m.pt.state")["progress"]["step"] == 4


# ---------------------------------------------------------------------- faults, full disks
@pytest.mark.parametrize("error", [ValueError("a fault"), RuntimeError("a fault")], ids=repr)
def test_the_lock_and_the_handlers_go_with_a_fault(here, monkeypatch, error):
    """The error itself goes on, with its traceback."""
    def fail(*_):
        raise error
    handlers = {signum: signal.getsignal(signum) for signum in CODES}
    with monkeypatch.context() as patch:
        patch.setattr(toy, "one_update", fail)
        with pytest.raises(type(error)) as caught:
            toy.main([])
    assert caught.value is error
    assert {signum: signal.getsignal(signum) for signum in CODES} == handlers
    toy.main(["--epochs", "1"])  # the place is free


@pytest.mark.parametrize("save", [0, 1, 2])
def test_a_full_disk_is_one_line(server, unbroken, tmp_path, save):
    done = server.run(TOY, [], tmp_path, refuse={"save": save, "errno": errno.ENOSPC})
    assert done.code == 1
    name = ["m.pt", "m.pt.state", "m.pt"][save]
    assert done.complaints == [f"toy.py: [Errno 28] No space left on device: '{name}'"]
    resume = ["--resume"] if (tmp_path / "m.pt.state").exists() else []
    assert server.run(TOY, resume, tmp_path).code == 0
    ours, theirs = (files.read(folder / "m.pt.state") for folder in (tmp_path, unbroken))
    assert all(same(ours[key], theirs[key]) for key in EQUAL)


def test_a_disk_that_is_full_at_the_end(here, monkeypatch, capsys):
    """When the curves are closed: still one line, and the lock is free."""
    def close(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events")
    handlers = {signum: signal.getsignal(signum) for signum in CODES}
    with monkeypatch.context() as patch:
        patch.setattr(curves.Curves, "close", close)
        with pytest.raises(SystemExit) as stop:
            toy.main(["--epochs", "1"])
    assert stop.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        "toy.py: [Errno 28] No space left on device: 'events'"]
    assert {signum: signal.getsignal(signum) for signum in CODES} == handlers
    assert not list(here.glob(".*"))


# --------------------------------------------------------------------- a terminal that is gone
@pytest.mark.skipif(sys.platform == "win32", reason="no such pipes")
def test_a_reader_that_closes_the_pipe(server, unbroken, tmp_path):
    """`python main.py | head -1`: the run stops as on a hang-up, with its state saved, and says
    nothing about it."""
    reader, writer = os.pipe()
    run = subprocess.Popen([sys.executable, "-m", TOY], cwd=tmp_path, stdout=writer,
                           stderr=subprocess.PIPE, text=True,
                           env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    os.close(writer)
    os.close(reader)
    _, err = run.communicate(timeout=120)
    assert (run.returncode, err) == (129, "")
    assert (tmp_path / "m.pt.txt").read_text().startswith("epoch 1 loss")
    assert server.run(TOY, ["--resume"], tmp_path).code == 0
    assert_same_run(tmp_path, unbroken)


class Gone(io.StringIO):
    """An output that takes so many lines."""

    def __init__(self, lines: int, error: int):
        super().__init__()
        self.lines, self.error = lines, error

    def flush(self) -> None:
        if self.getvalue().count("\n") > self.lines:
            raise OSError(self.error, os.strerror(self.error))


@pytest.mark.parametrize(("error", "code", "said"), [
    (errno.EIO, 129, ""),  # a terminal that was closed, of a run that nohup keeps from SIGHUP
    (errno.ENOSPC, 1, "toy.py: [Errno 28] No space left on device: 'standard output'\n")])
@pytest.mark.parametrize("lines", [0, 1])
def test_what_it_says_cannot_be_written(unbroken, here, monkeypatch, capsys, error, code, said,
                                        lines):
    """`python main.py > log` on a full disk: the state is saved before the run stops."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Gone(lines, error))
        with pytest.raises(SystemExit) as stop:
            toy.main([])
    assert (stop.value.code, capsys.readouterr().err) == (code, said)
    assert 0 < files.read("m.pt.state")["progress"]["step"] < 15
    toy.main(["--resume"])
    assert_same_run(here, unbroken)


def test_a_last_line_that_cannot_be_written_is_no_success(here, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Gone(0, errno.ENOSPC))
        with pytest.raises(SystemExit) as stop:
            toy.main(["--max-steps", "5"])
    assert stop.value.code == 1
    assert "standard output" in capsys.readouterr().err


def test_nobody_reads_the_notices(unbroken, here, monkeypatch):
    """The forecast and the word on a damaged state go to a stderr that is gone: no run ends for
    that."""
    own, long = toy.one_update, forecast.Forecast(argparse.Namespace(), torch.device("cpu"))

    def update(run, keeper):
        own(run, keeper)
        long._say("days")
    monkeypatch.setattr(toy, "one_update", update)
    monkeypatch.setattr(sys, "stderr", gone := Gone(-1, errno.EPIPE))
    toy.main(["--save-interval", "3", "--max-steps", "8"])
    path = Path("m.pt.state")
    path.write_bytes(path.read_bytes()[:-100])
    toy.main(["--resume"])
    assert "forecast: days" in gone.getvalue()
    assert "going on from the state before it" in gone.getvalue()
    assert_same_run(here, unbroken)


def test_killed_at_any_moment_it_goes_on(server, unbroken, tmp_path):
    """SIGKILL at each stage of its third save."""
    flags = ["--save-interval", "2"]
    for stage in ("begin", "half", "sync", "rename", "done"):
        folder = tmp_path / stage
        folder.mkdir()
        child = server.start(TOY, flags, folder, hold={"save": 2, "stage": stage})
        assert child.wait() is None
        child.kill()
        assert child.wait().code == -9
        assert server.run(TOY, [*flags, "--resume"], folder).code == 0
        assert_same_run(folder, unbroken)
        assert not list(folder.glob(".*"))
