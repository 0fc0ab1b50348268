"""Where a script's own data/ and logs/ are, and what its commands are called here: in a checkout,
or installed from a wheel, where nothing may be written beside the modules."""

import functools
import os
import re
import sys
from pathlib import Path

from harness.notices import notice

ROOT = Path(__file__).resolve().parents[1]
CHECKOUT = (ROOT / "getdata.sh").is_file()


def home(file: str) -> Path:
    """The folder whose data/ and logs/ are the defaults of the script `file`: its own in a
    checkout, otherwise the working directory, where `python -m getdata` puts data/ as well."""
    return Path(file).resolve().parent if CHECKOUT else Path.cwd()


def logs(folder: Path) -> Path:
    """`folder`, or logs/ in the working directory if the checkout is read-only."""
    writable = os.access(folder if folder.is_dir() else folder.parent, os.W_OK)
    return folder if writable else Path.cwd() / "logs"


@functools.cache
def announce(folder: Path) -> None:
    """Says once, where it may surprise, that logs go to the working directory."""
    if folder == Path.cwd() / "logs" and int(os.environ.get("LOCAL_RANK", 0)) == 0:
        why = f"{ROOT} is read-only" if CHECKOUT else "this is no checkout"
        notice(f"{os.path.basename(sys.argv[0])}: logs go to {folder}, since {why}; --log-dir "
               "names another folder")


def commands(text: str) -> str:
    """The text with the commands of a checkout as they are typed where this is installed:
    ./getdata.sh ptb -> python -m getdata ptb, python a/b.py -> python -m a.b."""
    if CHECKOUT:
        return text
    text = text.replace("./getdata.sh", "python -m getdata")
    return re.sub(r"\bpython ((?:\w+/)+\w+)\.py\b",
                  lambda found: f"python -m {found[1].replace('/', '.')}", text)
