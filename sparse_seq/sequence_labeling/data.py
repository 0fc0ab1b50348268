"""Tagged sentences to ids, and batches of them.

A folder holds {train,valid,test}.conll (or wsj_*.conll, the original's names) with one token and
its tag per line, separated by a tab, and a line without a tab after each sentence; or the files of
CoNLL-2000 (train.txt, test.txt: every tenth training sentence becomes validation), or those of
Universal Dependencies English (en-ud-{train,dev,test}.ppos.tsv). tags.txt lists the tags, one per
line, also an empty one; without it they are those that occur, sorted.

Letters: T time, B batch.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparse_seq.vocabulary import order_words

SPLITS = ("train", "valid", "test")
PAD, UNK = "<pad>", "<unk>"
LAYOUTS = (
    tuple(f"wsj_{split}.conll" for split in SPLITS),
    tuple(f"{split}.conll" for split in SPLITS),
    tuple(f"en-ud-{split}.ppos.tsv" for split in ("train", "dev", "test")),
)
Sentence = list[tuple[str, str]]  # (token, tag)


class Batch(NamedTuple):
    """Sentences by falling length: words and tags (T, B), padded with 0, and lengths (B)."""

    words: Tensor
    tags: Tensor
    lengths: Tensor


def read_sentences(path: Path, separator: str | None = "\t") -> list[Sentence]:
    """The sentences of a file. Further columns are ignored, empty sentences too, and the last one
    counts even where no empty line follows (the original lost it)."""
    sentences, current = [], []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None
    for line in lines:
        columns = line.split(separator)
        if len(columns) > 1:
            current.append((columns[0], columns[1]))
        elif current:
            sentences.append(current)
            current = []
    return [*sentences, current] if current else sentences


def read_folder(folder: Path) -> dict[str, list[Sentence]]:
    """{split: sentences}. Raises FileNotFoundError if the folder has none of the layouts,
    ValueError if a file holds no sentence."""
    for names in LAYOUTS:
        if (folder / names[0]).is_file():
            parts = {split: read_sentences(folder / name)
                     for split, name in zip(SPLITS, names, strict=True)}
            break
    else:
        if not (folder / "train.txt").is_file():
            raise FileNotFoundError(f"no train.conll (nor wsj_train.conll, nor train.txt of "
                                    f"CoNLL-2000, nor en-ud-train.ppos.tsv) in {folder}")
        # Blanks separate the columns of CoNLL-2000, which has no validation part.
        train, test = (read_sentences(folder / f"{s}.txt", None) for s in ("train", "test"))
        parts = {"train": [s for i, s in enumerate(train) if i % 10 != 9],
                 "valid": train[9::10], "test": test}
    for split, sentences in parts.items():
        if not sentences:
            raise ValueError(f"the {split} file in {folder} holds no sentence")
    return parts


class TaggedCorpus:
    """The three parts as lists of (word ids, tag ids), numpy arrays; the vocabulary from train.

    `words[i]` is word i, in the order asked for; <pad> and <unk> stand before the training tokens
    and count as seen once. A token of valid or test that train does not have is <unk>.
    Raises FileNotFoundError or ValueError for a folder that cannot be used.
    """

    def __init__(self, folder: str | Path, ordering: str = "up"):
        self.folder = Path(folder)
        parts = read_folder(self.folder)
        counts = Counter([PAD, UNK])
        counts.update(token for sentence in parts["train"] for token, _ in sentence)
        self.words = order_words(list(counts), list(counts.values()), ordering)
        self.tags = self._read_tags(parts)
        word_id = {word: i for i, word in enumerate(self.words)}
        tag_id = {tag: i for i, tag in enumerate(self.tags)}
        unk = word_id[UNK]
        try:
            self.parts = {split: [(np.array([word_id.get(token, unk) for token, _ in sentence]),
                                   np.array([tag_id[tag] for _, tag in sentence]))
                                  for sentence in sentences]
                          for split, sentences in parts.items()}
        except KeyError as error:
            raise ValueError(f"the tag {error} is not in {self.folder / 'tags.txt'}") from None

    def _read_tags(self, parts: dict[str, list[Sentence]]) -> list[str]:
        path = self.folder / "tags.txt"
        if path.is_file():
            return path.read_text(encoding="utf-8").splitlines()
        return sorted({tag for sentences in parts.values() for s in sentences for _, tag in s})


def make_batch(sentences: list[tuple[np.ndarray, np.ndarray]],
               device: torch.device | str = "cpu") -> Batch:
    """One batch of sentences, by falling length and padded to the longest."""
    lengths = np.array([len(words) for words, _ in sentences])
    order = np.argsort(lengths, kind="stable")[::-1]
    shape = (int(lengths.max()), len(sentences))
    words, tags = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for column, i in enumerate(order):
        words[:lengths[i], column], tags[:lengths[i], column] = sentences[i]
    return Batch(torch.from_numpy(words).to(device), torch.from_numpy(tags).to(device),
                 torch.from_numpy(lengths[order].copy()))


def training_order(sentences: list, batch_size: int, rng: np.random.RandomState) -> np.ndarray:
    """(batches, batch_size): which sentences form the batches of an epoch; the incomplete last
    batch is dropped. One permutation drawn from `rng`."""
    count = len(sentences) // batch_size
    return rng.permutation(len(sentences))[:count * batch_size].reshape(count, batch_size)


def batches_in_order(sentences: list, batch_size: int,
                     device: torch.device | str = "cpu") -> Iterator[Batch]:
    """Batches in file order, the incomplete last one too."""
    for first in range(0, len(sentences), batch_size):
        yield make_batch(sentences[first:first + batch_size], device)
