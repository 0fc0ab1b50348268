"""Downloads: bad addresses, parts continued, full disks, interruptions, two at a time.

Nothing leaves the machine: the server listens on 127.0.0.1.
"""

import errno
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from getdata import checksums, parts, unpack
from getdata.settings import ROOT
from tests.getdata.place import facts, leave_part
from tests.getdata.server import BODY, OTHER, broken_at, first, stalled, status, whole

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
SILENT = ("stalled", "dripping", "silent")


@pytest.mark.parametrize("fault", WRONG)
def test_a_bad_address_is_named_and_nothing_looks_like_data(fault, site, place):
    answer, why = WRONG[fault]
    site.routes["/a.bin"] = answer
    place.one_file(f"{site.url}/a.bin")
    if fault in SILENT:
        place.hurry()
    code, _, err = place.run()
    assert code == 1
    assert f"  {site.url}/a.bin: " in err
    assert why in err
    assert "by hand: put a.bin into" in err
    assert not (place.data / "toy").exists()
    assert all(".part" in name for name in place.left())
    if fault == "checksum":
        assert place.left() == []  # a poisoned part must not be continued


@pytest.mark.parametrize("fault", [f for f in WRONG if f not in SILENT])
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


@pytest.mark.parametrize("nbytes", [100_000, len(BODY)])
def test_a_poisoned_part_is_thrown_away_and_the_same_address_asked_again(nbytes, site, place):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    leave_part(place, (OTHER + OTHER)[:nbytes])
    assert place.run()[0] == 0
    assert site.seen[0] == ("/a.bin", f"bytes={nbytes}-")
    assert site.seen[-1] == ("/a.bin", None)
    assert place.complete()


@pytest.mark.parametrize("range_", ["bytes 0-4/300000", "bytes 1000-1004/300000"])
def test_a_server_that_answers_badly_for_the_rest_is_asked_for_the_whole(range_, site, place):
    """Or the part would stop every later run."""
    leave_part(place, BODY[:1000])

    def rest(handler):
        handler.head(206, 5, Content_Range=range_)
        handler.wfile.write(BODY[1000:1005])
    site.routes["/a.bin"] = lambda handler: (
        rest if handler.headers.get("Range") else whole(BODY))(handler)
    place.one_file(f"{site.url}/a.bin")
    assert place.run("toy")[0] == 0
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


@pytest.mark.parametrize("where", [parts, unpack], ids=["download", "unpack"])
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
    monkeypatch.setattr(checksums.shutil, "disk_usage", usage)
    code, _, err = place.run()
    assert (code, site.seen) == (1, [])
    assert "needs 300,000, has 1,000" in err


def test_an_interrupt_leaves_the_part_and_the_next_run_finishes(site, place):
    site.routes["/a.bin"] = first(stalled(BODY, 200_000), whole(BODY))
    place.one_file(f"{site.url}/a.bin")
    part = place.data / ".downloads/toy-a.bin.part"
    command = [sys.executable, "-m", "getdata", "toy"]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stderr=subprocess.PIPE,
    ) as process:
        deadline = time.monotonic() + 20
        while checksums.size_of(part) < 150_000 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == "getdata: interrupted; run it again to continue\n"
    assert place.left() == [".downloads/toy-a.bin.part"]
    assert place.run()[0] == 0
    assert site.seen[1][1] == f"bytes={part_size(site)}-"
    assert place.complete()


def test_what_a_killed_run_left_is_cleared_away(site, place):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    (place.data / ".new-x/sub").mkdir(parents=True)
    (place.data / ".new-x/sub/a.bin").write_bytes(b"half")
    (place.data / "toy").mkdir()
    (place.data / "toy/.complete.new").write_text("{")
    assert place.run()[0] == 0
    assert place.complete()


def part_size(site):
    return int(site.seen[1][1][6:-1])


def test_two_runs_at_once_do_not_disturb_each_other(site, place):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    command = [sys.executable, "-m", "getdata", "toy"]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(20) for process in both] == [0, 0]
    assert len(site.seen) == 1
    assert place.complete()
