"""Files out of archives, unsafe and broken ones among them, from mirrors, and placed by hand."""

import gzip
import io
import lzma
import tarfile
import tracemalloc
import zipfile

import pytest

from getdata import unpack
from tests.getdata.place import facts
from tests.getdata.server import BODY, OTHER, whole

# ------------------------------------------------------------------------------------------------
# Archives


def tar_of(members, mode="w:gz"):
    """Return a tar with (name, bytes) members; a TarInfo instead of bytes goes in as it is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, body in members:
            info = body if isinstance(body, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info is body:
                archive.addfile(info)
            else:
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def zip_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members:
            archive.writestr(name, body)
    return buffer.getvalue()


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return name, info


def zip_link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info, b"/etc/passwd"


WANTED = ("./toy-1/a.bin", BODY)
UNSAFE = {
    "tar parent": (tar_of([WANTED, ("../evil", b"x")]), "'../evil' leaves the folder"),
    "tar absolute": (tar_of([WANTED, ("/tmp/evil", b"x")]), "'/tmp/evil' leaves the folder"),
    "tar symlink": (tar_of([special("evil", tarfile.SYMTYPE, "/etc/passwd")]), "'evil' is a link"),
    "tar hard link": (tar_of([WANTED, special("evil", tarfile.LNKTYPE, "/x")]), "'evil' is a link"),
    "tar device": (tar_of([WANTED, special("evil", tarfile.CHRTYPE)]), "'evil' is a link"),
    "tar wanted is link": (tar_of([special(WANTED[0], tarfile.SYMTYPE, "/etc")]), "is a link"),
    "zip parent": (zip_of([WANTED, ("a/../../evil", b"x")]), "'a/../../evil' leaves the folder"),
    "zip absolute": (zip_of([WANTED, ("/evil", b"x")]), "'/evil' leaves the folder"),
    "zip drive": (zip_of([WANTED, ("C:\\evil", b"x")]), "leaves the folder"),
    "zip symlink": (zip_of([WANTED, zip_link("evil")]), "'evil' is a link"),
    "tar cut short": (tar_of([WANTED])[:-1000], "broken archive"),
    "zip cut short": (zip_of([WANTED])[:-1000], "broken archive"),
    "no archive": (OTHER, "broken archive"),
    "member missing": (tar_of([("b.bin", BODY)]), "no member toy-1/a.bin"),
    "member wrong": (tar_of([(WANTED[0], OTHER)]), "a.bin: sha256"),
    "member too large": (zip_of([(WANTED[0], bytes(10**7))]), "more than the 300,000 bytes"),
}  # fmt: skip


def one_archive(place, *urls, **more):
    place.describe(
        [{"to": "a.bin", **facts(BODY), "from": ["toy.tgz!toy-1/a.bin"]}],
        {"toy.tgz": {"urls": urls, **more}},
    )


@pytest.mark.parametrize("fault", UNSAFE)
def test_an_unsafe_or_broken_archive_is_refused_whole_and_the_next_is_taken(fault, site, place):
    body, why = UNSAFE[fault]
    site.routes |= {"/bad": whole(body), "/good": whole(tar_of([WANTED]))}
    one_archive(place, f"{site.url}/bad")
    code, _, err = place.run()
    assert code == 1
    assert why in err
    assert place.left() == []
    one_archive(place, f"{site.url}/bad", f"{site.url}/good")
    assert place.run()[0] == 0
    assert place.complete()
    assert not list(place.data.parent.rglob("evil"))


def test_the_published_archive_may_hold_odd_members_that_nobody_wants(site, place):
    body = tar_of([special("latest", tarfile.SYMTYPE, "toy-1"), WANTED])
    site.routes["/a"] = whole(body)
    one_archive(place, f"{site.url}/a", **facts(body))
    assert place.run()[0] == 0
    assert place.complete()


def test_an_archive_checksum_decides_where_the_files_have_none(site, place):
    good, bad = tar_of([WANTED]), tar_of([("toy-1/a.bin", OTHER)])
    site.routes |= {"/bad": whole(bad), "/good": whole(good)}
    files = [{"to": "a.bin", "from": ["toy.tgz!toy-1/a.bin"]}]
    sha256 = facts(good)["sha256"]
    place.describe(files, {"toy.tgz": {"urls": [f"{site.url}/bad"], "sha256": sha256}})
    code, _, err = place.run()
    assert code == 1
    assert "sha256" in err
    urls = [f"{site.url}/bad", f"{site.url}/good"]
    place.describe(files, {"toy.tgz": {"urls": urls, "sha256": sha256}})
    assert place.run()[0] == 0
    assert place.complete()


def test_an_archive_is_fetched_once_for_all_its_files(site, place):
    site.routes["/t"] = whole(tar_of([WANTED, ("b.bin", OTHER)], "w:xz"))
    files = [
        {"to": "a.bin", **facts(BODY), "from": ["toy.tgz!toy-1/a.bin"]},
        {"to": "sub/b.bin", **facts(OTHER), "from": ["toy.tgz!b.bin"]},
    ]
    place.describe(files, {"toy.tgz": {"urls": [f"{site.url}/t"]}})
    assert place.run()[0] == 0
    assert place.left() == ["toy/a.bin", "toy/sub/b.bin"]
    assert len(site.seen) == 1


# ------------------------------------------------------------------------------------------------
# What a header says of itself

HEADER_SIZE = 200_000_000


def claiming(kind, size=HEADER_SIZE):
    """The header of a tar member that says it has so many bytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse_1_0():
    """A GNU sparse file whose map has no end: tarfile looks for a line end in all of it."""
    info = tarfile.TarInfo("a")
    info.size = 10_000
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                        "GNU.sparse.name": "a", "GNU.sparse.realsize": "10"}
    return info.tobuf(tarfile.PAX_FORMAT)


