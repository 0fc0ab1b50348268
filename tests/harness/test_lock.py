"""One run at a time writes to a place."""

import errno
import os
from pathlib import Path

import filelock
import pytest

from harness.endings import BadInput
from harness.lock import Lock

TOY = "tests.harness.toy"
BUSY = ("toy.py: --save m.pt: another run is writing there; wait for its end or give another "
        "--save")


class Alone:
    """Fabric of one process."""

    is_global_zero, world_size = True, 1

    @staticmethod
    def broadcast(value):
        return value


@pytest.fixture
def running(server, tmp_path):
    """A run that holds itself in its first save."""
    child = server.start(TOY, ["--save", "m.pt"], tmp_path, hold={"save": 0, "stage": "begin"})
    assert child.wait() is None
    yield child
    child.kill()
    child.wait()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_second_run_is_refused(server, running, tmp_path):
    """In one line, whatever it wants to do there and however it spells the place; it touches
    nothing."""
    (tmp_path / "link").symlink_to(tmp_path)
    before = files_of(tmp_path)
    for more in ([], ["--save", "link/m.pt"], ["--save", f"{tmp_path}/m.pt"]):
        done = server.run(TOY, ["--save", "m.pt", *more], tmp_path)
        assert done.code == 2
        assert done.complaints == [BUSY.replace("m.pt", (more or ["", "m.pt"])[1])]
    assert files_of(tmp_path) == before
    assert server.run(TOY, ["--save", "n.pt", "--max-steps", "1"], tmp_path).code == 0


def test_a_killed_run_frees_the_place(server, running, tmp_path):
    running.kill()
    assert running.wait().code == -9
    assert (tmp_path / ".m.pt.lock").exists()
    done = server.run(TOY, ["--save", "m.pt", "--max-steps", "1"], tmp_path)
    assert done.code == 0, done.err
    assert not (tmp_path / ".m.pt.lock").exists()


@pytest.mark.parametrize("flags", [["--max-steps", "1"], ["--spoil", "1"], ["--resume"],
                                   ["--devices", "0"]],
                         ids=["done", "failed", "refused", "no flags"])
def test_the_lock_goes_however_the_run_ends(server, tmp_path, flags):
    server.run(TOY, ["--save", "m.pt", *flags], tmp_path)
    assert not list(tmp_path.rglob(".*.lock"))


def test_of_runs_started_together_one_gets_the_place(server, tmp_path):
    """The others are refused; what is there in the end is one run's."""
    children = [server.start(TOY, ["--save", "m.pt", "--seed", str(seed)], tmp_path)
                for seed in range(5)]
    ended = [child.wait() for child in children]
    codes = [done.code for done in ended]
    assert set(codes) <= {0, 2}
    assert 0 in codes
    assert all(done.complaints == [BUSY] for done in ended if done.code)
    assert (tmp_path / "m.pt.txt").exists()


# ------------------------------------------------------------------- where there are no locks
@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"),
                                   OSError(errno.EOPNOTSUPP, "Operation not supported"),
                                   NotImplementedError("no locks")], ids=str)
def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys, error):
    """One line says so, and the run goes on."""
    lock = Lock(tmp_path / ".m.pt.lock")

    def refuse(*_, **__):
        raise error
    monkeypatch.setattr(lock.lock, "acquire", refuse)
    lock.acquire("--save m.pt", Alone)
    line, = capsys.readouterr().err.splitlines()
    assert line == (f"{tmp_path}: no lock can be had there ({error}); start no second run that "
                    "writes there")
    lock.release()


@pytest.mark.skipif(not filelock.has_fcntl, reason="needs flock")
def test_a_system_without_flock(tmp_path, monkeypatch, capsys):
    """filelock then makes a file that says who has the place; we say so in one line."""
    from filelock import _unix

    def missing(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    monkeypatch.setattr(_unix.fcntl, "flock", missing)
    lock, other = (Lock(tmp_path / ".m.pt.lock") for _ in range(2))
    lock.acquire("--save m.pt", Alone)
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path}: no flock there, so .m.pt.lock says who holds it")
    with pytest.raises(BadInput, match="another run is writing there"):
        other.acquire("--save m.pt", Alone)
    lock.release()
    other.acquire("--save m.pt", Alone)
    other.release()
    assert not list(tmp_path.iterdir())


def test_a_lock_file_that_cannot_be_removed(tmp_path, monkeypatch):
    """An open file, on Windows. The run has ended well all the same."""
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "in use")
    lock = Lock(tmp_path / ".m.pt.lock")
    lock.acquire("--save m.pt", Alone)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        lock.release()
    assert not lock.lock.is_locked
    again = Lock(tmp_path / ".m.pt.lock")
    again.acquire("--save m.pt", Alone)
    again.release()


def test_all_processes_are_refused_alike(tmp_path):
    """The first one's finding counts; the others take no lock."""
    class Other(Alone):
        is_global_zero = False

        @staticmethod
        def broadcast(value):
            assert value is False
            return True

    lock = Lock(tmp_path / ".m.pt.lock")
    with pytest.raises(BadInput, match=r"^--save m\.pt: another run is writing"):
        lock.acquire("--save m.pt", Other)
    assert not list(tmp_path.iterdir())
