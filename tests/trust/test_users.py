"""Several users: texts and images in a folder that their group shares, or that only its owner may
write. What the first one's run leaves there (caches) must not stand in the second one's way."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.trust.hooks import GROUP
from tests.trust.scripts import SCRIPTS

pytestmark = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0,
                                reason="only the superuser can become other users")
FIRST, SECOND = 54321, 54322
FAST = ("awd-main", "word-ptb")  # each with a cache of its own kind
every_script = pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in SCRIPTS
    if not SCRIPTS[name].before])


@pytest.fixture
def home():
    """A folder that all users can reach: pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="users-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def data_of(place, script, home, mode: int) -> Path:
    """A copy of the script's data without caches, the group's."""
    data = home / "data"
    shutil.copytree(place.data / script.data, data / script.data,
                    ignore=shutil.ignore_patterns(".*", "*cache*"))
    for path in (data, *data.rglob("*")):
        os.chown(path, FIRST, GROUP)
        path.chmod(mode if path.is_dir() else 0o664)
    return data


def run_as(place, script, home, data, user: int):
    """Three updates; returns how it ended."""
    folder = home / f"user-{user}"
    folder.mkdir()
    os.chown(folder, user, user)
    environment = {"HOME": str(folder), "KERNELS": "0", "TMPDIR": str(folder)}
    argv = script.argv(folder, data, "--max-steps", "3", "--log-dir", "curves")
    return place.server.start(script.module, argv, folder, environment=environment,
                              user=user).wait()


@every_script
@pytest.mark.parametrize("mode", [
    pytest.param(0o2775, id="shared with the group"),
    pytest.param(0o755, id="the owner's", marks=pytest.mark.slow)])
def test_two_users_of_one_data_folder(place, home, name, mode):
    """Both orders, since it is the first who makes the caches."""
    script = SCRIPTS[name]
    for users in ((FIRST, SECOND), (SECOND, FIRST)):
        data = data_of(place, script, home, mode)
        for user in users:
            done = run_as(place, script, home, data, user)
            assert done.code == 0, done.err
            assert "Traceback" not in done.err, done.err
            assert "damaged" not in done.err + done.out
            assert len(done.complaints) <= 1, done.err
            shutil.rmtree(home / f"user-{user}")
        shutil.rmtree(data)
        place.count("users", "runs of two users on one data folder")


@every_script
def test_another_users_run_is_not_touched(place, home, name):
    """--save that names a folder or file of another: one line, exit code 2, and nothing changes."""
    script = SCRIPTS[name]
    data = data_of(place, script, home, 0o2775)
    assert run_as(place, script, home, data, FIRST).code == 0
    folder = home / f"user-{FIRST}"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for more in ([], ["--resume"]):
        done = place.server.start(
            script.module,
            script.argv(folder, data, "--max-steps", "3", "--log-dir", "curves", *more), folder,
            environment={"HOME": str(home), "KERNELS": "0"}, user=SECOND).wait()
        assert "Traceback" not in done.err, done.err
        assert done.code in (1, 2), done.err
        assert len(done.complaints) == 1, done.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    place.count("users", "another user's run left alone, in one line")
