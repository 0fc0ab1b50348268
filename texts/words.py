"""A text's words, in bounded memory however long its lines are (text8 is one of 100 MB)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

EOS = "<eos>"
BOM = "\ufeff"   # at the start of a file; also of a line, where files were joined
CHUNK = 1 << 22  # characters at a time: bounds the memory, not the result


def refuse_wide(path: Path) -> None:
    """Raises ValueError naming the file if it is UTF-16 or UTF-32 without a byte order mark, which
    passes for UTF-8: a NUL beside each letter. Of a pipe, which can be read once, nothing is."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(4096)
    if 4 * head.count(0) > len(head):
        raise ValueError(f"{path} is not UTF-8 text but UTF-16 or UTF-32, or no text: convert it, "
                         "for instance with iconv")


def words_of(path: Path, end: str = EOS) -> Iterator[list[str]]:
    """The white-space separated words of a text, `end` after each line (also an empty one, and the
    last one without a line break). A byte order mark before a line is no word.

    Raises ValueError naming the file if it is not UTF-8.
    """
    refuse_wide(path)
    try:
        with path.open(encoding="utf-8") as file:
            yield from words_in(file, end)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None


def words_in(file: TextIO, end: str = EOS) -> Iterator[list[str]]:
    """The same of an open text."""
    rest, cut = "", False  # of the last line read; cut: its beginning has been given out already
    while piece := file.read(CHUNK):
        *lines, rest = (rest + piece).split("\n")
        words: list[str] = []
        for line in lines:
            words += (line if cut else line.lstrip(BOM)).split()
            words.append(end)
            cut = False
        if len(rest) >= CHUNK:
            found = (rest if cut else rest.lstrip(BOM)).split()
            rest = found.pop() if found and not rest[-1].isspace() else ""  # perhaps half a word
            words += found
            cut = True
        yield words
    if rest or cut:
        yield [*(rest if cut else rest.lstrip(BOM)).split(), end]


def numbered(pieces: Iterable[list[str]], index: dict[str, int]) -> Iterator[Iterator[int]]:
    """The ids of each piece's words. A word that `index` lacks gets the next number there."""
    for words in pieces:
        for word in dict.fromkeys(words):  # each distinct word once: the texts repeat a lot
            index.setdefault(word, len(index))
        yield map(index.__getitem__, words)