def zip_with(patch):
    """A zip whose central directory is patched."""
    body = bytearray(zip_of([WANTED]))
    start = body.rindex(b"PK\x01\x02")
    patch(body, start)
    return bytes(body)


def set_name(body, start):
    body[start + 9] |= 0x08  # the name is UTF-8
    body[start + 46] = 0xFF


LYING = {
    "long name": claiming(tarfile.GNUTYPE_LONGNAME),
    "long link": claiming(tarfile.GNUTYPE_LONGLINK),
    "pax header": claiming(tarfile.XHDTYPE),
    "pax global header": claiming(tarfile.XGLTYPE),
    "size beyond any disk": claiming(tarfile.REGTYPE, 2**80),
    "negative size": claiming(tarfile.GNUTYPE_LONGNAME, -5),
    "sparse map": sparse_1_0(),
    "old sparse map": claiming(tarfile.GNUTYPE_SPARSE)[:482] + b"\x01" + bytes(29),
    "many long names": claiming(tarfile.GNUTYPE_LONGNAME, 0) * 5000,
    "zip name": zip_with(set_name),
}


@pytest.mark.parametrize("packed", [None, gzip, lzma], ids=["plain", "gz", "xz"])
@pytest.mark.parametrize("kind", LYING)
def test_a_header_that_claims_what_it_has_not_costs_one_line_and_little_memory(
        kind, packed, site, place, tmp_path, monkeypatch):
    """The file ends with as many zeros as the header claims, which pack to next to nothing."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    zeros = bytes(HEADER_SIZE) if kind in ("long name", "long link", "pax header") else b""
    body = LYING[kind] + zeros
    if packed:
        quick = {"compresslevel": 1} if packed is gzip else {"preset": 0}
        body = packed.compress(body, **quick)
    (mirror / "toy.tgz").write_bytes(body)
    del body, zeros
    monkeypatch.setenv("DATA_MIRROR", str(mirror))
    site.routes["/good"] = whole(tar_of([WANTED]))
    one_archive(place, f"{site.url}/404")
    tracemalloc.start()
    try:
        code, _, err = place.run()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert code == 1
    lines = [line for line in err.splitlines() if line.startswith(f"  {mirror}/toy.tgz: ")]
    assert len(lines) == 1, err
    assert peak < 20_000_000
    one_archive(place, f"{site.url}/good")
    assert place.run()[0] == 0
    assert place.complete()


def test_a_zip_that_stays_packed_may_not_unpack_to_more_than_any_data_set(
        site, place, monkeypatch):
    site.routes["/a.zip"] = whole(zip_of([("a", bytes(10_000_000)), ("b", bytes(10_000_000))]))
    place.describe([{"to": "a.zip", "from": [f"{site.url}/a.zip"]}])
    monkeypatch.setattr(unpack, "LARGEST_ARCHIVE", 15_000_000)
    code, _, err = place.run()
    assert code == 1
    assert "unpacks to more than 15,000,000 bytes" in err
    assert place.left() == []


def test_an_archive_of_which_more_is_needed_is_kept_in_the_data_folder(site, place):
    site.routes["/t"] = whole(tar_of([WANTED]))
    one_archive(place, f"{site.url}/t", keep=True)
    assert place.run()[0] == 0
    assert place.left() == ["toy.tgz", "toy/a.bin"]
    (place.data / "toy/a.bin").unlink()
    assert place.run()[0] == 0
    assert len(site.seen) == 1


def test_files_of_others_beside_the_downloads_are_not_removed(site, place):
    site.routes["/t"] = whole(tar_of([WANTED]))
    one_archive(place, f"{site.url}/t")
    (place.data / ".downloads").mkdir(parents=True)
    (place.data / ".downloads/mine.txt").write_text("mine")
    assert place.run()[0] == 0
    assert place.left() == [".downloads/mine.txt", "toy/a.bin"]


# ------------------------------------------------------------------------------------------------
# Mirrors and files placed by hand


MIRRORED = {
    "flat": ("a.bin", BODY),
    "in a folder": ("toy/a.bin", BODY),
    "xz": ("toy/a.bin.xz", lzma.compress(BODY, preset=0)),
    "zip": ("a.bin.zip", zip_of([("a.bin", BODY)])),
    "archive": ("toy.tgz", tar_of([WANTED])),
    "archive unpacked": ("toy-1/a.bin", BODY),
    "archive repacked": ("toy/toy.repacked.zip", zip_of([("toy-1/a.bin", BODY)])),
}


@pytest.mark.parametrize(("form", "kind"), [
    (form, kind) for form in MIRRORED for kind in ("folder", "url")
    if (form, kind) != ("archive unpacked", "url")])
def test_the_mirror_comes_first(form, kind, site, place, monkeypatch, tmp_path):
    name, body = MIRRORED[form]
    archive = {"urls": [f"{site.url}/toy.tgz"], "also": ["toy.repacked.zip"], "bytes": 5}
    place.describe(
        [{"to": "a.bin", **facts(BODY), "from": ["toy.tgz!toy-1/a.bin"]}], {"toy.tgz": archive}
    )
    if kind == "folder":
        (tmp_path / "mirror" / name).parent.mkdir(parents=True)
        (tmp_path / "mirror" / name).write_bytes(body)
        monkeypatch.chdir(tmp_path / "mirror")
        monkeypatch.setenv("DATA_MIRROR", "../mirror")
    else:
        site.routes[f"/mirror/{name}"] = whole(body)
        monkeypatch.setenv("DATA_MIRROR", f"{site.url}/mirror/")
    assert place.run()[0] == 0
    assert place.complete()
    assert all(path.startswith("/mirror/") for path, _ in site.seen)


@pytest.mark.parametrize("source", ["toy.tgz!a.bin", "toy.tgz!x/a.bin", "http://h/a.bin.gz"])
def test_a_mirror_may_hold_the_plain_file_of_any_source(source, place, monkeypatch, tmp_path):
    (tmp_path / "a.bin").write_bytes(BODY)
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path))
    file = {"to": "b.bin", **facts(BODY), "from": [source]}
    place.describe([file], {"toy.tgz": {"urls": ["http://127.0.0.1:9/toy.tgz"]}})
    assert place.run()[0] == 0
    assert (place.data / "toy/b.bin").read_bytes() == BODY


def test_a_wrong_file_in_the_mirror_is_passed_over(site, place, monkeypatch, tmp_path):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/a.bin").write_bytes(OTHER)
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    assert place.run()[0] == 0
    assert place.complete()
    assert (tmp_path / "mirror/a.bin").read_bytes() == OTHER


def test_a_file_put_into_the_data_folder_by_hand_is_taken(site, place):
    place.one_file(f"{site.url}/a.bin")
    assert place.run()[0] == 1
    (place.data / "a.bin").write_bytes(BODY)
    site.seen.clear()
    assert place.run()[0] == 0
    assert site.seen == []
    assert (place.data / "toy/a.bin").read_bytes() == BODY
