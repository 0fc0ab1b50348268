"""Servers that send without end, hardly at all, or nonsense: each costs one line and bounded time,
disk and memory, and the next address is tried."""

import os
import subprocess
import sys
import time

import pytest

from getdata import checksums
from getdata.settings import ROOT
from tests.getdata.place import leave_part
from tests.getdata.server import BODY, chunk, drip, raw, whole

START = b"HTTP/1.1 200 OK\r\n"
BLOCK = bytes(65_536)
ENDLESS = {
    "no length": raw(START + b"\r\n", forever=BLOCK),
    "chunked": raw(START + b"Transfer-Encoding: chunked\r\n\r\n", forever=chunk(BLOCK)),
    "chunked and a length": raw(START + b"Transfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n",
                                forever=chunk(BLOCK)),
    "negative chunk": raw(START + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", forever=BLOCK),
}
KNOWN = {  # what the catalogue knows -> the most that a download may take
    "the file's size": ({"body": BODY}, "", len(BODY)),
    "the set's size": ({"body": None}, "size = 300000", 2 * 300_000 + 2**20),
    "nothing": ({"body": None}, "", 3_000_000),
}


@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("kind", ENDLESS)
def test_an_endless_body_is_cut_off_and_the_next_address_tried(
        kind, known, site, place, monkeypatch):
    file, extra, most = KNOWN[known]
    monkeypatch.setattr(checksums, "LARGEST_UNKNOWN", 3_000_000)
    site.routes |= {"/bad/a.bin": ENDLESS[kind], "/good/a.bin": whole(BODY)}
    urls = [f"{site.url}/bad/a.bin", f"{site.url}/good/a.bin"]
    if file["body"]:
        place.one_file(*urls)
    else:
        place.describe([{"to": "a.bin", "from": urls}], extra=extra)
    started = time.monotonic()
    code, _, err = place.run()
    assert (code, err) == (0, "")
    assert time.monotonic() - started < 10
    assert place.complete()
    site.closing.wait(0.3)
    assert site.sent.get("/bad/a.bin", 0) < most + 32_000_000  # what the sockets' buffers hold


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_endless_body_alone_is_one_line_and_leaves_no_part(kind, site, place):
    site.routes["/a.bin"] = ENDLESS[kind]
    place.one_file(f"{site.url}/a.bin")
    code, _, err = place.run()
    assert code == 1
    assert f"  {site.url}/a.bin: sends more than the 300,000 bytes" in err
    assert place.left() == []
    site.routes["/a.bin"] = whole(BODY)
    assert place.run()[0] == 0
    assert place.complete()


def test_a_part_that_is_too_long_is_thrown_away_before_disk_space_is_asked_for(
        site, place, monkeypatch):
    """A run of an older version may have filled the disk with it."""
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    leave_part(place, b"")
    part = place.data / ".downloads/toy-a.bin.part"
    os.truncate(part, 50_000_000)
    free = lambda path: type("Usage", (), {"free": 0 if part.exists() else 10**6})  # noqa: E731
    monkeypatch.setattr(checksums.shutil, "disk_usage", free)
    assert place.run()[0] == 0
    assert site.seen == [("/a.bin", None)]
    assert place.complete()


def test_a_part_counts_as_space_that_is_already_taken(site, place, monkeypatch):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    leave_part(place, BODY[:200_000])
    monkeypatch.setattr(checksums.shutil, "disk_usage",
                        lambda path: type("Usage", (), {"free": 150_000}))
    assert place.run()[0] == 0
    assert place.complete()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("kind", ["no length", "chunked"])
def test_a_really_full_disk_by_an_endless_body_leaves_room_for_the_next_address(
        kind, site, place, tmp_path):
    """2 MB, and nobody knows how large the file should be."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk])
    if mounted.returncode:
        pytest.skip("mount is not allowed here")
    try:
        place.data.symlink_to(disk)
        site.routes |= {"/bad/a.bin": ENDLESS[kind], "/good/a.bin": whole(BODY)}
        place.describe([{"to": "a.bin",
                         "from": [f"{site.url}/bad/a.bin", f"{site.url}/good/a.bin"]}])
        assert place.run()[0] == 0
        assert place.complete()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# ------------------------------------------------------------------------------------------------
# Time: every phase of an answer has an end


CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
SLOW = {
    "header lines": raw(START, every=0.1, forever=b"X-A: b\r\n"),
    "header bytes": drip(START + b"X-A: " + b"b" * 10_000, 0.1),
    "status line": drip(b"HTTP/1.1 200 " + b"O" * 10_000, 0.1),
    "continue without end": raw(every=0.01, forever=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body bytes": raw(START + b"\r\n", every=0.1, forever=b"x"),
    "chunk size": drip(CHUNKED + b"0" * 10_000, 0.1),
    "trailers": raw(CHUNKED + chunk(BODY) + b"0\r\n", every=0.1, forever=b"X-A: b\r\n"),
    "redirects": None,
}


@pytest.mark.parametrize("phase", SLOW)
def test_a_server_that_drips_is_given_up_in_every_phase_of_its_answer(phase, site, place):
    drips = SLOW[phase] or drip(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
                                b"/bad/a.bin\r\n\r\n", 0.01)
    site.routes |= {"/bad/a.bin": drips, "/good/a.bin": whole(BODY)}
    place.one_file(f"{site.url}/bad/a.bin", f"{site.url}/good/a.bin")
    place.hurry()
    started = time.monotonic()
    code, _, err = place.run()
    assert (code, err) == (0, "")
    assert time.monotonic() - started < 10  # 20 times the timeout
    assert place.complete()


def test_a_slow_but_steady_download_is_not_given_up(site, place):
    """It takes several times the timeout, and each part of it is quick enough."""
    pieces = [BODY[i:i + 10_000] for i in range(0, len(BODY), 10_000)]
    head = START + b"Content-Length: %d\r\n\r\n" % len(BODY)
    site.routes["/a.bin"] = raw(head, *pieces, every=0.1)
    place.one_file(f"{site.url}/a.bin")
    place.hurry(1)
    assert place.run()[0] == 0
    assert len(site.seen) == 1
    assert place.complete()


def test_getdata_ends_though_a_server_still_holds_its_connection(site, place):
    site.routes["/a.bin"] = SLOW["header lines"]
    place.one_file(f"{site.url}/a.bin")
    place.hurry()
    run = subprocess.run([str(ROOT / "getdata.sh"), "toy"], capture_output=True, text=True,
                         timeout=30, env=os.environ | {"VENV": sys.prefix})
    assert run.returncode == 1
    assert "no answer within" in run.stderr
    assert "Traceback" not in run.stderr


# ------------------------------------------------------------------------------------------------
# Nonsense in headers


LENGTHS = {
    "superscript": b"\xb2\xb2", "negative": b"-5", "digits without end": b"9" * 5000,
    "huge": b"9" * 30, "exponent": b"3e5", "hexadecimal": b"0x493e0", "underscore": b"300_000",
    "two": b"300000, 300001", "empty": b"", "word": b"many", "control": b"\x9b31m",
}


@pytest.mark.parametrize("kind", LENGTHS)
def test_a_content_length_that_makes_no_sense_is_one_line_and_the_next_is_tried(kind, site, place):
    head = START + b"Content-Length: " + LENGTHS[kind] + b"\r\n\r\n"
    site.routes |= {"/bad/a.bin": raw(head), "/good/a.bin": whole(BODY)}
    place.describe([{"to": "a.bin", "from": [f"{site.url}/bad/a.bin"]}])
    code, _, err = place.run()
    assert code == 1
    lines = [line for line in err.splitlines() if line.startswith(f"  {site.url}/bad/a.bin: ")]
    assert len(lines) == 1, err
    assert len(lines[0]) < 200
    assert "\x9b" not in err
    assert place.left() == []
    place.describe([{"to": "a.bin", "from": [f"{site.url}/bad/a.bin", f"{site.url}/good/a.bin"]}])
    assert place.run()[0] == 0
    assert place.complete()


REDIRECT = b"HTTP/1.1 302 Found\r\nLocation: "
HEADERS = {
    "no number as status": b"HTTP/1.1 abc OK\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "too many headers": START + b"X-A: b\r\n" * 200 + b"\r\n",
    "a long header": START + b"X-A: " + b"b" * 100_000 + b"\r\n\r\n",
    "redirect to a file": REDIRECT + b"file:///etc/passwd\r\n\r\n",
    "redirect to nonsense": REDIRECT + b"http://[::\r\n\r\n",
    "redirect to a long name": REDIRECT + b"http://" + b"a" * 70 + b".b\r\n\r\n",
    "redirect to a bad port": REDIRECT + b"http://127.0.0.1:99999/\r\n\r\n",
    "redirect with bad bytes": REDIRECT + b"/\xff\xfe\r\n\r\n",
    "an answer of nothing": b"",
    "bad chunk": CHUNKED + b"zz\r\nabc\r\n",
    "an ETag that cannot be sent back": (START + b"ETag: \"\xb2\"\r\nContent-Length: 300000\r\n\r\n"
                                         + BODY[:1000]),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_an_answer_that_is_no_http_is_one_line_and_the_next_address_is_tried(kind, site, place):
    site.routes |= {"/bad/a.bin": raw(HEADERS[kind]), "/good/a.bin": whole(BODY)}
    place.one_file(f"{site.url}/bad/a.bin")
    for _ in range(2):  # what the first run left must not stop the second
        code, _, err = place.run()
        assert code == 1
        lines = [line for line in err.splitlines() if line.startswith(f"  {site.url}/bad/a.bin: ")]
        assert len(lines) == 1, err
    place.one_file(f"{site.url}/bad/a.bin", f"{site.url}/good/a.bin")
    assert place.run()[0] == 0
    assert place.complete()
