"""WikiText-103, or WikiText-2: train.txt, valid.txt, test.txt of a folder."""

from pathlib import Path

from trellisnet.text import Corpus, word_corpus

GETDATA = {"wikitext-103": "wt103", "wikitext-2": "wt2", "pydoc": "pydoc"}


def load_corpus(path: str) -> Corpus:
    """The three texts as words; the original README's spelling of the folder, `wikitext103`, will
    do. Raises FileNotFoundError, ValueError."""
    folder = Path(path)
    if not folder.exists() and folder.name == "wikitext-103":
        other = folder.with_name("wikitext103")
        folder = other if other.exists() else folder
    return word_corpus(folder)
