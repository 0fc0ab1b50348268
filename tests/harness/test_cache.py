"""Caches of a user's data: used only if every byte is as it was written, open to his group."""

import os
import stat

import numpy as np
import pytest

from harness.cache import read_arrays, write_arrays

ARRAYS = {"ids": np.arange(50, dtype=np.int32), "words": np.frombuffer(b"a\nb", np.uint8)}


def same(found) -> bool:
    return found is not None and all(np.array_equal(found[name], ARRAYS[name]) for name in ARRAYS)


def test_every_changed_byte_is_noticed_or_means_nothing(tmp_path, capsys):
    """Of headers, names and numbers alike."""
    path, noticed = tmp_path / "cache.npz", 0
    write_arrays(path, ARRAYS)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
        found = read_arrays(path, ARRAYS)
        noticed += found is None
        assert found is None or same(found)
    assert noticed > len(whole) / 2
    assert capsys.readouterr().err.count("damaged cache") == noticed


def test_an_array_that_is_not_there_is_damage(tmp_path, capsys):
    write_arrays(tmp_path / "cache.npz", {"ids": ARRAYS["ids"]})
    assert read_arrays(tmp_path / "cache.npz", ("ids", "words")) is None
    assert "damaged cache" in capsys.readouterr().err


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_the_cache_is_as_open_as_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_arrays(tmp_path / "cache.npz", ARRAYS)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "cache.npz").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("name", [".cache.npz.part", "cache.npz"])
def test_a_planted_link_is_not_followed(tmp_path, name):
    """In a folder that others may write, a link may lead to a file of this user's."""
    mine = tmp_path / "mine.txt"
    mine.write_text("x")
    (tmp_path / name).symlink_to(mine)
    write_arrays(tmp_path / "cache.npz", ARRAYS)
    assert mine.read_text() == "x"
    assert same(read_arrays(tmp_path / "cache.npz"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such pipes")
def test_a_pipe_in_the_place_of_a_cache_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "cache.npz")
    assert read_arrays(tmp_path / "cache.npz") is None
    assert "is no file" in capsys.readouterr().err
    write_arrays(tmp_path / "cache.npz", ARRAYS)
    assert same(read_arrays(tmp_path / "cache.npz"))


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="needs root to be another user")
def test_a_cache_of_another_user_is_not_called_damaged(tmp_path, capsys):
    path = tmp_path / "cache.npz"
    write_arrays(path, ARRAYS)
    path.chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and "pytest" in folder.name:
            folder.chmod(0o755)
    os.seteuid(65534)
    try:
        assert read_arrays(path) is None
        write_arrays(path, ARRAYS)
    finally:
        os.seteuid(0)
    said = capsys.readouterr().err
    assert "not readable by this user" in said
    assert "no cache of the data" in said
    assert same(read_arrays(path))
