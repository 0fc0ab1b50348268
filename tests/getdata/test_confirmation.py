"""A file host that asks to confirm a download on a web page, as Google Drive does for large files.

The server on 127.0.0.1 answers as that host does: a page with a form (hidden fields, a cookie),
then the file; a page that says that the quota is used up; an older page with a link, or a cookie.
"""

import hashlib
import io
import zipfile
from urllib.parse import parse_qs, urlsplit

import pytest

from getdata.confirmation import confirmed
from getdata.errors import AddressFailed, WrongFile
from tests.getdata.server import BODY, status, whole

FORM = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<p class="uc-warning-caption">Google Drive can't scan this file for viruses.</p>
<form action="/other" method="get"><input type="hidden" name="q" value="no"></form>
<form id="download-form" action="{action}" method="get">
<input type="submit" id="uc-download-link" value="Download anyway"/>
<input type="hidden" name="id" value="1Lz"><input type="hidden" name="export" value="download">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="a-b &amp; c">
</form></body></html>"""
QUOTA = ("<html><head><title>Google Drive - Quota exceeded</title></head><body><p>Sorry, you can't "
         "view or download this file at this time.</p><p>Too many users have viewed or downloaded "
         "this file recently.</p></body></html>")
WEIGHTS = b"\x80\x02" + BODY   # as torch.save begins
PAGE = "/uc?export=download&id=1Lz"


def page(text, **headers):
    return whole(text.encode(), ranges=False, Content_Type="text/html; charset=utf-8", **headers)


class Host:
    """Sends the file to those alone who come with the form's fields and the page's cookie."""

    def __init__(self, site, first=None):
        self.site, self.asked = site, []
        site.routes[PAGE] = first or page(FORM.format(action="/download"),
                                          Set_Cookie="NID=abc; Path=/")
        site.routes = Routes(site.routes, self)

    def download(self, handler):
        fields = parse_qs(urlsplit(handler.path).query)
        self.asked.append(fields)
        if fields != {"id": ["1Lz"], "export": ["download"], "confirm": ["t"],
                      "uuid": ["a-b & c"]} or handler.headers.get("Cookie") != "NID=abc":
            return page(FORM.format(action="/download"))(handler)
        return whole(WEIGHTS, Content_Disposition='attachment; filename="x.pkl"')(handler)


class Routes(dict):
    def __init__(self, routes, host):
        super().__init__(routes)
        self.host = host

    def get(self, path, default=None):
        if path.startswith("/download?"):
            return self.host.download
        return super().get(path, default)


def one_file(place, site, **more):
    place.describe([{"to": "x.pkl", "asks": True, "from": [f"{site.url}{PAGE}#x.pkl"], **more}])


def test_the_form_is_sent_with_its_cookie_and_the_file_arrives(site, place):
    host = Host(site)
    one_file(place, site)
    code, out, err = place.run()
    assert (code, err) == (0, "")
    assert (place.data / "toy/x.pkl").read_bytes() == WEIGHTS
    assert len(host.asked) == 1
    assert "no checksum is published; used unverified (sha256 " + hashlib.sha256(
        WEIGHTS).hexdigest() in out
    assert place.left() == ["toy/x.pkl"]


def test_an_interrupted_download_is_continued_behind_the_page(site, place):
    """The part's ETag is sent along with the confirmed request; the page comes again."""
    Host(site)
    facts = {"bytes": len(WEIGHTS), "sha256": hashlib.sha256(WEIGHTS).hexdigest()}
    one_file(place, site, **facts)
    (place.data / ".downloads").mkdir(parents=True)
    (place.data / ".downloads/toy-x.pkl.part").write_bytes(WEIGHTS[:100_000])
    assert place.run()[0] == 0
    assert (place.data / "toy/x.pkl").read_bytes() == WEIGHTS
    assert site.seen[-1][1] == "bytes=100000-"


REFUSED = {
    "quota": (page(QUOTA), "too many people have downloaded the file in the last 24 hours"),
    "sign in": (page('<html><a href="https://accounts.google.com/ServiceLogin?x">Sign in</a>'),
                "the host asks to sign in: the file is not public any more"),
    "another host": (page(FORM.format(action="http://127.0.0.1:1/download")),
                     "a web page that leads to 127.0.0.1:1"),
    "no form": (page("<html>hello</html>"), "a web page instead of the file"),
    "the page again": (page(FORM.format(action="/again?download")),
                       "a web page instead of the file"),
    "gone": (status(404), "HTTP 404"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_no_file_is_refused_with_what_to_do(fault, site, place):
    answer, why = REFUSED[fault]
    host = Host(site, answer)
    if fault == "the page again":
        host.site.routes.get = lambda path, default=None: page(FORM.format(action=PAGE))
    one_file(place, site)
    code, _, err = place.run()
    assert code == 1
    assert why in err
    assert "by hand: put x.pkl into" in err
    assert place.left() == []


def test_a_host_that_was_not_said_to_ask_is_not_asked_twice(site, place):
    Host(site)
    one_file(place, site, asks=False)
    code, _, err = place.run()
    assert code == 1
    assert "a web page instead of the file" in err
    assert len(site.seen) == 1


@pytest.mark.parametrize("kind", ["zip", "pickle", "page"])
def test_weights_saved_by_hand(kind, site, place):
    """Today's torch.save writes a zip, which is not unpacked; a browser may have saved the page."""
    Host(site, status(404))
    one_file(place, site)
    place.data.mkdir()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("x/data.pkl", "a")
        archive.writestr("x/version", "3")
    content = {"zip": content.getvalue(), "pickle": WEIGHTS, "page": b"<html>"}[kind]
    (place.data / "x.pkl").write_bytes(content)
    code, _, err = place.run()
    if kind == "page":
        assert code == 1
        assert f"{place.data}/x.pkl: these are no weights" in err
    else:
        assert (code, (place.data / "toy/x.pkl").read_bytes()) == (0, content)


DRIVE = "https://drive.google.com/uc?export=download&id=1Lz"


@pytest.mark.parametrize(("text", "cookies", "target"), [
    (FORM.format(action="https://drive.usercontent.google.com/download"), {},
     "https://drive.usercontent.google.com/download?id=1Lz&export=download&confirm=t"
     "&uuid=a-b+%26+c"),
    ('<a id="uc-download-link" href="/uc?export=download&amp;confirm=Xy1&amp;id=1Lz">go</a>', {},
     "https://drive.google.com/uc?export=download&confirm=Xy1&id=1Lz"),
    ("<p>scan warning</p>", {"download_warning_13_1Lz": "k9"},
     f"{DRIVE}&confirm=k9")], ids=["form", "link", "cookie"])
def test_pages_of_then_and_now(text, cookies, target):
    assert confirmed(DRIVE, text, cookies) == target


def test_pages_that_lead_elsewhere():
    with pytest.raises(WrongFile, match=r"leads to evil\.example"):
        confirmed(DRIVE, FORM.format(action="https://evil.example/download"), {})
    with pytest.raises(WrongFile, match="leads to"):
        confirmed(DRIVE, FORM.format(action="file:///etc/passwd?download"), {})
    with pytest.raises(AddressFailed, match="try again tomorrow"):
        confirmed(DRIVE, QUOTA, {})
