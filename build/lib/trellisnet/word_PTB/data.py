"""Word-level Penn Treebank: train.txt, valid.txt, test.txt of a folder."""

from pathlib import Path

from trellisnet.text import Corpus, word_corpus

GETDATA = {"penn": "ptb", "pydoc": "pydoc"}  # folder -> what getdata.sh calls it


def load_corpus(path: str) -> Corpus:
    """The three texts as words. Raises FileNotFoundError, ValueError."""
    return word_corpus(Path(path))
