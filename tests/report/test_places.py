"""Runs in odd places: read-only, on another disk, on a file system without locks, in a clone that
another user owns."""

import errno
import fcntl
import os
import subprocess

import pytest

from report.provenance import git_state
from report.step_files import Step, locked
from tests.report.steps import GOOD, record_of, script


@pytest.fixture
def disk(tmp_path):
    """Another disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder]).returncode:
        pytest.skip("only root can mount a disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("link", ["runs", "runs/awd-ptb", "runs/awd-ptb/old"])
def test_what_a_row_leaves_may_be_on_another_disk(link, rec, tmp_path, disk):
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to(disk)
    path = script(tmp_path, GOOD)
    assert rec("run", "awd-ptb", "main", "--", path).returncode == 0
    redo = rec("run", "awd-ptb", "main", "--redo", "--", path, "--epoch", "5")
    assert redo.returncode == 0, redo.stderr
    assert record_of(tmp_path)["command"][-1] == "5"
    assert len(list((tmp_path / "runs/awd-ptb/old").glob("*/main.json"))) == 1


def test_a_folder_that_cannot_be_written_is_one_line_with_the_remedy(rec, tmp_path, disk):
    rec("run", "awd-ptb", "main", "--", script(tmp_path, GOOD))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    (tmp_path / "runs").rename(tmp_path / "others")
    (tmp_path / "runs").symlink_to(disk)
    done = rec("run", "awd-ptb", "main", "--", "true")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--workdir-root DIR names another folder" in done.stderr
    (tmp_path / "runs").unlink()
    (tmp_path / "others").rename(tmp_path / "runs")
    done = rec("finish", "awd-ptb", "--into", str(disk))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--into DIR names another folder" in done.stderr


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_locks_is_at_most_one_line(
        number, tmp_path, monkeypatch, capsys, recwarn):
    """Where the kernel has no flock at all, a file that says who holds it is the lock."""
    def refuse(handle, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):
        with locked(Step("awd-ptb", "main", tmp_path)):
            said = capsys.readouterr().err
        assert said.count("\n") <= 1
        assert number == errno.ENOSYS or "no lock can be had there" in said
    assert not recwarn.list


@pytest.fixture
def clone(tmp_path):
    """A clone with one commit, which belongs to another user."""
    if os.geteuid():
        pytest.skip("only root can give files away")
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / "file").write_text("one")
    git = ["git", "-C", str(clone), "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    for path in (clone, *clone.rglob("*")):
        os.chown(path, 31_001, 31_001)
    return clone


def test_a_clone_that_another_user_owns_has_its_commit_in_the_record(clone, monkeypatch):
    for name in ("SUDO_UID", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(clone.parent))  # no safe.directory of this machine's
    commit, dirty = git_state(clone)
    assert len(commit or "") == 40
    assert dirty is False
    (clone / "file").write_text("two")
    assert git_state(clone) == (commit, True)


def test_asking_for_the_commit_runs_nothing_of_the_clones(clone, tmp_path):
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path / 'was-run'}\n")
    hook.chmod(0o755)
    with open(clone / ".git/config", "a") as config:
        config.write(f"[core]\n\tfsmonitor = {hook}\n")
    assert git_state(clone)[0]
    assert not (tmp_path / "was-run").exists()
