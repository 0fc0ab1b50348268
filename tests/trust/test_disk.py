"""A save that fails (full disk, read-only disk, quota) is one clear line and exit code 1; what was
saved before stays whole, and the run goes on from there when there is room again."""

import errno
import os
import shutil
import subprocess

import pytest

from tests.trust.runs import assert_same_run, events, step_of
from tests.trust.scripts import SCRIPTS

ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO)


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_save_that_fails(place, script, times):
    """Half-way through the file, at random saves: of states and of models."""
    rng, expected = place.random("disk", script.name, times), place.unbroken(script)
    for _ in range(times):
        folder = place.folder(script)
        refuse = {"save": rng.randrange(1, expected.saves), "errno": rng.choice(ERRORS)}
        print(refuse)
        journal = place.home / f"{folder.name}.journal"
        done = place.run(script, folder, code=1, refuse=refuse, journal=str(journal))
        assert len(done.complaints) == 1, done.err
        failed = [event for event in events(journal) if event["what"] == "save"][-1]["name"]
        assert failed.strip(".").removesuffix(".part") in done.line, done.line
        for name in (script.state, *script.models):
            if (folder / name).is_file():
                script.read(folder / name)
        assert not list(folder.rglob(".*.part"))
        resume = ["--resume"] if step_of(script, folder) is not None else []
        assert_same_run(script, folder, place.run(script, folder, *resume), expected)
        place.count("disk", "failed saves: one line, files before it whole, resumed bit for bit")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of eight megabytes: an LRA model, its state and a new one of it need three."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)],
                             capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == "awd-main" else [
    pytest.mark.slow]) for name in SCRIPTS])
@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount here")
def test_a_small_file_system_that_is_really_full(place, small_disk, name):
    """However many bytes are left: one line, the state before it whole; and with room again the run
    goes on, bit for bit."""
    script, folder = SCRIPTS[name], small_disk / "run"
    expected, elsewhere = place.unbroken(script), place.folder(script)
    shutil.copytree(elsewhere, folder)

    def run(*more):
        """What it prints goes to another disk."""
        done = place.server.run(script.module, script.argv(folder, place.data, *more), elsewhere)
        assert "Traceback" not in done.err, done.err
        return done

    assert run("--max-steps", "10").code == 0
    for free in (0, 4096, 12288, 24576):
        before = step_of(script, folder)
        with (small_disk / "ballast").open("wb") as file:
            left = os.statvfs(small_disk)
            file.write(b"x" * (left.f_bavail * left.f_bsize - free))
        done = run("--resume")
        if done.code:  # what was left was enough for the end of a very small run
            assert done.code in (1, 2), done.err
            assert len(done.complaints) == 1, done.err
            assert "No space left" in done.line
            assert str(small_disk) in done.line, done.line
        assert step_of(script, folder) >= before
        (small_disk / "ballast").unlink()
        place.count("disk", "really full file system: one line, state before it whole")
    assert_same_run(script, folder, run("--resume"), expected)
