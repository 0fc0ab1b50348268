"""A text as characters: spaces stay, a line's end is a token of its own.

The vocabulary is in order of first appearance over train, a space, valid, a space, test.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from texts.folder import NAMES, SPLITS
from texts.vocabulary import digest_of
from texts.words import BOM, CHUNK, EOS, refuse_wide, words_of
from trellisnet.text import Corpus

EOS_THEN = "\u00ff"  # the line's end in the original and in release 0.1
# Where a data set may lie below --data, and how its files are called there.
PLACES = {"ptb": (*(("", name) for name in NAMES), ("simple-examples/data", "ptb.{}.txt"),
                  ("penn", "{}.txt")),
          "pydoc": (("", "{}.txt"), ("pydoc", "{}.txt"))}


class Characters(Corpus):
    """The three texts of `dataset` in the folder `path`. `spaced`: they have characters for words,
    as in `t h e _ c a t` (getdata.sh's PTBC); then these are the tokens, and blanks are none.

    Raises FileNotFoundError, or ValueError like Corpus.
    """

    def __init__(self, path: str, dataset: str):
        files = find_texts(Path(path), dataset)
        self.spaced = all(is_spaced(file) for file in files.values() if file.is_file())
        super().__init__(files, partial(characters_of, spaced=self.spaced),
                         f"{'spaced-' if self.spaced else ''}characters", between=(" ", " "))

    def facts(self) -> dict:
        return {**super().facts(), "spaced": self.spaced}

    @staticmethod
    def digest_of(words: list[str]) -> str:
        """With a line's end as release 0.1 wrote it, so that its model files still fit. It took the
        letter U+00FF for a line's end too: where a text has this letter, there is no such file."""
        then = words if EOS_THEN in words else [
            EOS_THEN if word == EOS else word for word in words]
        return digest_of(then)


def find_texts(folder: Path, dataset: str) -> dict[str, Path]:
    """split -> file, at the first place that has the training text."""
    for place, name in PLACES[dataset]:
        texts = {split: folder / place / name.format(split) for split in SPLITS}
        if texts["train"].is_file():
            return texts
    others = [str(Path(place) / name.format("train")) for place, name in PLACES[dataset][1:]]
    raise FileNotFoundError(f"no train.txt in {folder}, nor {' or '.join(others)}")


def characters_of(path: Path, spaced: bool = False) -> Iterator[list[str]]:
    """Characters, EOS at each line end; blanks are left out if `spaced`."""
    refuse_wide(path)
    try:
        with path.open(encoding="utf-8") as file:
            first = True
            while piece := file.read(CHUNK):
                piece = piece.removeprefix(BOM) if first else piece
                first = False
                yield [EOS if character == "\n" else character
                       for character in (piece.replace(" ", "") if spaced else piece)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None


def is_spaced(path: Path) -> bool:
    """Are all words of the text, three at least, one character long?"""
    count = 0
    try:
        for words in words_of(path, end=""):
            if any(len(word) > 1 for word in words):
                return False
            count += sum(map(bool, words))
    except ValueError:  # for the tokeniser to say
        return False
    return count > 2
