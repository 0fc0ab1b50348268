"""Files are written whole or not at all, and nothing of the user's is touched on the way."""

import errno
import os
import zipfile
from pathlib import Path

import pytest
import torch

from harness import files
from tests.harness import writes
from tests.harness.same import same
from tests.harness.writes import NEW, OLD, OLDER

CONTENT = {"format": "x", "tensor": torch.arange(7.0), "plain": [1, 2.5, "three", None, (4,)]}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_round_trip(tmp_path):
    files.write(tmp_path / "a.pt", CONTENT)
    assert same(files.read(tmp_path / "a.pt"), CONTENT)
    assert names(tmp_path) == {"a.pt"}


def test_anyone_can_read_it(tmp_path):
    """It is what torch.save writes."""
    path = tmp_path / "a.pt"
    files.write(path, CONTENT)
    assert same(torch.load(path, weights_only=True), CONTENT)
    assert same(torch.load(path, weights_only=True, mmap=True), CONTENT)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_the_one_before_is_kept(tmp_path):
    path = tmp_path / "a.pt"
    for content in (OLDER, OLD, NEW):
        files.write(path, content, keep_previous=True)
    assert (files.read(path)["n"], files.read(files.previous(path))["n"]) == (2, 1)
    assert names(tmp_path) == {"a.pt", "a.pt.prev"}


def test_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """And then the name itself: a power cut must find one of the two files."""
    order = []
    for name in ("fsync", "replace"):
        own = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, own=own, name=name: (
            order.append(name), own(*a))[1])
    files.write(tmp_path / "a.pt", CONTENT)
    assert order == ["fsync", "replace", "fsync"]


# ------------------------------------------------------------------------ what goes wrong
@pytest.mark.parametrize("where", ["save", "fsync", "replace"])
def test_ctrl_c_leaves_the_old_file(tmp_path, monkeypatch, where):
    """A KeyboardInterrupt may come anywhere."""
    path = tmp_path / "a.pt"
    files.write(path, OLD)

    def stop(*_):
        raise KeyboardInterrupt

    def half(content, file):
        file.write(b"PK\3\4" * 20)
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(*{"save": (torch, "save", half), "fsync": (os, "fsync", stop),
                        "replace": (os, "replace", stop)}[where])
        with pytest.raises(KeyboardInterrupt):
            files.write(path, NEW)
    assert files.read(path)["n"] == 1
    assert names(tmp_path) == {"a.pt"}


@pytest.fixture
def operations(server, faults_library, tmp_path):
    """What one process does to files: [operation, ...]."""
    if faults_library is None:
        pytest.skip("no C compiler")

    def count(what: str, name: str) -> list[str]:
        folder, log = tmp_path / "counted", tmp_path / "operations"
        prepare(folder)
        done = server.run("tests.harness.writes", [what, folder / name], folder,
                          fault={"folder": str(folder), "log": str(log)})
        assert done.code == 0, done.err
        return [line.split()[0] for line in log.read_text().splitlines()]
    return count


def prepare(folder: Path) -> Path:
    folder.mkdir()
    for content in (OLDER, OLD):
        files.write(folder / "a.pt", content, keep_previous=True)
    return folder / "a.pt"


def broken(server, tmp_path, what: str, how: str, at: int, error: int = 0):
    """One process in which that operation goes wrong. Returns how it ended and the file."""
    folder = tmp_path / f"{how}-{at}-{error}"
    path = prepare(folder)
    done = server.run("tests.harness.writes", [what, path], folder,
                      fault={"folder": str(folder), "how": how, "at": at, "errno": error})
    return done, path


def test_killed_at_every_operation(server, tmp_path, operations):
    """Before it, behind it, half-way through a write: the old file or the new one, and the one
    before it, whole; and the next write succeeds."""
    done = operations("write", "a.pt")
    assert {"open", "write", "fsync", "link", "rename", "unlink"} <= set(done)
    for at, operation in enumerate(done, 1):
        for how in ("before", "after", *(["half"] if operation == "write" else [])):
            ended, path = broken(server, tmp_path, "write", how, at)
            assert ended.code == -9
            now, before = files.read(path)["n"], files.read(files.previous(path))["n"]
            assert (now, before) in {(1, 0), (1, 1), (2, 1)}, (how, at, operation)
            files.write(path, NEW, keep_previous=True)
            assert names(path.parent) <= {"a.pt", "a.pt.prev", ".a.pt.link"}


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("how", ["fail", "fail on"])
def test_refused_at_every_operation(server, tmp_path, operations, how, error):
    """Either the file was written (a second name was not to be had), or the error names it, the old
    one is there, and nothing half-made."""
    for at in range(1, len(operations("write", "a.pt")) + 1):
        ended, path = broken(server, tmp_path, "write", how, at, error)
        now = files.read(path)["n"]
        if ended.code == 0:
            assert now == 2
        else:
            assert now == 1
            assert ended.line == f"OSError: [Errno {error}] {os.strerror(error)}: '{path}'"
        assert files.read(files.previous(path))["n"] in (0, 1)
        assert names(path.parent) - {".a.pt.link"} == {"a.pt", "a.pt.prev"}


