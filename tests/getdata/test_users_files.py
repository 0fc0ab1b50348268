"""What a user has put, edited or linked where getdata's files and links should be."""

import os

import pytest

from getdata.builders import BUILDERS
from tests.getdata.server import BODY, whole

# ------------------------------------------------------------------------------------------------
# Files


def small_text(folder):
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text(f"{split} " * 100_000)


@pytest.fixture
def built(place, monkeypatch):
    """A data set that is built on the spot, as pydoc is."""
    monkeypatch.setitem(BUILDERS, "small_text", small_text)
    place.catalogue.write_text("""[sets.toy]
about = "a toy"
folder = "toy"
default = true
prepare = "small_text"
makes = ["train.txt", "valid.txt", "test.txt"]""")
    return place


EDITS = {
    "appended to": lambda path: path.write_text(path.read_text() + "mine\n"),
    "changed": lambda path: path.write_text("mine " + path.read_text()),
    "shortened and changed": lambda path: path.write_text("mine"),
    "a link": lambda path: (path.rename(path.with_name("elsewhere")),
                            path.symlink_to("elsewhere")),
    "a dangling link": lambda path: (path.unlink(), path.symlink_to("/no/such/place")),
    "a folder": lambda path: (path.unlink(), path.mkdir(), (path / "mine").write_text("mine")),
}


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "without record"])
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_file_is_kept_under_another_name_and_that_is_said(edit, recorded, built):
    assert built.run()[0] == 0
    file = built.data / "toy/train.txt"
    EDITS[edit](file)
    (built.data / "toy/valid.txt").unlink()
    if not recorded:
        (built.data / "toy/.complete").unlink()
    elsewhere = os.readlink(file) if file.is_symlink() else None
    content = None if file.is_dir() or not file.exists() else file.read_text()
    code, _, err = built.run()
    assert code == 0
    kept = file.with_name("train.txt.old")
    if edit == "a link" and content == file.read_text():
        assert file.is_symlink()  # the right content: the link may stay
        return
    assert err == "toy: train.txt was another file than getdata's: it is now train.txt.old\n"
    assert file.read_text() == "train " * 100_000
    if elsewhere:
        assert os.readlink(kept) == elsewhere
    elif kept.is_dir():
        assert (kept / "mine").read_text() == "mine"
    else:
        assert kept.read_text() == content
    assert built.run()[1] == "toy: already there\n"


def test_a_second_edit_does_not_overwrite_the_first(built):
    for number, old in enumerate(["train.txt.old", "train.txt.old2", "train.txt.old3"]):
        built.run()
        (built.data / "toy/train.txt").write_text(f"mine {number}")
        assert f" {old}\n" in built.run()[2]
    texts = [(built.data / f"toy/train.txt.old{n}").read_text() for n in ("", 2, 3)]
    assert texts == ["mine 0", "mine 1", "mine 2"]


@pytest.mark.parametrize("damage", ["cut short", "empty", "untouched"])
def test_a_piece_of_getdatas_own_file_is_replaced_without_a_copy(damage, built):
    assert built.run()[0] == 0
    if damage != "untouched":
        os.truncate(built.data / "toy/train.txt", 300_001 if damage == "cut short" else 0)
    (built.data / "toy/valid.txt").unlink()
    assert built.run()[0] == 0
    assert built.left() == ["toy/test.txt", "toy/train.txt", "toy/valid.txt"]
    assert (built.data / "toy/train.txt").read_text() == "train " * 100_000


# ------------------------------------------------------------------------------------------------
# Links


def test_an_existing_folder_in_the_way_of_a_link_is_left_alone(site, place):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    mine = place.links / "paper/data/toy"
    mine.mkdir(parents=True)
    (mine / "train.txt").write_text("mine")
    code, out, _ = place.run()
    assert code == 0
    assert "is no link" in out
    assert [path.name for path in mine.iterdir()] == ["train.txt"]
    assert not mine.is_symlink()


def test_a_users_link_to_a_disk_that_is_not_there_is_left_alone(site, place):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    link = place.links / "paper/data/toy"
    link.parent.mkdir(parents=True)
    link.symlink_to("/mnt/not-mounted/toy")
    code, out, _ = place.run()
    assert code == 0
    assert f"{link} exists and is no link to" in out
    assert os.readlink(link) == "/mnt/not-mounted/toy"


def test_a_dangling_link_of_getdatas_own_is_replaced(site, place):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    link = place.links / "paper/data/toy"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../../data/toy.before")
    assert place.run()[0] == 0
    assert (link / "a.bin").read_bytes() == BODY


def test_a_link_that_points_to_itself_is_left_alone(site, place):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    link = place.links / "paper/data/toy"
    link.parent.mkdir(parents=True)
    link.symlink_to("toy")
    assert place.run()[0] == 0
    assert os.readlink(link) == "toy"
