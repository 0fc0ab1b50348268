"""getdata.py against a web server of this process that fails in every way a host can fail.

Nothing leaves the machine: the server listens on 127.0.0.1, and the real data comes from the
folder ../shared/data where that exists.
"""

import errno
import hashlib
import http.server
import io
import json
import lzma
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile

import numpy
import pytest

import embedded
import fetch.checks
import fetch.download
import fetch.unpack
import getdata

ROOT = pathlib.Path(getdata.__file__).parent
REAL_MIRROR = ROOT.parent / "shared" / "data"
BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)


# ------------------------------------------------------------------------------------------------
# The server. A route is a function of the request handler; `seen` keeps (path, Range header).


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the server's table of routes."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Range")))
        self.server.routes.get(self.path, status(404))(self)

    def head(self, code, length, **headers):
        self.send_response(code)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *args):
        pass


def status(code):
    return lambda handler: handler.head(code, 0)


def whole(body, ranges=True, **headers):
    """Send body, or the part of it that was asked for."""

    def answer(handler):
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1]) if ranges else 0
        tag = handler.headers.get("If-Range")
        if tag not in (None, headers.get("ETag")):
            start = 0
        if start and start >= len(body):
            handler.head(416, 0, Content_Range=f"bytes */{len(body)}")
            return
        more = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        handler.head(206 if start else 200, len(body) - start, **headers, **more)
        handler.wfile.write(body[start:])

    return answer


def first(answer, *more):
    """Answer the requests in turn; the last answer stays."""
    answers = [answer, *more]
    return lambda handler: (answers.pop(0) if len(answers) > 1 else answers[0])(handler)


def broken_at(body, end):
    """Promise all of body, send a part and hang up."""

    def answer(handler):
        handler.head(200, len(body))
        handler.wfile.write(body[:end])
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)

    return answer


def stalled(body, end=0, drip=b""):
    """Send a part of body, then nothing (or single bytes) until the server is closed."""

    def answer(handler):
        handler.head(200, len(body))
        handler.wfile.write(body[:end])
        while not handler.server.closing.wait(0.05):
            try:
                handler.wfile.write(drip)
            except OSError:
                return

    return answer


@pytest.fixture
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.routes, server.seen, server.closing = {}, [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


# ------------------------------------------------------------------------------------------------
# A catalogue of our own


def facts(body):
    return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def inline(table):
    return "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + "}"


class Place:
    """A data folder, a catalogue, and a way to run getdata on them within this process."""

    def __init__(self, tmp_path, monkeypatch, capsys):
        self.data, self.links = tmp_path / "data", tmp_path / "repo"
        self.catalogue, self.capsys = tmp_path / "catalogue.toml", capsys
        self.env = {
            "DATA_DIR": str(self.data),
            "GETDATA_LINKS": str(self.links),
            "GETDATA_CATALOGUE": str(self.catalogue),
            "GETDATA_TIMEOUT": "0.5",
            "NO_PROXY": "127.0.0.1",
        }
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("DATA_MIRROR", raising=False)

    def describe(self, files, archives=(), extra=""):
        """Write a catalogue with one data set, toy."""
        lines = []
        for name, table in dict(archives).items():
            lines += [f'[archives."{name}"]', *(f"{k} = {json.dumps(table[k])}" for k in table)]
        lines += ["[sets.toy]", 'about = "a toy"', 'folder = "toy"', "default = true", extra]
        lines += ["files = [", *(f"  {inline(file)}," for file in files), "]"]
        lines += ["[sets.toy.links]", '"paper/data/toy" = ""']
        self.catalogue.write_text("\n".join(lines))

    def one_file(self, *urls, body=BODY, **more):
        self.describe([{"to": "a.bin", **facts(body), "from": urls, **more}])

    def run(self, *arguments):
        """Return (exit status, stdout, stderr)."""
        try:
            code = getdata.main([*arguments])
        except SystemExit as stop:
            code = stop.code
        out = self.capsys.readouterr()
        return code, out.out, out.err

    def left(self):
        """Return all files below the data folder, the records left out."""
        files = (path for path in self.data.rglob("*") if path.is_file())
        return sorted(str(p.relative_to(self.data)) for p in files if p.name != ".complete")

    def complete(self, body=BODY):
        return self.left() == ["toy/a.bin"] and (self.data / "toy/a.bin").read_bytes() == body


