"""A text that a program writes where a flag says: a file, or - for standard output."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from harness import files
from harness.endings import BadInput


def check_output(flag: str, path: str, source: str = "") -> None:
    """Raises BadInput unless text can be written there: better now than after the work. source: a
    file that the work begins from, which is not to be written over."""
    folder = Path(path).parent
    if path == "-":
        return
    if not path:
        raise BadInput(f"{flag} is empty: give the name of a file")
    if os.path.isdir(path) or path.endswith(os.sep):
        raise BadInput(f"{flag} {path} is a folder: give the name of a file")
    if not folder.is_dir():
        raise BadInput(f"{flag} {path}: there is no folder {folder}")
    if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
        raise BadInput(f"{flag} {path} is the file that is read: give another name")
    place = folder if is_file_to_be(path) else path
    if not os.access(place, os.W_OK):
        raise BadInput(f"{flag} {path}: {place} is read-only")


def is_file_to_be(path: str) -> bool:
    """Is it, or will it be, a plain file? Not /dev/null, a pipe or a terminal."""
    return os.path.isfile(path) or not os.path.exists(path)


@contextmanager
def text_output(path: str) -> Iterator[TextIO]:
    """Where to write text. A file appears when the text is whole; until then, and if the program is
    stopped, an earlier one stays."""
    if path == "-" or not is_file_to_be(path):
        with open(1 if path == "-" else path, "w", encoding="utf-8", closefd=path != "-") as out:
            yield out
        return
    text = io.StringIO()
    yield text
    files.replace(path, lambda file: file.write(text.getvalue().encode()))
