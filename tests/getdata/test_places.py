"""Data folders in odd places: on another disk, on a file system without locks, with links that
somebody else has planted."""

import errno
import fcntl
import os
import subprocess

import pytest

from tests.getdata.server import BODY, OTHER, whole


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


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


# ------------------------------------------------------------------------------------------------
# Another disk


@pytest.mark.parametrize("depth", ["a.bin", "sub/a.bin"])
@pytest.mark.parametrize("there", ["nothing", "an old file", "all of the disk"])
def test_a_set_whose_folder_is_a_link_to_another_disk_is_completed_there(
        there, depth, site, place, disk):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin", to=depth)
    target = disk if there == "all of the disk" else disk / "toy"
    (target / depth).parent.mkdir(parents=True, exist_ok=True)
    if there == "an old file":
        (target / depth).write_bytes(OTHER)
    place.data.mkdir()
    (place.data / "toy").symlink_to(target)
    code, _, err = place.run()
    assert (code, err.count("\n")) == (0, there == "an old file")
    assert (target / depth).read_bytes() == BODY
    assert (target / depth).stat().st_mode & 0o777 == 0o666 & ~umask()
    assert (place.data / "toy").is_symlink()
    assert (place.links / "paper/data/toy" / depth).read_bytes() == BODY
    names = {path.name for path in target.rglob("*") if path.is_file()}
    assert names == {"a.bin", ".complete"} | ({"a.bin.old"} if there == "an old file" else set())
    assert place.run() == (0, "toy: already there\n", "")


def test_a_folder_inside_a_set_may_be_another_disk(site, place, disk):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin", to="sub/a.bin")
    (place.data / "toy").mkdir(parents=True)
    (place.data / "toy/sub").symlink_to(disk)
    assert place.run()[0] == 0
    assert (disk / "a.bin").read_bytes() == BODY


def test_the_data_folder_itself_may_be_a_link_to_another_disk(site, place, disk):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    place.data.symlink_to(disk)
    assert place.run()[0] == 0
    assert (disk / "toy/a.bin").read_bytes() == BODY
    assert (place.links / "paper/data/toy/a.bin").read_bytes() == BODY


def test_another_disk_that_is_too_full_is_one_line_and_leaves_nothing_half(site, place, disk):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    (disk / "toy").mkdir()
    (disk / "fill").write_bytes(bytes(4 * 2**20 - 200_000))
    place.data.mkdir()
    (place.data / "toy").symlink_to(disk / "toy")
    code, _, err = place.run()
    assert (code, err.count("\n")) == (1, 1)
    assert f"not enough disk space in {place.data / 'toy'}" in err
    assert list((disk / "toy").iterdir()) == []
    (disk / "fill").unlink()
    assert place.run()[0] == 0


def test_a_link_to_a_disk_that_is_not_there_is_one_line_and_stays(place):
    place.one_file("http://127.0.0.1:9/a.bin")
    place.data.mkdir()
    (place.data / "toy").symlink_to("/mnt/not-mounted/toy")
    code, _, err = place.run()
    assert (code, err.count("\n")) == (1, 1)
    assert "toy is in the way: a link to what is not there" in err
    assert os.readlink(place.data / "toy") == "/mnt/not-mounted/toy"


# ------------------------------------------------------------------------------------------------
# No locks


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO])
def test_a_file_system_without_locks_is_one_line_and_the_run_goes_on(
        number, site, place, monkeypatch):
    def refuse(handle, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    (place.data / ".new-other").mkdir(parents=True)  # perhaps of a run at this moment
    code, _, err = place.run()
    assert (code, err.count("\n")) == (0, 1)
    assert "no lock can be had" in err
    assert place.complete()
    assert (place.data / ".new-other").is_dir()


def test_a_kernel_without_flock_is_no_matter(site, place, monkeypatch, recwarn):
    """Then a lock is a file that says who holds it."""
    def refuse(handle, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    for _ in range(2):
        code, _, err = place.run()
        assert code == 0
        assert err.count("\n") <= 1
    assert place.complete()
    assert not recwarn.list


# ------------------------------------------------------------------------------------------------
# Links that somebody has planted


@pytest.mark.parametrize("how", ["link", "hard link", "dangling link", "pipe"])
@pytest.mark.parametrize("name", ["toy-a.bin.part", "toy-a.bin.part.tag"])
def test_what_is_planted_under_the_name_of_a_half_download_is_not_written_to(
        name, how, site, place, tmp_path):
    site.routes["/a.bin"] = whole(BODY, ETag='"v1"')
    place.one_file(f"{site.url}/a.bin")
    victim = tmp_path / "victim"
    if how != "dangling link":
        victim.write_text("precious")
    path = place.data / ".downloads" / name
    path.parent.mkdir(parents=True)
    if how == "pipe":
        os.mkfifo(path)
    elif how == "hard link":
        os.link(victim, path)
    else:
        path.symlink_to(victim)
    code, _, err = place.run()
    assert (code, err) == (0, "")
    assert place.complete()
    if how == "dangling link":
        assert not victim.exists()
    else:
        assert victim.read_text() == "precious"


@pytest.mark.parametrize("what", ["file", "link"])
def test_what_only_looks_like_a_killed_runs_folder_stays_and_stops_nothing(
        what, site, place, tmp_path):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("mine")
    place.data.mkdir()
    left = place.data / ".new-mine"
    left.write_text("mine") if what == "file" else left.symlink_to(tmp_path / "mine")
    assert place.run()[0] == 0
    assert os.path.lexists(left)
    assert (tmp_path / "mine/file").read_text() == "mine"


@pytest.mark.parametrize("where", ["toy", "toy/.complete.new"])
def test_a_planted_record_is_not_written_through(where, site, place, tmp_path):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (place.data / where).parent.mkdir(parents=True, exist_ok=True)
    (place.data / where).symlink_to(victim)
    code, _, err = place.run()
    assert victim.read_text() == "precious"
    assert code == (1 if where == "toy" else 0)
    assert err.count("\n") == code
