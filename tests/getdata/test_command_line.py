"""What a second run does with what is there already; flags, environment, catalogue."""

import errno
import os

import pytest

from getdata import install
from getdata.builders import BUILDERS
from getdata.settings import ROOT, read_job
from tests.getdata.place import facts, inline, leave_part
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
    assert "a.bin was another file than getdata's: it is now a.bin.old" in place.run()[2]
    assert place.left() == ["toy/a.bin", "toy/a.bin.old"]
    assert (place.data / "toy/a.bin").read_bytes() == BODY


def test_with_another_data_folder_the_repository_gets_no_links(place, monkeypatch):
    monkeypatch.delenv("GETDATA_LINKS")
    place.one_file("http://127.0.0.1:9/a.bin")
    assert read_job().links is None
    monkeypatch.setenv("DATA_DIR", str(ROOT / "data"))
    assert read_job().links == ROOT


# ------------------------------------------------------------------------------------------------
# Several data sets


def describe_three(place, site):
    """Sets one, two, three, of which the second has no good address."""
    site.routes |= {"/one": whole(BODY), "/three": whole(OTHER)}
    lines = []
    for name, body in (("one", BODY), ("two", BODY), ("three", OTHER)):
        file = inline({"to": "a.bin", **facts(body), "from": [f"{site.url}/{name}"]})
        lines += [f"[sets.{name}]", f'about = "{name}"', f'folder = "{name}"', "default = true",
                  f"files = [{file}]"]
    place.catalogue.write_text("\n".join(lines))


FAILURES = {
    "no address": (None, "two: no address gave a.bin"),
    "OSError": (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    "full disk": (OSError(errno.ENOSPC, "No space left on device"), "make room in"),
    "forbidden": (PermissionError(errno.EACCES, "Permission denied", "x"), "DATA_DIR=FOLDER"),
    "ImportError": (ImportError("No module named 'sklearn'", name="sklearn"),
                    "sklearn is not installed: pip install 'sequence-papers[data]'"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_one_failing_set_does_not_stop_the_others_and_the_end_names_it(
        kind, site, place, monkeypatch):
    describe_three(place, site)
    error, message = FAILURES[kind]
    obtain = install.obtain

    def sometimes(name, *rest):
        if error and name == "two":
            raise error
        obtain(name, *rest)

    monkeypatch.setattr(install, "obtain", sometimes)
    code, _, err = place.run()
    assert code == (2 if kind == "ImportError" else 1)
    assert message in err
    assert err.splitlines()[-1] == "getdata: 2 of 3 data sets are there, not two"
    assert place.left() == ["one/a.bin", "three/a.bin"]
    assert place.run("one", "three") == (0, "one: already there\nthree: already there\n", "")


@pytest.mark.parametrize("record", ['{"a.bin": 1}', '{"a.bin": {"bytes": "x", "sha256": 1}}', "[]",
                                    '{"a.bin": {}}', "[" * 100_000])
def test_a_damaged_record_is_as_good_as_none(record, site, place):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    assert place.run()[0] == 0
    (place.data / "toy/.complete").write_text(record)
    for arguments in (["--list"], ["--verify"], []):
        assert place.run(*arguments)[0] == 0
    assert place.complete()
    assert len(site.seen) == 1


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
    assert all(archive.keys() & {"bytes", "size"} for archive in job.archives.values())
    for entry in job.sets.values():
        assert entry.get("size") is not None  # without it a download has hardly a bound
        assert entry.get("prepare") in (None, *BUILDERS)
        for file in entry.get("files", []):
            assert file.get("from") or file.get("names")
            for source in file.get("from", []):
                archive, _, member = source.partition("!")
                assert "://" in source or (archive in job.archives and member)