@pytest.fixture
def place(tmp_path, monkeypatch, capsys):
    return Place(tmp_path, monkeypatch, capsys)


# ------------------------------------------------------------------------------------------------
# Downloads


def test_a_file_is_fetched_recorded_and_linked_and_the_second_run_asks_for_nothing(site, place):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    assert place.run() == (0, place_lines(place, site), "")
    assert place.complete()
    link = place.links / "paper/data/toy"
    assert os.readlink(link) == "../../../data/toy"
    assert (link / "a.bin").read_bytes() == BODY
    assert json.loads((place.data / "toy/.complete").read_text()) == {"a.bin": facts(BODY)}
    assert place.run("toy") == (0, "toy: already there\n", "")
    assert len(site.seen) == 1


def place_lines(place, site):
    return f"toy: fetching {site.url}/a.bin\ntoy: ready in {place.data / 'toy'}\n"


WRONG = {
    "checksum": (whole(OTHER), "sha256"),
    "size": (whole(BODY + b"x"), "300,001 bytes offered"),
    "web page": (whole(b"<html>sorry</html>", Content_Type="text/html; charset=utf-8"), "web page"),
    "web page unlabelled": (whole(b"<html>sorry</html>"), "18 bytes offered"),
    "empty": (whole(b""), "0 bytes offered"),
    "404": (status(404), "HTTP 404"),
    "403": (status(403), "HTTP 403"),
    "truncated": (broken_at(BODY, 1000), "connection lost"),
    "stalled": (stalled(BODY, 1000), "no data for 0.5 s"),
    "dripping": (stalled(BODY, 0, b"x"), "bytes in 0.5 s"),
    "silent": (lambda handler: handler.server.closing.wait(5), "no answer within 0.5 s"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_bad_address_is_named_and_nothing_looks_like_data(fault, site, place):
    answer, why = WRONG[fault]
    site.routes["/a.bin"] = answer
    place.one_file(f"{site.url}/a.bin")
    code, _, err = place.run()
    assert code == 1
    assert f"  {site.url}/a.bin: " in err
    assert why in err
    assert "by hand: put a.bin into" in err
    assert not (place.data / "toy").exists()
    assert all(".part" in name for name in place.left())
    if fault == "checksum":
        assert place.left() == []  # a poisoned part must not be continued


@pytest.mark.parametrize("fault", [f for f in WRONG if f not in ("stalled", "dripping", "silent")])
def test_the_next_address_is_tried(fault, site, place):
    site.routes |= {"/bad/a.bin": WRONG[fault][0], "/good/a.bin": whole(BODY)}
    place.one_file(f"{site.url}/bad/a.bin", f"{site.url}/good/a.bin")
    assert place.run()[0] == 0
    assert place.complete()


def test_a_host_that_cannot_be_reached_is_asked_once(place):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    place.one_file(f"{url}/a.bin", f"{url}/b.bin")
    code, out, err = place.run()
    assert (code, out.count("fetching")) == (1, 1)
    assert err.count("cannot connect") == 2


@pytest.mark.parametrize("tag", [None, '"v1"'], ids=["plain", "etag"])
def test_a_dropped_connection_is_continued_by_range(tag, site, place):
    cut = int(0.9 * len(BODY))
    headers = {"ETag": tag} if tag else {}
    site.routes["/a.bin"] = first(broken_at(BODY, cut), whole(BODY, **headers))
    place.one_file(f"{site.url}/a.bin")
    assert place.run()[0] == 0
    assert site.seen == [("/a.bin", None), ("/a.bin", f"bytes={cut}-")]
    assert place.complete()


def test_a_part_of_an_earlier_run_is_continued(site, place):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    leave_part(place, BODY[:123_456])
    assert place.run()[0] == 0
    assert site.seen == [("/a.bin", "bytes=123456-")]
    assert place.complete()


def leave_part(place, body):
    (place.data / ".downloads").mkdir(parents=True)
    (place.data / ".downloads/toy-a.bin.part").write_bytes(body)


@pytest.mark.parametrize("nbytes", [100_000, len(BODY), len(BODY) + 5])
def test_a_poisoned_part_is_thrown_away_and_the_same_address_asked_again(nbytes, site, place):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    leave_part(place, (OTHER + OTHER)[:nbytes])
    assert place.run()[0] == 0
    assert site.seen[0] == ("/a.bin", f"bytes={nbytes}-")
    assert site.seen[-1] == ("/a.bin", None)
    assert place.complete()


def test_a_complete_part_needs_no_more_bytes(site, place):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    leave_part(place, BODY)
    assert place.run()[0] == 0
    assert len(site.seen) == 1
    assert place.complete()


def test_a_server_without_ranges_sends_all_again(site, place):
    site.routes["/a.bin"] = whole(BODY, ranges=False)
    place.one_file(f"{site.url}/a.bin")
    leave_part(place, BODY[:1000])
    assert place.run()[0] == 0
    assert place.complete()


def test_a_changed_file_is_not_glued_to_the_old_part(site, place):
    site.routes["/a.bin"] = whole(BODY, ETag='"new"')
    place.one_file(f"{site.url}/a.bin")
    leave_part(place, OTHER[:1000])
    (place.data / ".downloads/toy-a.bin.part.tag").write_text('"old"')
    assert place.run()[0] == 0
    assert len(site.seen) == 1
    assert place.complete()


def test_without_checksum_and_tag_a_part_is_not_trusted(site, place):
    site.routes["/a.bin"] = whole(BODY)
    place.describe([{"to": "a.bin", "from": [f"{site.url}/a.bin"]}])
    leave_part(place, OTHER[:1000])
    code, out, _ = place.run()
    assert (code, site.seen) == (0, [("/a.bin", None)])
    assert "no checksum is published" in out
    assert place.complete()


# ------------------------------------------------------------------------------------------------
# Full disk, interruption, two at a time


class FullDisk(io.BufferedWriter):
    """A file whose disk is full after 100,000 bytes."""

    def write(self, block):
        if self.tell() + len(block) > 100_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(block)


def open_on_full_disk(path, mode="r", **options):
    if "b" not in mode or "r" in mode:
        return open(path, mode, **options)
    return FullDisk(open(path, mode, buffering=0))


@pytest.mark.parametrize("where", [fetch.download, fetch.unpack], ids=["download", "unpack"])
def test_a_full_disk_is_one_line_and_the_next_run_finishes(where, site, place, monkeypatch):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    with monkeypatch.context() as patch:
        patch.setattr(where, "open", open_on_full_disk, raising=False)
        code, _, err = place.run()
    assert (code, err.count("\n")) == (1, 1)
    assert "No space left" in err
    assert place.left() == [".downloads/toy-a.bin.part"]
    assert place.run()[0] == 0
    assert place.complete()


def test_too_little_space_is_said_before_the_download(site, place, monkeypatch):
    place.one_file(f"{site.url}/a.bin")
    usage = lambda path: type("Usage", (), {"free": 1000})  # noqa: E731
    monkeypatch.setattr(fetch.checks.shutil, "disk_usage", usage)
    code, _, err = place.run()
    assert (code, site.seen) == (1, [])
    assert "needs 300,000, has 1,000" in err


def test_an_interrupt_leaves_the_part_and_the_next_run_finishes(site, place):
    site.routes["/a.bin"] = first(stalled(BODY, 200_000), whole(BODY))
    place.one_file(f"{site.url}/a.bin")
    part = place.data / ".downloads/toy-a.bin.part"
    command = [sys.executable, str(ROOT / "getdata.py"), "toy"]
    with subprocess.Popen(
        command, env=os.environ | {"GETDATA_TIMEOUT": "30"}, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 20
        while fetch.checks.size_of(part) < 150_000 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == "getdata: interrupted; run it again to continue\n"
    assert place.left() == [".downloads/toy-a.bin.part"]
    assert place.run()[0] == 0
    assert site.seen[1][1] == f"bytes={part_size(site)}-"
    assert place.complete()


def part_size(site):
    return int(site.seen[1][1][6:-1])


def test_two_runs_at_once_do_not_disturb_each_other(site, place):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    command = [sys.executable, str(ROOT / "getdata.py"), "toy"]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(20) for process in both] == [0, 0]
    assert len(site.seen) == 1
    assert place.complete()


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
# Mirrors and files placed by hand


MIRRORED = {
    "flat": ("a.bin", BODY),
    "in a folder": ("toy/a.bin", BODY),
    "xz": ("toy/a.bin.xz", lzma.compress(BODY, preset=0)),
    "zip": ("a.bin.zip", zip_of([("a.bin", BODY)])),
    "archive": ("toy.tgz", tar_of([WANTED])),
    "archive repacked": ("toy/toy.repacked.zip", zip_of([("toy-1/a.bin", BODY)])),
}


@pytest.mark.parametrize("kind", ["folder", "url"])
@pytest.mark.parametrize("form", MIRRORED)
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
    assert getdata.settings().links is None
    monkeypatch.setenv("DATA_DIR", str(ROOT / "data"))
    assert getdata.settings().links == ROOT


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
    job = getdata.settings()
    default = [name for name, entry in job.sets.items() if entry.get("default")]
    assert default == ["ptb", "ptbc", "wt2", "wt103", "enwik8"]
    folders = [entry["folder"] for entry in job.sets.values()]
    assert len(set(folders)) == len(folders)
    for entry in job.sets.values():
        assert entry.get("prepare") in (None, *embedded.BUILDERS)
        for file in entry.get("files", []):
            assert file.get("from") or file.get("names")
            for source in file.get("from", []):
                archive, _, member = source.partition("!")
                assert "://" in source or (archive in job.archives and member)


# ------------------------------------------------------------------------------------------------
# Real data


PUBLISHED = {  # data/README.md of the mirror: md5, and lines where it is text
    "penn/train.txt": ("f26c4b92c5fdc7b3f8c7cdcb991d8420", 42_068),
    "penn/valid.txt": ("aa0affc06ff7c36e977d7cd49e3839bf", 3_370),
    "penn/test.txt": ("8b80168b89c18661a38ef683c0dc3721", 3_761),
    "pennchar/train.txt": ("874909f99060142f6b88cc74c34baaa2", 42_068),
    "pennchar/valid.txt": ("9e0fe5bec2a8bf43fd686dc23d5ab8bb", 3_370),
    "pennchar/test.txt": ("1f9a2d1afe00f76e8bfbe09a65439681", 3_761),
    "wikitext-2/train.txt": ("34a77ebe59551b3a3b3d8c0a2797c976", 36_718),
    "wikitext-2/valid.txt": ("d756d22ab2310e7e60c094bea5c5a8eb", 3_760),
    "wikitext-2/test.txt": ("781c9418ab9414bd09e4aad825aae752", 4_358),
    "mnist/MNIST/raw/train-images-idx3-ubyte": ("6bbc9ace898e44ae57da46a324031adb", None),
    "mnist/MNIST/raw/train-labels-idx1-ubyte": ("a25bea736e30d166cdddb491f175f624", None),
    "mnist/MNIST/raw/t10k-images-idx3-ubyte": ("2646ac647ad5339dbf082846283269ea", None),
    "mnist/MNIST/raw/t10k-labels-idx1-ubyte": ("27ae3e4e09519cfbb04c329615203637", None),
}


@pytest.mark.skipif(not REAL_MIRROR.is_dir(), reason="no folder ../shared/data with real data")
def test_the_real_mirror_gives_the_published_files(tmp_path):
    names = ["ptb", "ptbc", "wt2", "mnist", "gpt2-bpe", "pos", "enwik8-100k", "listops-d20"]
    env = os.environ | {"DATA_MIRROR": "../shared/data", "DATA_DIR": str(tmp_path)}
    run = subprocess.run(
        [str(ROOT / "getdata.sh"), *names], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")
    for name, (md5, lines) in PUBLISHED.items():
        body = (tmp_path / name).read_bytes()
        assert hashlib.md5(body).hexdigest() == md5, name
        assert lines in (None, body.count(b"\n")), name
    conll = (tmp_path / "pos/conll2000/train.txt").read_text().split("\n\n")
    assert len([sentence for sentence in conll if sentence.strip()]) == 8_936
    assert len((tmp_path / "gpt2-bpe/dict.txt").read_text().splitlines()) == 50_260
    assert (tmp_path / "pos/ud-ewt/en-ud-dev.ppos.tsv").stat().st_size == 213_179
    assert (tmp_path / "enwik8-100k/valid.txt.raw").stat().st_size == 5_000
    torchvision = pytest.importorskip("torchvision")
    assert len(torchvision.datasets.MNIST(tmp_path / "mnist", download=False)) == 60_000


# ------------------------------------------------------------------------------------------------
# Built on the spot


@pytest.fixture(scope="module")
def pydoc(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pydoc")
    embedded.pydoc(folder)
    return {split: (folder / f"{split}.txt").read_text() for split in embedded.SPLITS}


def test_pydoc_looks_like_ptb(pydoc):
    for text in pydoc.values():
        lines = text.splitlines()
        assert len(lines) > 300
        assert all(line.startswith(" ") and line.endswith(" ") and line.strip() for line in lines)
        words = set(text.split())
        assert words - {"N"} == {word.lower() for word in words - {"N"}}
        assert not any(word.isdigit() for word in words)
    words = {split: text.split() for split, text in pydoc.items()}
    assert 4_000 < len(set(words["train"])) < 12_000
    assert 200_000 < len(words["train"]) < 600_000
    assert set(words["valid"]) | set(words["test"]) <= set(words["train"]) | {"<unk>"}
    for split in ("valid", "test"):
        assert 0.04 < len(words[split]) / len(words["train"]) < 0.09


def test_pydoc_does_not_depend_on_the_hash_seed(pydoc):
    code = "import embedded, json; print(json.dumps(embedded.pydoc_lines()))"
    env = os.environ | {"PYTHONHASHSEED": "7"}
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True)
    lines = json.loads(out.stdout)
    assert {s: "".join(f" {line} \n" for line in lines[s]) for s in lines} == pydoc


def test_characters_are_written_as_mikolov_did():
    assert embedded.to_characters([" a cd ", "N"]) == "a _ c d \n N \n "


@pytest.mark.skipif(not REAL_MIRROR.is_dir(), reason="no folder ../shared/data with real data")
def test_characters_agree_with_the_published_file():
    words = (REAL_MIRROR / "ptb/ptb.valid.txt").read_text().splitlines()
    with lzma.open(REAL_MIRROR / "ptb-char/ptb.char.valid.txt.xz", "rt", newline="") as file:
        assert embedded.to_characters(words) == file.read()


def test_digits_are_the_same_every_time(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        embedded.digits(tmp_path / name)
    one, two = ((tmp_path / name / "digits.npz").read_bytes() for name in "ab")
    assert one == two
    with numpy.load(tmp_path / "a/digits.npz") as data:
        assert data["train_images"].shape == (1437, 8, 8)
        assert data["test_images"].shape == (360, 8, 8)
        assert data["train_images"].max() == 16
        assert sorted(set(data["test_labels"].tolist())) == list(range(10))


def test_enwik8_is_prepared_as_the_original_did(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "BLOCK", 7)  # blocks must not show
    body = b"<mediawiki>\n\n  caf\xc3\xa9\n" * 50
    (tmp_path / "enwik8").write_bytes(body)
    embedded.enwik8(tmp_path)
    n = len(body) // 20
    parts = {"train": body[: -2 * n], "valid": body[-2 * n : -n], "test": body[-n:]}
    for split, part in parts.items():
        text = " ".join("\n" if byte == 10 else str(byte) for byte in part)
        assert (tmp_path / f"{split}.txt").read_text() == text
        assert (tmp_path / f"{split}.txt.raw").read_bytes() == part
    assert not (tmp_path / "enwik8").exists()
