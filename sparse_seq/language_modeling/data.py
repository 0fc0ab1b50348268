"""Text to ids: train.txt, valid.txt, test.txt of a folder, the words ordered by frequency.

A line's tokens are its white-space separated words followed by <eos>. The order of the words is set
by their counts in train.txt (see sparse_seq.vocabulary); words first seen in valid or test come
after all of them, so that under `up` they get full-length vectors, as in the original.
"""

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from sparse_seq.vocabulary import digest, order_words

SPLITS = ("train", "valid", "test")
EOS = "<eos>"


def tokens_of(path: Path) -> list[str]:
    """Raises FileNotFoundError, or ValueError if the text is empty or not UTF-8."""
    try:
        with path.open(encoding="utf-8") as file:
            tokens = [token for line in file for token in (*line.split(), EOS)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except FileNotFoundError:
        raise FileNotFoundError(f"no {path.name} in {path.parent}") from None
    if not tokens:
        raise ValueError(f"{path} is empty")
    return tokens


class Corpus:
    """words (list, id -> word), counts (over all three texts), and the texts train, valid, test as
    int32 tensors of ids."""

    def __init__(self, words: list[str], counts: list[int], texts: dict[str, Tensor]):
        self.words, self.counts = words, counts
        self.train, self.valid, self.test = (texts[split] for split in SPLITS)

    @classmethod
    def read(cls, folder: str | Path, ordering: str = "up") -> "Corpus":
        """Raises FileNotFoundError or ValueError if a text cannot be used."""
        texts = {split: tokens_of(Path(folder) / f"{split}.txt") for split in SPLITS}
        train = Counter(texts["train"])  # keeps the order of first appearance
        words = order_words(list(train), list(train.values()), ordering)
        counts = train + Counter(texts["valid"]) + Counter(texts["test"])
        words += [word for word in dict.fromkeys(texts["valid"] + texts["test"])
                  if word not in train]
        ids = {word: i for i, word in enumerate(words)}
        return cls(words, [counts[word] for word in words],
                   {split: torch.tensor(list(map(ids.__getitem__, tokens)), dtype=torch.int32)
                    for split, tokens in texts.items()})

    def content(self) -> dict:
        """Tensors and plain values for corpus.pt."""
        return {"words": self.words, "counts": self.counts,
                "texts": {split: getattr(self, split) for split in SPLITS}}

    @classmethod
    def from_content(cls, content: dict) -> "Corpus":
        """Raises ValueError if the content is that of another file."""
        if not {"words", "counts", "texts"} <= content.keys():
            raise ValueError("corpus.pt holds no corpus")
        return cls(content["words"], content["counts"], content["texts"])

    def digest(self) -> str:
        """The same for the same words in the same order."""
        return digest(self.words)
