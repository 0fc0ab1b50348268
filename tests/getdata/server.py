"""A web server of this process that fails in every way a host can fail.

A route is a function of the request handler; the server's `seen` keeps (path, Range header),
`sent` the bytes that went out after `raw`'s pieces, by path.
"""

import http.server
import random
import socket

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)


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


def raw(*pieces, every=0.0, forever=b""):
    """Send bytes as they stand, the status line included; then `forever`, until the reader leaves
    or the server is closed."""

    def answer(handler):
        handler.close_connection = True
        wait, sent = handler.server.closing.wait, 0
        try:
            for piece in pieces:
                handler.wfile.write(piece)
                handler.wfile.flush()
                wait(every)
            while forever and not wait(every):
                handler.wfile.write(forever)
                handler.wfile.flush()
                sent += len(forever)
        except OSError:
            pass
        handler.server.sent[handler.path] = sent

    return answer


def drip(text, every):
    """The bytes of a text one at a time."""
    return raw(*(bytes([byte]) for byte in text), every=every)


def chunk(body):
    return b"%x\r\n%s\r\n" % (len(body), body)
