"""A text as characters: spaces stay, a line's end is one character of its own.

The vocabulary is in order of first appearance over train, a space, valid, a space, test.
"""

from collections.abc import Iterator
from pathlib import Path

from lightning_fabric import Fabric

from trellisnet.environment import load_text
from trellisnet.text import CHUNK, SPLITS, Corpus

DATASETS = ("ptb", "pydoc")
EOS = "\u00ff"
# Where a data set may lie below --data, and how its files are called there.
PLACES = {"ptb": (("", "{}.txt"), ("", "ptb.{}.txt"), ("simple-examples/data", "ptb.{}.txt"),
                  ("penn", "{}.txt")),
          "pydoc": (("", "{}.txt"), ("pydoc", "{}.txt"))}


def load_corpus(path: str, dataset: str, fabric: Fabric) -> Corpus:
    """The three texts of `dataset`. Raises BadInput."""
    return load_text(path, fabric, dataset, lambda: Corpus(
        find_texts(Path(path), dataset), characters_of, "characters", between=(" ", " ")))


def find_texts(folder: Path, dataset: str) -> dict[str, Path]:
    """split -> file, at the first place that has the training text."""
    for place, name in PLACES[dataset]:
        texts = {split: folder / place / name.format(split) for split in SPLITS}
        if texts["train"].is_file():
            return texts
    raise FileNotFoundError(f"no texts of {dataset} there")


def characters_of(path: Path) -> Iterator[list[str]]:
    """Characters, EOS at each line end. A text of the form `t h e _ c a t` (getdata.sh's PTBC) has
    characters for words: then these are the tokens."""
    with path.open(encoding="utf-8") as file:
        spaced = is_spaced(file.readline())
        file.seek(0)
        while piece := file.read(CHUNK):
            piece = piece.replace("\n", EOS)
            yield list(piece.replace(" ", "") if spaced else piece)


def is_spaced(line: str) -> bool:
    words = line.split()
    return len(words) > 2 and all(len(word) == 1 for word in words)
