"""The page with which a file host asks to confirm a download, instead of sending the file.

Google Drive cannot scan large files for viruses and says so on a page with a form (hidden fields,
to be sent by GET to drive.usercontent.google.com); an older page has a link with confirm=TOKEN, or
a cookie download_warning... with the token. Another page says that too many people wanted the file.
"""

import html.parser
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from getdata.errors import AddressFailed, WrongFile

LARGEST_PAGE = 1 << 20
ALSO = {"drive.google.com": {"drive.usercontent.google.com"}}  # where a host's forms may lead
QUOTA = ("quota exceeded", "too many users have viewed or downloaded", "exceeded its quota")
SIGN_IN = ("servicelogin", "accounts.google.com", "you need access", "request access")


class Page(html.parser.HTMLParser):
    """The first form for a download, (action, hidden fields), and all links."""

    def __init__(self, text: str):
        super().__init__()
        self.form, self.links, self._fields = None, [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif tag == "form" and self.form is None and "download" in (
                f"{found.get('id')} {found.get('action')}"):
            self._fields = {}
            self.form = found.get("action") or "", self._fields
        elif tag == "input" and self._fields is not None and found.get("name"):
            self._fields[found["name"]] = found.get("value") or ""

    def handle_endtag(self, tag):
        if tag == "form":
            self._fields = None


def confirmed(url: str, text: str, cookies: dict[str, str]) -> str:
    """The address to ask next, after the page `text` at `url`. cookies: those that came with it.

    Raises AddressFailed if the host's quota is used up or the file is no longer public, WrongFile
    if the page asks for nothing that we understand, or leads to another host.
    """
    low = text.lower()
    if any(words in low for words in QUOTA):
        raise AddressFailed("too many people have downloaded the file in the last 24 hours: try "
                            "again tomorrow")
    if any(words in f"{url} {low}".lower() for words in SIGN_IN):
        raise AddressFailed("the host asks to sign in: the file is not public any more")
    page = Page(text)
    if page.form:
        action, fields = page.form
        target = urljoin(url, action)
        target = _with(target, fields)
    elif links := [link for link in page.links if "confirm=" in link]:
        target = urljoin(url, links[0])
    elif tokens := [value for name, value in cookies.items()
                    if name.startswith("download_warning")]:
        target = _with(url, {"confirm": tokens[0]})
    else:
        raise WrongFile("answered with a web page instead of the file")
    here, there = urlsplit(url), urlsplit(target)
    same = there.netloc == here.netloc or there.netloc in ALSO.get(here.netloc, ())
    if there.scheme not in ("http", "https") or not same:
        raise WrongFile(f"answered with a web page that leads to {there.netloc or 'nowhere'}")
    return target


def _with(url: str, fields: dict[str, str]) -> str:
    """The address with these fields in its query."""
    parts = urlsplit(url)
    return parts._replace(query=urlencode(dict(parse_qsl(parts.query)) | fields)).geturl()
