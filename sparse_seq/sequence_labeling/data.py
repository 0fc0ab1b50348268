"""Tagged sentences to ids, and batches of them.

A folder holds {train,valid,test}.conll (or wsj_*.conll, the original's names), or the files of
CoNLL-2000 (train.txt, test.txt: every tenth training sentence becomes validation), or those of
Universal Dependencies ({train,dev,test}.conllu, *-ud-{train,dev,test}.conllu, or English as
en-ud-{train,dev,test}.ppos.tsv). tags.txt lists the tags, one per line, also an empty one; without
it they are those that occur, sorted. Lines are told apart in reader.py.

Notation: T time, B batch.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kernels.transfer import sent
from sparse_seq.sequence_labeling.reader import Sentence, lines_of, read_sentences
from sparse_seq.vocabulary import order_words

SPLITS = ("train", "valid", "test")
PAD, UNK = "<pad>", "<unk>"
LAYOUTS = (
    ("wsj_train.conll", "wsj_valid.conll", "wsj_test.conll"),
    ("train.conll", "valid.conll", "test.conll"),
    ("train.conllu", "valid.conllu", "test.conllu"),
    ("train.conllu", "dev.conllu", "test.conllu"),
    ("*-ud-train.conllu", "*-ud-dev.conllu", "*-ud-test.conllu"),
    ("en-ud-train.ppos.tsv", "en-ud-dev.ppos.tsv", "en-ud-test.ppos.tsv"),
)
CONLL_2000 = ("train.txt", "test.txt")


class Batch(NamedTuple):
    """Sentences by falling length: words and tags (T, B), padded with 0, and lengths (B)."""

    words: Tensor
    tags: Tensor
    lengths: Tensor


def find_files(folder: Path) -> dict[str, Path]:
    """{split: file} by the first layout that the folder has; CoNLL-2000 has no valid. Raises
    FileNotFoundError, naming the file that a layout lacks; ValueError if there are several."""
    lacking = []
    for names in (*LAYOUTS, CONLL_2000):
        found = [sorted(folder.glob(name)) for name in names]
        if all(found):
            for name, paths in zip(names, found, strict=True):
                if len(paths) > 1:
                    raise ValueError(f"several files {name} in {folder}: leave one")
            splits = SPLITS if len(names) == 3 else ("train", "test")
            return {split: paths[0] for split, paths in zip(splits, found, strict=True)}
        if found[0]:
            lacking += [name for name, paths in zip(names, found, strict=True) if not paths]
    if lacking:
        raise FileNotFoundError(f"no {lacking[0]} in {folder}")
    raise FileNotFoundError("no train.conll (nor wsj_train.conll, nor train.txt of CoNLL-2000, nor "
                            f"a .conllu or .ppos.tsv of Universal Dependencies) in {folder}")


def read_files(paths: dict[str, Path]) -> dict[str, list[Sentence]]:
    """{split: sentences}. Raises ValueError if a file holds no sentence or a line is unclear."""
    parts = {split: read_sentences(path) for split, path in paths.items()}
    if "valid" not in parts:
        train = parts["train"]
        parts = {"train": [s for i, s in enumerate(train) if i % 10 != 9], "valid": train[9::10],
                 "test": parts["test"]}
    for split, sentences in parts.items():
        if not sentences:
            if split not in paths:
                raise ValueError(f"{paths['train']} holds fewer than ten sentences, every tenth of "
                                 "which is for validation")
            raise ValueError(f"the {split} file {paths[split]} holds no sentence")
    return parts


class TaggedCorpus:
    """The three parts as lists of (word ids, tag ids), numpy arrays; the vocabulary from train.

    `words[i]` is word i, in the order asked for; <pad> and <unk> stand before the training tokens
    and count as seen once. A token of valid or test that train does not have is <unk>. `paths` are
    the files read, by part, and `tags` if there is a tags.txt; `untrained` the tags of valid and
    test that train does not have, by file.
    Raises FileNotFoundError or ValueError for a folder that cannot be used.
    """

    def __init__(self, folder: str | Path, ordering: str = "up"):
        self.paths = find_files(Path(folder))
        parts = read_files(self.paths)
        counts = Counter([PAD, UNK])
        counts.update(token for sentence in parts["train"] for token, _ in sentence)
        self.words = order_words(list(counts), list(counts.values()), ordering)
        occur = {split: {tag for sentence in sentences for _, tag in sentence}
                 for split, sentences in parts.items()}
        self.tags = self._tags(Path(folder) / "tags.txt", occur)
        self.untrained = {self.paths[split]: sorted(tags) for split, found in occur.items()
                          if (tags := found - occur["train"])}
        word_id = {word: i for i, word in enumerate(self.words)}
        tag_id = {tag: i for i, tag in enumerate(self.tags)}
        unk = word_id[UNK]
        self.parts = {split: [(np.array([word_id.get(token, unk) for token, _ in sentence]),
                               np.array([tag_id[tag] for _, tag in sentence]))
                              for sentence in sentences] for split, sentences in parts.items()}

    def _tags(self, path: Path, occur: dict[str, set[str]]) -> list[str]:
        if not path.is_file():
            return sorted(set().union(*occur.values()))
        self.paths["tags"] = path
        tags = lines_of(path)
        for split, found in occur.items():
            for tag in sorted(found.difference(tags)):
                raise ValueError(f"the tag {tag!r} is not in {path}; it stands in "
                                 f"{self.paths.get(split, self.paths['train'])}")
        return tags


def make_batch(sentences: list[tuple[np.ndarray, np.ndarray]],
               device: torch.device | str = "cpu") -> Batch:
    """One batch of sentences, by falling length and padded to the longest."""
    lengths = np.array([len(words) for words, _ in sentences])
    order = np.argsort(lengths, kind="stable")[::-1]
    shape = (int(lengths.max()), len(sentences))
    words, tags = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for column, i in enumerate(order):
        words[:lengths[i], column], tags[:lengths[i], column] = sentences[i]
    return Batch(sent(torch.from_numpy(words), device), sent(torch.from_numpy(tags), device),
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
