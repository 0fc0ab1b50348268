"""Word-level Penn Treebank: train.txt, valid.txt, test.txt of a folder."""

from pathlib import Path

from lightning_fabric import Fabric

from trellisnet.environment import load_text
from trellisnet.text import EOS, SPLITS, Corpus, words_of

__all__ = ["EOS", "load_corpus"]

GETDATA = {"penn": "ptb", "pydoc": "pydoc"}  # folder -> what getdata.sh calls it


def load_corpus(path: str, fabric: Fabric) -> Corpus:
    """The three texts, tokenised at white space, <eos> at each line end. Raises BadInput."""
    folder = Path(path)
    return load_text(path, fabric, GETDATA.get(folder.name), lambda: Corpus(
        {split: folder / f"{split}.txt" for split in SPLITS}, words_of, "words"))
