"""Text to ids: train.txt, valid.txt, test.txt of a folder, the words ordered by frequency.

A line's tokens are its white-space separated words followed by <eos>; a byte order mark before a
line is no word. The order of the words is set by their counts in train.txt (see
sparse_seq.vocabulary); words first seen in valid or test come after all of them, so that under `up`
they get full-length vectors, as in the original.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sparse_seq.vocabulary import digest, order_words

SPLITS = ("train", "valid", "test")
EOS = "<eos>"
BYTE_ORDER_MARK = "\ufeff"


def tokens_of(path: Path) -> list[str]:
    """Raises FileNotFoundError, or ValueError if the text is empty or not UTF-8."""
    try:
        with path.open(encoding="utf-8") as file:
            tokens = [token for line in file
                      for token in (*line.removeprefix(BYTE_ORDER_MARK).split(), EOS)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except FileNotFoundError:
        raise FileNotFoundError(f"no {path.name} in {path.parent}") from None
    if not tokens:
        raise ValueError(f"{path} is empty")
    return tokens


def texts_of(folder: str | Path) -> dict[str, list[str]]:
    """{split: tokens}. Raises like `tokens_of`."""
    return {split: tokens_of(Path(folder) / f"{split}.txt") for split in SPLITS}


@dataclass
class Corpus:
    """The words by id, their counts over all three texts, and the texts as int32 ids."""

    words: list[str]
    counts: list[int]
    train: Tensor
    valid: Tensor
    test: Tensor

    @classmethod
    def encoded(cls, words: list[str], texts: dict[str, list[str]]) -> "Corpus":
        ids = {word: i for i, word in enumerate(words)}
        counts = Counter(token for tokens in texts.values() for token in tokens)
        return cls(words, [counts[word] for word in words],
                   *(torch.tensor([ids[token] for token in texts[split]], dtype=torch.int32)
                     for split in SPLITS))

    @classmethod
    def read(cls, folder: str | Path, ordering: str = "up") -> "Corpus":
        """Raises FileNotFoundError or ValueError, naming the file, if a text cannot be used."""
        texts = texts_of(folder)
        train = Counter(texts["train"])  # keeps the order of first appearance
        words = order_words(list(train), list(train.values()), ordering)
        words += [word for word in dict.fromkeys(texts["valid"] + texts["test"])
                  if word not in train]
        return cls.encoded(words, texts)

    @classmethod
    def read_with(cls, words: list[str], folder: str | Path) -> "Corpus":
        """Texts with the vocabulary of a model. Raises like `read`, and for a word not in it."""
        texts, known = texts_of(folder), set(words)
        for split, tokens in texts.items():
            unknown = next((token for token in tokens if token not in known), None)
            if unknown is not None:
                raise ValueError(f"{Path(folder) / split}.txt has the word {unknown!r}, which the "
                                 "model does not know")
        return cls.encoded(words, texts)

    def content(self) -> dict:
        """Tensors and plain values for corpus.pt."""
        return {"words": self.words, "counts": self.counts,
                "texts": {split: getattr(self, split) for split in SPLITS}}

    @classmethod
    def from_content(cls, content: dict) -> "Corpus":
        """Raises ValueError if the content is that of another file."""
        if not {"words", "counts", "texts"} <= content.keys():
            raise ValueError("corpus.pt holds no corpus")
        return cls(content["words"], content["counts"], **content["texts"])

    def digest(self) -> str:
        """The same for the same words in the same order."""
        return digest(self.words)

    def digests(self) -> dict[str, str]:
        """{file name: SHA-256 of its tokens}; the same read from the files or from corpus.pt."""
        return {f"{split}.txt": digest(self.words[i] for i in getattr(self, split).tolist())
                for split in SPLITS}
