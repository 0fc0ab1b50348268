"""An earlier run's files get another name; no file is ever overwritten, no folder renamed."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import files


@pytest.fixture(params=[True, False], ids=["links", "no links"])
def any_file_system(request, monkeypatch):
    """Some know no second names."""
    def refuse(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    if not request.param:
        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("keep", [False, True], ids=["move", "keep"])
@pytest.mark.usefixtures("any_file_system")
def test_names_are_appended_and_numbered(tmp_path, keep):
    path = tmp_path / "m.v1.pt"
    assert files.set_aside(path, keep=keep) is None
    found = []
    for text in "abc":
        path.unlink(missing_ok=True)
        path.write_text(text)
        found.append(files.set_aside(path, keep=keep).name)
        assert path.exists() == keep
    assert found == ["m.v1.pt.old", "m.v1.pt.old2", "m.v1.pt.old3"]
    assert [(tmp_path / name).read_text() for name in found] == ["a", "b", "c"]
    assert len(list(tmp_path.iterdir())) == 3 + keep


def test_kept_twice_it_has_one_second_name(tmp_path):
    """Fine-tuning started again before it improved on anything."""
    path = tmp_path / "m.pt"
    path.write_text("a")
    assert {files.set_aside(path, "main", keep=True).name for _ in range(3)} == {"m.pt.main"}


@pytest.mark.usefixtures("any_file_system")
def test_a_kept_file_survives_the_replacement(tmp_path):
    path = tmp_path / "m.pt"
    files.write(path, {"a": 1})
    aside = files.set_aside(path, "main", keep=True)
    files.write(path, {"a": 2})
    assert (files.read(aside), files.read(path)) == ({"a": 1}, {"a": 2})


@pytest.mark.usefixtures("any_file_system")
@pytest.mark.parametrize("keep", [False, True], ids=["move", "keep"])
def test_a_folder_is_refused_and_stays(tmp_path, keep):
    """`--save models` where models/ holds a user's files."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/mine.pt").write_text("mine")
    with pytest.raises(ValueError, match="models is not a file: give another name"):
        files.set_aside(tmp_path / "models", keep=keep)
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == [
        "models", "models/mine.pt"]


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "m.pt")
    with pytest.raises(ValueError, match="is not a file"):
        files.set_aside(tmp_path / "m.pt")


@pytest.mark.usefixtures("any_file_system")
@pytest.mark.parametrize("taken", ["file", "folder", "broken link"])
def test_a_name_that_is_taken_by_anything_is_left_alone(tmp_path, taken):
    path, target = tmp_path / "m.pt", tmp_path / "m.pt.old"
    path.write_text("new")
    if taken == "file":
        target.write_text("older")
    elif taken == "folder":
        target.mkdir()
    else:
        target.symlink_to(tmp_path / "nowhere")
    assert files.set_aside(path).name == "m.pt.old2"
    assert not (tmp_path / "nowhere").exists()
    assert taken != "file" or target.read_text() == "older"
    assert target.is_symlink() == (taken == "broken link")


def test_a_link_is_moved_not_its_target(tmp_path):
    (tmp_path / "real.pt").write_text("mine")
    (tmp_path / "m.pt").symlink_to(tmp_path / "real.pt")
    files.set_aside(tmp_path / "m.pt")
    assert (tmp_path / "m.pt.old").is_symlink()
    files.write(tmp_path / "m.pt", {})
    assert (tmp_path / "real.pt").read_text() == "mine"


def test_processes_at_once_lose_nothing(tmp_path):
    """Each has a file of its own and wants the same second name."""
    paths = [tmp_path / f"{n}" / "m.pt" for n in range(16)]
    shared = tmp_path / "shared"
    shared.mkdir()
    for n, path in enumerate(paths):
        path.parent.mkdir()
        path.write_text(str(n))

    def aside(path: Path) -> None:
        target = shared / "m.pt"
        for _ in range(50):
            try:
                os.link(path, target)
            except FileExistsError:
                continue
            return
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(aside, paths))
        list(pool.map(lambda _: _quiet(shared / "m.pt"), range(8)))
    assert {p.read_text() for p in shared.iterdir()} <= {str(n) for n in range(16)}
    assert any(shared.iterdir())


def _quiet(path: Path) -> None:
    """One of them wins; the others find the file gone."""
    try:
        files.set_aside(path)
    except FileNotFoundError:
        return


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["m.pt", "m.pt.old", "m", "m.old", "m.pt.old2"]),
                                st.sampled_from(["old", "main"]), st.booleans()), max_size=12))
def test_whatever_the_order_no_content_is_lost(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("order")
    written = set()
    for n, (name, label, keep) in enumerate(steps):
        path = folder / name
        files.set_aside(path, label, keep)
        if path.exists():
            path.unlink()              # kept: its second name has the content
        path.write_text(str(n))
        written.add(str(n))
        assert {each.read_text() for each in folder.iterdir()} == written


def test_killed_on_the_way_nothing_is_lost(server, faults_library, tmp_path):
    """Before and behind every operation, and with every operation refused."""
    if faults_library is None:
        pytest.skip("no C compiler")
    for what in ("set aside", "keep"):
        for at in (1, 2):
            for how in ("before", "after", "fail", "fail on"):
                folder = tmp_path / f"{what}-{at}-{how}"
                folder.mkdir()
                (folder / "m.pt").write_text("mine")
                server.run("tests.harness.writes", [what, folder / "m.pt"], folder,
                           fault={"folder": str(folder), "how": how, "at": at,
                                  "errno": errno.ENOSPC})
                assert {path.read_text() for path in folder.iterdir()} == {"mine"}
