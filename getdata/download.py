"""One file from one URL: streamed, continued after an interruption, given up when it stalls.

Everything here raises AddressFailed when the address does not give the file, so that the next one
can be tried.
"""

import contextlib
import http.client
import os
import time

from getdata.checksums import BLOCK, is_known, need_space, size_of
from getdata.errors import AddressFailed, ConnectionLost, Unreachable, WrongFile

USER_AGENT = "getdata/1.0 (+python-requests)"  # some hosts refuse the default ones of libraries
ATTEMPTS = 4  # times one address is asked again after the connection broke with some progress
MIN_PROGRESS = 1024  # bytes that must arrive in every timeout seconds


def validator_path(part):
    """Return where the ETag or date of a half download stands, for If-Range."""
    return part.with_name(part.name + ".tag")


def discard(part):
    """Forget a half download."""
    part.unlink(missing_ok=True)
    validator_path(part).unlink(missing_ok=True)


def download(url, part, facts, timeout):
    """Fetch url to part, continuing it if it exists; return whether an old part was continued.

    An old part is continued only if the server says the file is the same (If-Range) or a checksum
    will tell. Raises AddressFailed; what has arrived is kept unless it was a wrong file.
    """
    continued = False
    for attempt in range(ATTEMPTS):
        before = size_of(part)
        try:
            return stream(url, part, facts, timeout) or continued
        except ConnectionLost:
            if attempt == ATTEMPTS - 1 or size_of(part) <= before:
                raise
            continued = True
            time.sleep(attempt)
    raise AssertionError("unreachable")


def stream(url, part, facts, timeout):
    """Make one request for the rest of part and write it; return whether it was continued."""
    import requests

    tag = validator_path(part)
    start = size_of(part) if tag.exists() or is_known(facts) else 0
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if tag.exists():
            headers["If-Range"] = tag.read_text(encoding="latin-1")
    try:
        response = requests.get(url, stream=True, timeout=timeout, headers=headers)
    except requests.RequestException as error:
        raise failure(error, timeout) from error
    with response:
        if response.status_code == 416 and start:
            if response.headers.get("Content-Range", "") == f"bytes */{start}":
                return True  # it was complete
            discard(part)
            return stream(url, part, facts, timeout)
        start = check_answer(response, start)
        total = expected_size(response, start, facts)
        need_space(part.parent, (total or start) - start)
        if not start:
            discard(part)
            tag_text = response.headers.get("ETag") or response.headers.get("Last-Modified")
            if tag_text and not tag_text.startswith("W/"):
                tag.write_text(tag_text, encoding="latin-1")
        write_body(response, part, start, total, timeout)
    return start > 0


def failure(error, timeout):
    """Return the AddressFailed, with a short text, for an exception of requests."""
    name = type(error).__name__
    if name in ("ConnectTimeout", "ConnectionError"):
        return Unreachable("cannot connect")
    return AddressFailed(f"no answer within {timeout:g} s" if "Timeout" in name else name)


def check_answer(response, start):
    """Return where the body begins: at start, or at 0 if the server sends the whole file."""
    if response.status_code not in (200, 206):
        raise AddressFailed(f"HTTP {response.status_code}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise WrongFile("answered with a web page instead of the file")
    if response.status_code == 200:
        return 0
    if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise WrongFile("answered with another range than asked for")
    return start


def expected_size(response, start, facts):
    """Return the size of the whole file as the server gives it, None if it does not."""
    length = response.headers.get("Content-Length", "")
    if not length.isdigit():
        return None
    total = start + int(length)
    if total != facts.get("bytes", total):
        raise WrongFile(f"{total:,} bytes offered, expected {facts['bytes']:,}")
    return total


def write_body(response, part, start, total, timeout):
    """Append the body to part, durably, with a bar on a terminal. Raises ConnectionLost."""
    from tqdm import tqdm

    bar = tqdm(
        total=total, initial=start, unit="B", unit_scale=True, leave=False, disable=None,
        desc=part.stem,
    )  # fmt: skip
    with open(part, "ab" if start else "wb") as file, bar:
        try:
            for block in blocks(response, timeout):
                file.write(block)
                bar.update(len(block))
            file.flush()
        finally:
            with contextlib.suppress(OSError):  # a full disk is reported by the write
                os.fsync(file.fileno())
    size = size_of(part)
    if total is not None and size < total:
        raise ConnectionLost(f"connection lost at {size:,} of {total:,} bytes")


def blocks(response, timeout):
    """Yield the body as it arrives. Raises ConnectionLost when it breaks off or hardly moves."""
    from urllib3.exceptions import HTTPError

    since, arrived = time.monotonic(), 0
    while True:
        try:
            # read1 returns after one packet; read would wait for a full block from a slow server
            block = response.raw.read1(BLOCK)
        except (HTTPError, http.client.HTTPException, OSError) as error:
            stalled = "Timeout" in type(error).__name__
            what = f"no data for {timeout:g} s" if stalled else "connection lost"
            raise ConnectionLost(what) from error
        if not block:
            return
        yield block
        arrived += len(block)
        if time.monotonic() - since > timeout:
            if arrived < MIN_PROGRESS:
                raise ConnectionLost(f"only {arrived} bytes in {timeout:g} s")
            since, arrived = time.monotonic(), 0


def download_checked(url, part, facts, timeout, take):
    """Download url to part and hand it to take(path), which raises WrongFile if it is not right.

    A part left from an earlier run may itself be what is wrong, so after a mismatch a continued
    download is thrown away and made once more from the start. Returns what take returns.
    """
    for again in (True, False):
        continued = download(url, part, facts, timeout)
        try:
            return take(part)
        except WrongFile:
            discard(part)
            if not (continued and again):
                raise
    raise AssertionError("unreachable")
