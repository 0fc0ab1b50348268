"""Text to ids: train.txt, valid.txt, test.txt of a folder (or the names that texts.folder knows),
the words ordered by frequency.

A line's tokens are its white-space separated words followed by <eos>; a byte order mark before a
line is no word. The order of the words is set by their counts in the training text (see
sparse_seq.vocabulary); words first seen in valid or test come after all of them, so that under `up`
they get full-length vectors, as in the original.
"""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparse_seq.vocabulary import digest, order_words
from texts.folder import SPLITS, find_texts
from texts.vocabulary import UNKNOWN, UnknownWords
from texts.words import numbered, words_of


class Numbered:
    """The three texts as ids in the order of first appearance. `words`: those of the training text,
    then those first seen in the others. `ids`: split -> (N,) int32. `of_train`: how many words the
    training text has.

    Raises FileNotFoundError, or ValueError naming the file, if a text cannot be used.
    """

    def __init__(self, folder: str | Path):
        index: dict[str, int] = {}
        self.ids, sizes = {}, []
        for split, path in find_texts(Path(folder)).items():
            ids = array("i")
            for part in numbered(words_of(path), index):
                ids.extend(part)
            if not ids:
                raise ValueError(f"{path} is empty")
            self.ids[split] = np.frombuffer(ids, np.int32)
            sizes.append(len(index))
        self.words, self.of_train = list(index), sizes[0]

    def counts(self, splits: tuple[str, ...] = SPLITS) -> np.ndarray:
        """How often each word occurs in these texts."""
        return sum(np.bincount(self.ids[split], minlength=len(self.words)) for split in splits)


@dataclass
class Corpus:
    """The words by id, their counts over all three texts, the texts as int32 ids, and how often
    which word that the model does not know became <unk>."""

    words: list[str]
    counts: list[int]
    train: Tensor
    valid: Tensor
    test: Tensor
    unknown: Counter = field(default_factory=Counter)

    @classmethod
    def read(cls, folder: str | Path, ordering: str = "up") -> "Corpus":
        """Raises FileNotFoundError or ValueError, naming the file, if a text cannot be used."""
        found = Numbered(folder)
        known, rest = found.words[:found.of_train], found.words[found.of_train:]
        counts = found.counts(("train",))[:found.of_train].tolist()
        return cls._encoded(order_words(known, counts, ordering) + rest, found)

    @classmethod
    def read_with(cls, words: list[str], folder: str | Path) -> "Corpus":
        """Texts with the vocabulary of a model. Raises like `read`, and UnknownWords for a word not
        in it, if no <unk> is."""
        return cls._encoded(words, Numbered(folder))

    @classmethod
    def _encoded(cls, words: list[str], found: Numbered) -> "Corpus":
        ids, counts = {word: i for i, word in enumerate(words)}, found.counts().tolist()
        unknown = Counter({word: count for word, count in zip(found.words, counts, strict=True)
                           if word not in ids})
        if unknown and UNKNOWN not in ids:
            raise UnknownWords(unknown)
        table = np.array([ids[word if word in ids else UNKNOWN] for word in found.words], np.int32)
        here = np.bincount(table, counts, len(words)).astype(int).tolist()
        return cls(words, here, *(torch.from_numpy(table[found.ids[split]]) for split in SPLITS),
                   unknown)

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
