"""Text tasks: ListOps, IMDB and AAN as ids of tokens.

A text becomes its first l_max - 1 tokens and <eos>. The vocabulary is <pad> <unk> <eos>, then the
tokens of the training texts (as cut) by falling count, ties by code point.

The ids are cached beside the data in one .npz named after the SHA-256 of the files and of every
option that matters, so a changed file or flag is never confused with its former self; the zip
format's checksums guard the cache.
"""

import contextlib
import csv
import hashlib
import itertools
import json
import os
import sys
import tarfile
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from tnn.lra.data import REMEDIES, SPLIT_SEED, TASKS, Task, collate_text, note

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


def operators_and_digits(text: str) -> list[str]:
    """ListOps: no parentheses, and ] is called X."""
    return text.replace("(", "").replace(")", "").replace("]", "X").split()


def characters(text: str) -> str:
    return text


def utf8_bytes(text: str) -> str:
    """Byte b as the character with code point b."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


LEVELS = {"char": characters, "byte": utf8_bytes}


# ------------------------------------------------------------------------------------------------
# Files


def tsv_rows(path: Path, columns: int, quoting: str) -> Iterator[list[str]]:
    """The fields of a tab-separated file's lines, as pandas reads them (`minimal`) or unquoted.

    Raises ValueError for a line with another number of columns, naming it.
    """
    csv.field_size_limit(sys.maxsize)  # an article is longer than the 128 KiB allowed by default
    style = csv.QUOTE_MINIMAL if quoting == "minimal" else csv.QUOTE_NONE
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file, delimiter="\t", quoting=style)
        try:
            for fields in filter(None, reader):
                if len(fields) != columns:
                    raise ValueError(f"{path}, line {reader.line_num}: {len(fields)} columns, not "
                                     f"{columns} (--tsv-quoting none if a quote is to blame)")
                yield fields
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def label_of(text: str, path: Path, classes: int) -> int:
    """An integer, perhaps written as a float (aan). Raises ValueError."""
    with contextlib.suppress(ValueError):
        if float(text) in range(classes):
            return int(float(text))
    raise ValueError(f"{path}: label {text!r} is none of 0 to {classes - 1}")


def listops_rows(path: Path, quoting: str) -> Iterator[Row]:
    rows = tsv_rows(path, 2, quoting)
    if (header := next(rows, None)) != ["Source", "Target"]:
        raise ValueError(f"{path}: its first line is {header}, not Source, Target")
    for source, target in rows:
        yield (source,), label_of(target, path, TASKS["listops"].classes)


def aan_rows(path: Path, quoting: str) -> Iterator[Row]:
    for label, _, _, first, second in tsv_rows(path, 5, quoting):
        yield (first, second), label_of(label, path, TASKS["aan"].classes)


def reviews(source: Path, split: str) -> list[Row]:
    """The labelled reviews of train or test, negative ones first, by number.

    source: the folder aclImdb, or a tar of it. Raises ValueError.
    """
    found = []
    try:
        for name, body in (_in_folder if source.is_dir() else _in_archive)(source, split):
            number = int(Path(name).stem.split("_")[0])
            found.append((Path(name).parent.name == "pos", number, body.decode()))
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{source} is damaged ({reason}); {REMEDIES['imdb']}") from None
    return [((text,), int(label)) for label, _, text in sorted(found)]


def _in_folder(folder: Path, split: str) -> Iterator[tuple[str, bytes]]:
    for path in folder.glob(f"{split}/[np][eo][gs]/*.txt"):
        yield str(path), path.read_bytes()


def _in_archive(path: Path, split: str) -> Iterator[tuple[str, bytes]]:
    wanted = (f"aclImdb/{split}/neg/", f"aclImdb/{split}/pos/")
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.removeprefix("./").startswith(wanted):
                yield member.name, archive.extractfile(member).read()


def find_reviews(folder: Path) -> Path:
    """aclImdb unpacked, or an archive of it. Raises FileNotFoundError."""
    names = ("aclImdb", "aclImdb_v1.tar.gz", "aclImdb_labelled.tar.xz")
    for path in (folder / name for name in names):
        if path.exists():
            return path
    raise FileNotFoundError(f"imdb: {folder} holds none of {', '.join(names)}; ./getdata.sh imdb "
                            "fetches the archive")


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


def listops(task: str, folder: Path, args: Namespace) -> Task:
    files = [folder / f"basic_{split}.tsv" for split in SPLITS]
    rows = [lambda path=path: listops_rows(path, args.tsv_quoting) for path in files]
    return text_task(task, folder, files, rows, operators_and_digits, args)


def aan(task: str, folder: Path, args: Namespace) -> Task:
    files = [folder / f"new_aan_pairs.{split}.tsv" for split in ("train", "eval", "test")]
    rows = [lambda path=path: aan_rows(path, args.tsv_quoting) for path in files]
    return text_task(task, folder, files, rows, LEVELS[args.level], args)


def imdb(task: str, folder: Path, args: Namespace) -> Task:
    """Validates on the test set unless --val-split says otherwise, as the published runs did."""
    source = find_reviews(folder)
    files = sorted(source.glob("t*/[np][eo][gs]/*.txt")) if source.is_dir() else [source]
    rows = [lambda split=split: reviews(source, split) for split in ("train", "test")]
    loaded = text_task(task, folder, files, rows, LEVELS[args.level], args)
    if not args.val_split:
        note("imdb: validation is on the test set, as published, so the choice of the best epoch "
             "has seen it; --val-split 0.1 holds out training reviews instead")
        return loaded
    train, val = held_out(len(loaded.train), args.val_split)
    whole = loaded.train
    loaded.train, loaded.val = Subset(whole, train), Subset(whole, val)
    return loaded


def held_out(total: int, share: float) -> tuple[list[int], list[int]]:
    """Indices for training and validation.

    The draw of Hugging Face's train_test_split(test_size=share, seed=42), over our order of the
    reviews (negative first, by number); theirs is the order within the archive, so the reviews
    held out are others.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(total)
    size = int(np.ceil(share * total))
    return order[size:].tolist(), order[:size].tolist()


