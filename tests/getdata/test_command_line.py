"""What a second run does with what is there already; flags, environment, catalogue."""

import os

import pytest

from getdata.builders import BUILDERS
from getdata.settings import ROOT, read_job
from tests.getdata.place import facts, leave_part
from tests.getdata.server import BODY, OTHER, whole

# ------------------------------------------------------------------------------------------------
# What is there already


@pytest.mark.parametrize("damage", ["gone", "short", "no record", "record broken"])
def test_a_partial_folder_is_repaired_and_other_files_in_it_stay(damage, site, place):
    site.routes |= {"/a.bin": whole(BODY), "/b.bin": whole(OTHER)}
    place.describe([
        {"to": "a.bin", **facts(BODY), "from": [f"{site.url}/a.bin"]},
        {"to": "b.bin", **facts(OTHER), "from": [f"{site.url}/b.bin"]},
    ])  # fmt: skip
    assert place.run()[0] == 0
    site.seen.clear()
    (place.data / "toy/mine.txt").write_text("mine")
    if damage == "gone":
        (place.data / "toy/a.bin").unlink()
    elif damage == "short":
        os.truncate(place.data / "toy/a.bin", 1000)
    elif damage == "no record":
        (place.data / "toy/.complete").unlink()
    else:
        (place.data / "toy/.complete").write_text("{")
    assert place.run()[0] == 0
    assert [path for path, _ in site.seen] == (["/a.bin"] if damage in ("gone", "short") else [])
    assert place.left() == ["toy/a.bin", "toy/b.bin", "toy/mine.txt"]
    assert (place.data / "toy/a.bin").read_bytes() == BODY


def test_verify_finds_a_changed_byte_and_the_next_run_replaces_the_file(site, place):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    assert place.run()[0] == 0
    assert place.run("--verify") == (0, "toy: 1 files as recorded\n", "")
    with open(place.data / "toy/a.bin", "r+b") as file:
        file.write(bytes([BODY[0] ^ 1]))
    assert place.run()[1] == "toy: already there\n"  # sizes only
    code, out, _ = place.run("--verify")
    assert code == 1
    assert "a.bin is damaged" in out
    assert place.run()[0] == 0
    assert place.complete()


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


def test_with_another_data_folder_the_repository_gets_no_links(place, monkeypatch):
    monkeypatch.delenv("GETDATA_LINKS")
    place.one_file("http://127.0.0.1:9/a.bin")
    assert read_job().links is None
    monkeypatch.setenv("DATA_DIR", str(ROOT / "data"))
    assert read_job().links == ROOT


# ------------------------------------------------------------------------------------------------
# Command line


def test_list_shows_name_size_and_state(site, place):
    site.routes["/a.bin"] = whole(BODY)
    place.describe(
        [{"to": "a.bin", **facts(BODY), "from": [f"{site.url}/a.bin"]}], extra="size = 300000"
    )
    assert place.run("--list")[1].split() == ["toy", "0.30", "MB", "missing", "a", "toy"]
    leave_part(place, BODY[:10])
    assert "partial" in place.run("--list")[1]
    assert place.run()[0] == 0
    assert "present" in place.run("--list")[1]
    os.truncate(place.data / "toy/a.bin", 0)
    assert "partial" in place.run("--list")[1]


BAD_USAGE = {
    "name": (["nope"], {}, "unknown data set nope (known: toy)"),
    "mirror": ([], {"DATA_MIRROR": "no/such/folder"}, "DATA_MIRROR: no folder"),
    "timeout": ([], {"GETDATA_TIMEOUT": "-1"}, "GETDATA_TIMEOUT"),
    "timeout text": ([], {"GETDATA_TIMEOUT": "soon"}, "GETDATA_TIMEOUT"),
    "catalogue": ([], {"GETDATA_CATALOGUE": "no/such/file"}, "no/such/file"),
}


@pytest.mark.parametrize("case", BAD_USAGE)
def test_bad_usage_is_one_line_and_status_2(case, place, monkeypatch):
    arguments, env, message = BAD_USAGE[case]
    place.one_file("http://127.0.0.1:9/a.bin")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    code, _, err = place.run(*arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_the_catalogue_is_consistent(monkeypatch):
    monkeypatch.delenv("GETDATA_CATALOGUE", raising=False)
    job = read_job()
    default = [name for name, entry in job.sets.items() if entry.get("default")]
    assert default == ["ptb", "ptbc", "wt2", "wt103", "enwik8"]
    folders = [entry["folder"] for entry in job.sets.values()]
    assert len(set(folders)) == len(folders)
    for entry in job.sets.values():
        assert entry.get("prepare") in (None, *BUILDERS)
        for file in entry.get("files", []):
            assert file.get("from") or file.get("names")
            for source in file.get("from", []):
                archive, _, member = source.partition("!")
                assert "://" in source or (archive in job.archives and member)
