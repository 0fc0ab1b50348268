"""WikiText-103, or WikiText-2: train.txt, valid.txt, test.txt of a folder."""

from pathlib import Path

from lightning_fabric import Fabric

from trellisnet.environment import load_text
from trellisnet.text import SPLITS, Corpus, words_of

GETDATA = {"wikitext-103": "wt103", "wikitext-2": "wt2", "pydoc": "pydoc"}


def load_corpus(path: str, fabric: Fabric) -> Corpus:
    """The three texts, tokenised at white space, <eos> at each line end; the README's spelling
    `wikitext103` will do. Raises BadInput."""
    folder = Path(path)
    if not folder.exists() and folder.name == "wikitext-103":
        other = folder.with_name("wikitext103")
        folder = other if other.exists() else folder
    return load_text(path, fabric, GETDATA.get(folder.name), lambda: Corpus(
        {split: folder / f"{split}.txt" for split in SPLITS}, words_of, "words"))