def text_task(task: str, folder: Path, files: list[Path],
              rows: Sequence[Callable[[], Iterable[Row]]], tokenise: Callable[[str], Tokens],
              args: Namespace) -> Task:
    """rows: for train, val, test (or train, test) a function that reads the samples.

    Raises FileNotFoundError if one of the files is not there.
    """
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{task}: no file {path}; {REMEDIES[task].format(folder)}")
    defaults = TASKS[task]
    l_max, min_freq = args.l_max or defaults.l_max, args.min_freq or defaults.min_freq
    options = [CACHE_FORMAT, task, l_max, min_freq, args.tsv_quoting, args.level]
    cache = cache_path(folder, task, files, options)
    arrays = read_cache(cache)
    if arrays is None:
        arrays = encode_all(rows, tokenise, l_max, min_freq)
        write_cache(cache, arrays)
    parts = [Texts(*(arrays[f"{name}{i}"] for name in ("ids", "starts", "labels")))
             for i in range(len(rows))]
    val = parts[-2] if len(rows) == len(SPLITS) else parts[-1]
    return Task(task, parts[0], val, parts[-1], collate_text, defaults.classes, l_max,
                itos=json.loads(arrays["itos"].tobytes()))


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


def cache_path(folder: Path, task: str, files: list[Path], options: list) -> Path:
    digest = hashlib.sha256(json.dumps(options).encode())
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.parent.name}/{path.name}".encode())
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return folder / f".tnn-lra-{task}-{digest.hexdigest()[:16]}.npz"


def read_cache(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        return None
    except Exception:  # whatever a damaged archive makes numpy raise
        note(f"damaged cache {path}: reading the texts again")
        return None


def write_cache(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """A read-only data folder means no cache, nothing worse."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        note(f"no cache of the texts ({error}): the next start reads them again")
