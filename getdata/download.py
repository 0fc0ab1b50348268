"""One file from one URL: streamed, continued after an interruption, given up when it stalls.

Everything here raises AddressFailed when the address does not give the file, so that the next one
can be tried. `facts` says what is known of the file: bytes, if only one size is right, largest, the
most that any right file can have, its checksums, and asks: whether the host may ask to confirm the
download on a web page first.
"""

import contextlib
import http.client
import os
import time

from getdata.checksums import BLOCK, is_known, lacking_space, size_of
from getdata.confirmation import LARGEST_PAGE, confirmed
from getdata.errors import FULL, AddressFailed, ConnectionLost, Unreachable, WrongFile
from getdata.parts import discard, open_part, tidy, validator_path
from getdata.watched import Watched

USER_AGENT = "getdata/1.0 (+python-requests)"  # some hosts refuse the default ones of libraries
ATTEMPTS = 4  # times one address is asked again after the connection broke with some progress
MIN_PROGRESS = 1024  # bytes that must arrive in every timeout seconds


def download(url, part, facts, timeout):
    """Fetch url to part, continuing it if it exists; return whether an old part was continued.

    An old part is continued only if the server says the file is the same (If-Range) or a checksum
    will tell. Raises AddressFailed; what has arrived is kept unless it was a wrong file.
    """
    tidy(part, facts["largest"])
    continued = False
    for attempt in range(ATTEMPTS):
        before = size_of(part)
        try:
            return stream(url, part, facts, timeout) or continued
        except ConnectionLost:
            if attempt == ATTEMPTS - 1 or size_of(part) < before + MIN_PROGRESS:
                raise
            continued = True
            time.sleep(attempt)
    raise AssertionError("unreachable")


def stream(url, part, facts, timeout):
    """Make one request for the rest of part and write it; return whether it was continued."""
    import requests  # here, or its second of loading would count as the server's

    tag = validator_path(part)
    start = size_of(part) if tag.exists() or is_known(facts) else 0
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if tag.exists():
            headers["If-Range"] = tag.read_text(encoding="latin-1")
    asks = facts.get("asks", False)
    wait = (4 if asks else 2) * timeout  # one to connect, one for the headers; twice, if asked
    with Watched(exchange(requests.Session(), url, headers, timeout, asks)) as steps:
        try:
            response = steps.next(wait)
        except TimeoutError:
            raise AddressFailed(f"no answer within {wait:g} s") from None
        if response.status_code == 416 and start:
            if response.headers.get("Content-Range", "") == f"bytes */{start}":
                return True  # it was complete
            discard(part)
        else:
            return receive(response, steps, part, start, facts, timeout)
    return stream(url, part, facts, timeout)


def exchange(session, url, headers, timeout, asks=False):
    """Yield the response, then the blocks of its body as they arrive, and close the session; asks:
    that to the second request, if the first is answered with a page to confirm. Raises
    AddressFailed."""
    from urllib3.exceptions import HTTPError

    try:
        with session:  # keeps the page's cookies
            response = session.get(url, stream=True, timeout=timeout, headers=headers)
            if asks and is_page(response):
                with response:
                    text = response.raw.read(LARGEST_PAGE).decode("utf-8", "replace")
                target = confirmed(response.url, text, session.cookies.get_dict())
                response = session.get(target, stream=True, timeout=timeout, headers=headers)
    except AddressFailed:
        raise
    except (OSError, HTTPError, http.client.HTTPException, ValueError) as error:
        # RequestException is an OSError; a redirect to nonsense raises what it likes
        raise failure(error, timeout) from error
    with response:
        yield response
        while True:
            try:
                # read1 returns after one packet; read would wait for a full block
                block = response.raw.read1(BLOCK)
            except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
                stalled = "Timeout" in type(error).__name__
                what = f"no data for {timeout:g} s" if stalled else "connection lost"
                raise ConnectionLost(what) from error
            if not block:
                return
            yield block


def failure(error, timeout):
    """Return the AddressFailed, with a short text, for what was raised before an answer."""
    from urllib3.exceptions import NewConnectionError

    name = type(error).__name__
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if name == "ConnectTimeout" or isinstance(reason, NewConnectionError):
        return Unreachable("cannot connect")
    if "Timeout" in name:
        return AddressFailed(f"no answer within {timeout:g} s")
    return AddressFailed(f"no answer that makes sense ({name})")


