"""What the text tasks share: texts as ids of tokens.

A text becomes its first l_max - 1 tokens and <eos>. The vocabulary is <pad> <unk> <eos>, then the
tokens of the training texts (as cut) by falling count, ties by code point.

The ids are cached beside the data in one .npz named after the SHA-256 of the files and of every
option that matters, so a changed file or flag is never confused with its former self; the zip
format's checksums guard the cache.
"""

import hashlib
import itertools
import json
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from harness.cache import read_arrays, write_arrays
from harness.inputs import digest_of
from tnn.lra.tasks import TASKS
from tnn.lra.tasks.task import Task

SPLITS = ("train", "val", "test")
SPECIALS = ("<pad>", "<unk>", "<eos>")
PAD, UNK, EOS = range(3)
CODE_POINTS = 0x110000
CACHE_FORMAT = 1  # in the cache's name: raise it when the same text gives other ids

Row = tuple[tuple[str, ...], int]  # the texts of a sample, its label
Tokens = str | list[str]  # a str is a sequence of characters


# ------------------------------------------------------------------------------------------------
# Vocabulary


class Vocabulary:
    """itos: id -> token, the specials first."""

    def __init__(self, tokens: Iterable[str]):
        self.itos = [*SPECIALS, *tokens]
        self.ids = {token: i for i, token in enumerate(self.itos)}
        size = len(self.itos)
        self.dtype = np.dtype(np.uint8 if size <= 256 else np.int16 if size < 2**15 else np.int32)
        self._of_character = np.full(CODE_POINTS, UNK, self.dtype)
        for token in self.itos:
            if len(token) == 1:
                self._of_character[ord(token)] = self.ids[token]

    @classmethod
    def of(cls, counts: dict[str, int], min_freq: int = 1) -> "Vocabulary":
        """By falling count, ties by code point; what is seen less than min_freq times is left."""
        kept = [t for t, count in counts.items() if count >= min_freq and t not in SPECIALS]
        return cls(sorted(kept, key=lambda token: (-counts[token], token)))

    def __len__(self) -> int:
        return len(self.itos)

    def encode(self, tokens: Tokens) -> np.ndarray:
        """Ids (n,) of n tokens."""
        if isinstance(tokens, str):
            return self._of_character[code_points(tokens)]
        return np.fromiter((self.ids.get(t, UNK) for t in tokens), self.dtype, len(tokens))


def code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def count_tokens(texts: Iterable[Tokens], batch: int = 1 << 24) -> dict[str, int]:
    """How often each token occurs; characters are counted by numpy, `batch` of them at a time."""
    counts, characters = Counter(), np.zeros(CODE_POINTS, np.int64)
    waiting, size = [], 0
    for tokens in texts:
        if not isinstance(tokens, str):
            counts.update(tokens)
            continue
        waiting.append(tokens)
        size += len(tokens)
        if size >= batch:
            characters += np.bincount(code_points("".join(waiting)), minlength=CODE_POINTS)
            waiting, size = [], 0
    characters += np.bincount(code_points("".join(waiting)), minlength=CODE_POINTS)
    counts.update({chr(c): int(characters[c]) for c in characters.nonzero()[0]})
    return counts


# ------------------------------------------------------------------------------------------------
# Tokenisers


def characters(text: str) -> str:
    return text