# ------------------------------------------------------------------------- links and leftovers
def test_what_a_killed_process_left_does_not_matter(tmp_path):
    for leftover in (".a.pt.part", ".a.pt.link"):
        (tmp_path / leftover).write_bytes(b"x" * 100_000)
    for content in (OLD, NEW):
        files.write(tmp_path / "a.pt", content, keep_previous=True)
    assert files.read(tmp_path / "a.pt.prev")["n"] == 1
    assert names(tmp_path) == {"a.pt", "a.pt.prev"}


def test_a_link_stays_and_its_target_is_written(tmp_path):
    """To another disk, for instance: the temporary file must lie beside the target."""
    (tmp_path / "disk").mkdir()
    link = tmp_path / "a.pt"
    link.symlink_to(tmp_path / "disk/real.pt")
    for content in (OLDER, OLD, NEW):
        files.write(link, content, keep_previous=True)
    assert link.is_symlink()
    assert files.read(tmp_path / "disk/real.pt")["n"] == 2
    assert names(tmp_path / "disk") == {"real.pt", "real.pt.prev"}
    (tmp_path / "disk/real.pt").write_bytes(b"damaged")
    assert files.read_or_previous(link)["n"] == 1


@pytest.mark.parametrize("name", [".a.pt.part", ".a.pt.link"])
def test_a_planted_link_is_not_followed(tmp_path, name):
    """In a folder where others may write."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / name).symlink_to(victim)
    for content in (OLD, NEW):
        files.write(tmp_path / "a.pt", content, keep_previous=True)
    assert victim.read_text() == "mine"
    assert names(tmp_path) == {"victim", "a.pt", "a.pt.prev"}


def test_a_link_planted_in_between_is_not_followed(tmp_path, monkeypatch):
    """After the old one was removed, before the file is opened."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".a.pt.part").symlink_to(victim)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(OSError, match=r"a\.pt"):
            files.write(tmp_path / "a.pt", NEW)
    assert victim.read_text() == "mine"
    assert not (tmp_path / "a.pt").exists()


def test_a_folder_in_the_way_is_left_alone(tmp_path):
    for name in (".a.pt.part", "b.pt"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    for name in ("a.pt", "b.pt"):
        with pytest.raises(OSError, match=name.replace(".", r"\.")):
            files.write(tmp_path / name, NEW)
    assert {p.name for p in tmp_path.rglob("mine")} == {"mine"}
    assert not (tmp_path / "a.pt").exists()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match=r"none/a\.pt") as caught:
        files.write(tmp_path / "none/a.pt", NEW)
    assert caught.value.errno == errno.ENOENT


def test_a_file_system_without_links(tmp_path, monkeypatch):
    """There is no file before the present one then, but there is the present one."""
    def refuse(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    files.write(tmp_path / "a.pt", OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        files.write(tmp_path / "a.pt", NEW, keep_previous=True)
    assert files.read(tmp_path / "a.pt")["n"] == 2
    assert names(tmp_path) == {"a.pt"}


def test_what_is_no_plain_value_is_an_error_of_the_program(tmp_path):
    """It keeps its own type, and the old file stays."""
    files.write(tmp_path / "a.pt", OLD)
    with pytest.raises((TypeError, AttributeError, RuntimeError)) as caught:
        files.write(tmp_path / "a.pt", {"function": lambda: 0})
    assert not isinstance(caught.value, OSError)
    assert files.read(tmp_path / "a.pt")["n"] == 1
    assert names(tmp_path) == {"a.pt"}


def test_the_processes_know_their_commands(server, tmp_path):
    assert server.run(writes.__name__, ["nothing", "x"], tmp_path).code == 1