def receive(response, steps, part, start, facts, timeout):
    """Write the body of a response to part; return whether it was continued."""
    start = check_answer(response, start)
    total = expected_size(response, start, facts)
    if why := lacking_space(part.parent, (total or start) - start):
        raise AddressFailed(why)
    if not start:
        discard(part)
        note_validator(response, part)
    try:
        write_body(steps, part, start, total, facts["largest"], timeout)
    except WrongFile:
        discard(part)
        raise
    except OSError as error:
        if total is not None or error.errno not in FULL:
            raise
        discard(part)  # it may never have ended: room for the next address
        raise AddressFailed("does not say how much it sends, and the disk is full") from error
    return start > 0


def check_answer(response, start):
    """Return where the body begins: at start, or at 0 if the server sends the whole file."""
    if response.status_code not in (200, 206):
        raise AddressFailed(f"HTTP {response.status_code}")
    if is_page(response):
        raise WrongFile("answered with a web page instead of the file")
    if response.status_code == 200:
        return 0
    if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise WrongFile("answered with another range than asked for")
    return start


def is_page(response):
    """Tell whether the answer is a web page."""
    return response.status_code == 200 and response.headers.get("Content-Type", "").startswith(
        "text/html")


def expected_size(response, start, facts):
    """Return the size of the whole file as the server gives it, None if it does not."""
    length = response.headers.get("Content-Length")
    if not length or "Transfer-Encoding" in response.headers:
        return None
    if not (length.isascii() and length.isdigit() and len(length) < 20):  # int() takes "²" as well
        raise WrongFile(f"Content-Length {length[:20]!r} is no number of bytes")
    total = start + int(length)
    if total != facts.get("bytes", total):
        raise WrongFile(f"{total:,} bytes offered, expected {facts['bytes']:,}")
    if total > facts["largest"]:
        raise WrongFile(f"{total:,} bytes offered, more than the {facts['largest']:,} bytes "
                        "that can be right")
    return total


def note_validator(response, part):
    """Keep the ETag or date of what is about to come, if it can be sent back."""
    text = response.headers.get("ETag") or response.headers.get("Last-Modified")
    if text and text.isascii() and text.isprintable() and not text.startswith("W/"):
        with open_part(validator_path(part), "wb") as file:
            file.write(text.encode("latin-1"))


def write_body(steps, part, start, total, largest, timeout):
    """Append the body to part, durably, with a bar on a terminal.

    Raises ConnectionLost if it breaks off or hardly moves, WrongFile if it is too long or empty.
    """
    from tqdm import tqdm

    bar = tqdm(
        total=total, initial=start, unit="B", unit_scale=True, leave=False, disable=None,
        desc=part.stem,
    )  # fmt: skip
    size = start
    with open_part(part, "ab" if start else "wb") as file, bar:
        try:
            for block in blocks(steps, timeout):
                size += len(block)
                if size > largest:
                    raise WrongFile(f"sends more than the {largest:,} bytes that can be right")
                file.write(block)
                bar.update(len(block))
            file.flush()
        finally:
            with contextlib.suppress(OSError):  # a full disk is reported by the write
                os.fsync(file.fileno())
    if not size:
        raise WrongFile("sent nothing")
    if total is not None and size < total:
        raise ConnectionLost(f"connection lost at {size:,} of {total:,} bytes")


def blocks(steps, timeout):
    """Yield the body as it arrives. Raises ConnectionLost when it breaks off or hardly moves."""
    since, arrived = time.monotonic(), 0
    while True:
        try:
            block = steps.next(timeout)
        except TimeoutError:
            raise ConnectionLost(f"no data for {timeout:g} s") from None
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

    A part left from an earlier run may itself be what is wrong, or its server answers badly when
    asked for the rest; so after a mismatch it is thrown away and the download made once more from
    the start. Returns what take returns.
    """
    for again in (True, False):
        continued = size_of(part) > 0
        try:
            continued = download(url, part, facts, timeout) or continued
            return take(part)
        except WrongFile:
            discard(part)
            if not (continued and again):
                raise
    raise AssertionError("unreachable")
