"""Data folders that several users share, can only read, or that belong to another user."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import requests

from getdata.settings import ROOT
from tests.getdata.server import BODY, stalled, whole

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"),
                                reason="only root can act as several users")
ANN, BEN, GROUP = 31_001, 31_002, 31_000


@pytest.fixture
def tmp_path():
    """A folder that other users can reach; pytest's own is closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def clone(tmp_path):
    """Root's clone, with the part that is tried here."""
    for package in ("getdata", "harness"):  # of this, what takes the lock
        shutil.copytree(ROOT / package, tmp_path / "clone" / package,
                        ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "getdata.sh", tmp_path / "clone")
    return tmp_path / "clone"


@pytest.fixture
def as_user(clone, tmp_path, monkeypatch):
    """A function: getdata.sh of another user, a member of GROUP, -> (exit status, stdout, stderr).
    Skips if other users have no Python here."""
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    monkeypatch.setenv("VENV", str(tmp_path / "venv"))
    monkeypatch.setenv("PYTHONPATH", str(Path(requests.__file__).parents[1]))

    def call(user, *arguments, mask="022"):
        run = subprocess.run(
            ["setpriv", f"--reuid={user}", f"--regid={user}", f"--groups={GROUP}", "sh", "-c",
             f'umask {mask}; exec "$@"', "sh", *arguments],
            capture_output=True, text=True, cwd="/", env=os.environ | {"HOME": "/nonexistent"})
        return run.returncode, run.stdout, run.stderr

    for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        python.write_text(f'#!/bin/sh\nexec {candidate} "$@"\n')
        python.chmod(0o755)
        if call(ANN, python, "-c", "import requests, filelock, tqdm, tomllib")[0] == 0:
            break
    else:
        pytest.skip("other users cannot run this Python")
    return lambda user, *words, **options: call(user, clone / "getdata.sh", *words, **options)


@pytest.fixture
def shared(place, as_user):
    """A data folder that ANN owns and all of GROUP may write to."""
    place.data.mkdir()
    os.chown(place.data, ANN, GROUP)
    place.data.chmod(0o2775)
    place.links.mkdir()
    os.chown(place.links, ANN, GROUP)
    place.links.chmod(0o2775)
    return place


@pytest.mark.parametrize("mask", ["002", "022"])
def test_the_second_user_of_a_shared_data_folder_needs_nothing_of_the_first(
        mask, site, shared, as_user):
    site.routes["/a.bin"] = whole(BODY)
    shared.one_file(f"{site.url}/a.bin")
    assert as_user(ANN, "toy", mask=mask)[0] == 0
    folder = shared.data / "toy"
    assert folder.stat().st_gid == GROUP
    assert folder.stat().st_mode & 0o7777 == 0o2777 & ~int(mask, 8)
    assert (folder / "a.bin").stat().st_mode & 0o777 == 0o666 & ~int(mask, 8)
    assert as_user(BEN, "toy", mask=mask) == (0, "toy: already there\n", "")
    assert as_user(BEN, "--verify", mask=mask) == (0, "toy: 1 files as recorded\n", "")


@pytest.mark.parametrize("mask", ["002", "022", "077"])
def test_what_the_first_user_left_half_done_does_not_stop_the_second(mask, site, shared, as_user):
    """A lock file, a folder of downloads with a part, a folder of a run that was killed."""
    site.routes["/a.bin"] = stalled(BODY, 200_000)
    shared.one_file(f"{site.url}/a.bin")
    shared.hurry()
    assert as_user(ANN, "toy", mask=mask)[0] == 1
    shared.hurry(30)
    assert (shared.data / ".downloads/toy-a.bin.part").exists()
    left = shared.data / ".new-killed"
    left.mkdir(mode=0o700)
    os.chown(left, ANN, ANN)
    site.routes["/a.bin"] = whole(BODY)
    code, _, err = as_user(BEN, "toy", mask=mask)
    assert (code, err) == (0, "")
    assert (shared.data / "toy/a.bin").read_bytes() == BODY


def test_a_read_only_data_folder_that_has_all_is_used_as_it_is(site, place, as_user):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    assert place.run()[0] == 0
    assert as_user(BEN, "toy") == (0, "toy: already there\n", "")
    (place.data / "toy/.complete").unlink()  # put there by hand
    assert as_user(BEN, "toy") == (0, "toy: already there\n", "")
    assert place.left() == ["toy/a.bin"]


def test_a_read_only_data_folder_that_lacks_something_is_one_line_with_the_remedy(
        site, place, as_user):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    place.data.mkdir()
    code, _, err = as_user(BEN, "toy")
    assert (code, err.count("\n")) == (1, 1)
    assert "Permission denied" in err
    assert "DATA_DIR=FOLDER" in err
    assert place.left() == []


def test_another_users_clone_is_used_with_a_data_folder_of_ones_own(
        site, place, as_user, clone, tmp_path, monkeypatch):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    monkeypatch.delenv("DATA_DIR")
    monkeypatch.delenv("GETDATA_LINKS")
    code, _, err = as_user(BEN, "toy")
    assert (code, err.count("\n")) == (1, 1)
    assert "DATA_DIR=FOLDER" in err
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, BEN, BEN)
    monkeypatch.setenv("DATA_DIR", str(own))
    assert as_user(BEN, "toy")[::2] == (0, "")
    assert (own / "toy/a.bin").read_bytes() == BODY
    monkeypatch.setenv("GETDATA_LINKS", str(clone))
    code, _, err = as_user(BEN, "toy")
    assert (code, err.count("\n")) == (0, 1)
    assert f"no link can be made (Permission denied): give the script {own / 'toy'}" in err


def test_a_downloads_folder_that_somebody_else_has_planted_is_not_followed(
        site, place, tmp_path):
    site.routes["/a.bin"] = stalled(BODY, 200_000)
    place.one_file(f"{site.url}/a.bin")
    (tmp_path / "victim").mkdir()
    place.data.mkdir()
    (place.data / ".downloads").symlink_to(tmp_path / "victim")
    os.lchown(place.data / ".downloads", ANN, GROUP)
    place.hurry()
    assert place.run()[0] == 1
    assert list((tmp_path / "victim").iterdir()) == []
    place.hurry(30)
    site.routes["/a.bin"] = whole(BODY)
    assert place.run()[0] == 0
    assert (place.data / "toy/a.bin").read_bytes() == BODY
    assert list((tmp_path / "victim").iterdir()) == []