def utf8_bytes(text: str) -> str:
    """Byte b as the character with code point b."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


LEVELS = {"char": characters, "byte": utf8_bytes}


# ------------------------------------------------------------------------------------------------
# The data sets


class Texts(Dataset):
    """Samples (text, ..., label); a text is a tensor (n,) of ids of a small integer type.

    ids: all texts on end; text j is ids[starts[j]:starts[j + 1]]; `width` texts per sample.
    """

    def __init__(self, ids: np.ndarray, starts: np.ndarray, labels: np.ndarray):
        self.ids, self.starts, self.labels = map(torch.from_numpy, (ids, starts, labels))
        self.width = (len(starts) - 1) // max(len(labels), 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor | int, ...]:
        first = i * self.width
        bounds = self.starts[first:first + self.width + 1].tolist()
        texts = [self.ids[a:b] for a, b in itertools.pairwise(bounds)]
        return *texts, int(self.labels[i])


def collate_text(samples: list[tuple]) -> tuple[Tensor, Tensor, Tensor]:
    """Samples (text, ..., label) -> x, y, lengths of Task.

    Where a sample has two texts, both halves of the batch get one width; the original padded them
    apart and crashed when the widths differed.
    """
    *texts, labels = zip(*samples, strict=True)
    flat = [t for column in texts for t in column]
    x = pad_sequence(flat, batch_first=True).long()  # <pad> is 0
    return x, torch.tensor(labels), torch.tensor([len(t) for t in flat])


def text_task(task: str, folder: Path, files: list[Path],
              rows: Sequence[Callable[[], Iterable[Row]]], tokenise: Callable[[str], Tokens],
              args: Namespace) -> Task:
    """The samples of `files` as ids, from the cache if they were read before.

    rows: for train, val, test (or train, test) a function that reads the samples. Raises
    FileNotFoundError if one of the files is not there.
    """
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{task}: no file {path}; {TASKS[task].remedy.format(folder)}")
    defaults = TASKS[task]
    l_max, min_freq = args.l_max or defaults.l_max, args.min_freq or defaults.min_freq
    options = [CACHE_FORMAT, task, l_max, min_freq, args.tsv_quoting, args.level]
    inputs = {str(path.relative_to(folder)): digest_of(path) for path in files}
    cache = cache_path(folder, task, inputs, options)
    arrays = read_arrays(cache)
    if arrays is None:
        arrays = encode_all(rows, tokenise, l_max, min_freq)
        write_arrays(cache, arrays)
    parts = [Texts(*(arrays[f"{name}{i}"] for name in ("ids", "starts", "labels")))
             for i in range(len(rows))]
    val = parts[-2] if len(rows) == len(SPLITS) else parts[-1]
    return Task(task, parts[0], val, parts[-1], collate_text, defaults.classes, l_max,
                itos=json.loads(arrays["itos"].tobytes()), inputs=inputs)


def encode_all(rows: Sequence[Callable[[], Iterable[Row]]], tokenise: Callable[[str], Tokens],
               l_max: int, min_freq: int) -> dict[str, np.ndarray]:
    """Vocabulary of the first of `rows`, ids of all."""
    def cut(texts):
        return [tokenise(text)[:l_max - 1] for text in texts]

    counts = count_tokens(tokens for texts, _ in rows[0]() for tokens in cut(texts))
    vocabulary = Vocabulary.of(counts, min_freq)
    arrays = {"itos": np.frombuffer(json.dumps(vocabulary.itos).encode(), np.uint8)}
    eos = np.array([EOS], vocabulary.dtype).tobytes()
    for i, read in enumerate(rows):
        ids, lengths, labels = bytearray(), [0], []
        for texts, label in read():
            for tokens in cut(texts):
                ids += vocabulary.encode(tokens).tobytes() + eos
                lengths.append(len(tokens) + 1)
            labels.append(label)
        arrays |= {f"ids{i}": np.frombuffer(ids, vocabulary.dtype),
                   f"starts{i}": np.cumsum(lengths), f"labels{i}": np.array(labels, np.int64)}
    return arrays


# ------------------------------------------------------------------------------------------------
# Cache


def cache_path(folder: Path, task: str, inputs: dict[str, str], options: list) -> Path:
    """inputs: SHA-256 of each file by its name in the folder."""
    key = hashlib.sha256(json.dumps(options).encode())
    for name, content in inputs.items():
        path = folder / name
        key.update(f"{path.parent.name}/{path.name}".encode() + bytes.fromhex(content))
    return folder / f".tnn-lra-{task}-{key.hexdigest()[:16]}.npz"
