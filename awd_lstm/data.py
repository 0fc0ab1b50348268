"""Text to token ids: train.txt, valid.txt, test.txt of a folder, tokenised once and memory-mapped.

A line's tokens are its whitespace-separated words followed by <eos> (also for an empty line); a
byte order mark before a line is no word. Ids are given by first occurrence over train, then valid,
then test, so no word is out of vocabulary.
The ids are cached beside the data as arrays of the smallest integer type that holds them; the
cache is keyed by the SHA-256 of the three texts and carries its own checksums.
"""

import atexit
import contextlib
import copy
import hashlib
import json
import os
import secrets
import shutil
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import Tensor

from texts.folder import SPLITS, find_texts
from texts.vocabulary import UNKNOWN, UnknownWords, digest_of, pack
from texts.words import words_of

CACHE = ".corpus-cache"
CACHED = ("counts.npy", "words.txt", *(f"{split}.npy" for split in SPLITS))
RULES = 2  # of tokenising; a cache made by others is made anew
CHUNK = 1 << 22  # ids rewritten at a time: bounds the memory, not the result


class Dictionary:
    """word2idx, idx2word, and counter[i] = occurrences of word i over all texts read."""

    def __init__(self, words: Iterable[str] = (), counts: Iterable[int] = ()):
        self.idx2word = list(words)
        self.word2idx = {word: i for i, word in enumerate(self.idx2word)}
        self.counter = list(counts)

    @property
    def total(self) -> int:
        """Number of tokens read."""
        return sum(self.counter)

    def add_words(self, words: list[str]) -> array:
        """Ids of `words` (uint32), new words appended in order of appearance."""
        word2idx = self.word2idx
        for word in dict.fromkeys(words):  # each distinct word once: the texts repeat a lot
            if word not in word2idx:
                word2idx[word] = len(self.idx2word)
                self.idx2word.append(word)
                self.counter.append(0)
        ids = array("I", map(word2idx.__getitem__, words))
        counts = np.bincount(np.frombuffer(ids, np.uint32), minlength=len(self.idx2word))
        self.counter = (np.asarray(self.counter, np.int64) + counts).tolist()
        return ids

    def digest(self) -> str:
        """SHA-256 of the words in order: two texts with the same digest share their ids."""
        return digest_of(self.idx2word)

    def packed(self) -> Tensor:
        """The words as a model file holds them, see texts.vocabulary."""
        return pack(self.idx2word)

    def __len__(self) -> int:
        return len(self.idx2word)


class Corpus:
    """The three texts of folder `path` as id arrays `train`, `valid`, `test` (1-D numpy, read-only
    memory maps, unsigned) and their `dictionary`. `digests` has the SHA-256 of each text by its
    file name, `key` one of all three, `cached` says if the ids were there already.

    Raises FileNotFoundError if a text is missing, ValueError if one is not UTF-8 or is empty.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.unknown: Counter = Counter()  # words that became <unk>, see in_words_of
        self.texts = texts = find_texts(self.path)
        # By the names of today: a run goes on from the same texts under other ones.
        self.digests = {f"{split}.txt": _sha256(text) for split, text in texts.items()}
        # Changes whenever a text does: a cache is never of other texts than those in the folder.
        self.key = hashlib.sha256(b"".join(map(bytes.fromhex, self.digests.values()))).hexdigest()
        folder = self.path / CACHE / self.key[:16]
        self.cached = _intact(folder)
        if not self.cached:
            folder = self._tokenise(texts, folder)
        words = (folder / "words.txt").read_text(encoding="utf-8").split("\n")
        self.dictionary = Dictionary(words, np.load(folder / "counts.npy").tolist())
        for split in SPLITS:
            setattr(self, split, np.load(folder / f"{split}.npy", mmap_mode="r"))

    def in_words_of(self, dictionary: Dictionary) -> "Corpus":
        """The same texts with the ids of another vocabulary. Raises UnknownWords if a word is not
        in it, and no <unk> is."""
        words, counts = self.dictionary.idx2word, self.dictionary.counter
        other, known = copy.copy(self), dictionary.word2idx
        other.unknown = Counter({word: count for word, count in zip(words, counts, strict=True)
                                 if word not in known})
        if other.unknown and UNKNOWN not in known:
            raise UnknownWords(other.unknown)
        dtype = np.min_scalar_type(max(len(dictionary) - 1, 0))
        ids = np.array([known[word if word in known else UNKNOWN] for word in words], dtype)
        other.dictionary = Dictionary(dictionary.idx2word)
        for split in SPLITS:
            setattr(other, split, ids[getattr(self, split)])
        other.dictionary.counter = np.bincount(ids, counts, len(dictionary)).astype(int).tolist()
        return other

    def _tokenise(self, texts: dict[str, Path], folder: Path) -> Path:
        """Makes the arrays in `folder`, or where there is room for them; returns their place."""
        shutil.rmtree(folder, ignore_errors=True)  # a damaged cache
        if not _writable(folder.parent, folder.name):
            why = "cannot be written by this user"
            return self._make(texts, _temporary(self.path, why) / folder.name)
        try:
            return self._make(texts, folder)
        except OSError as error:
            if error.filename in map(str, texts.values()):  # it was the reading
                raise
            return self._make(texts, _temporary(self.path, f"has no room ({error})") / folder.name)

    def _make(self, texts: dict[str, Path], target: Path) -> Path:
        """Writes the arrays to a folder beside `target` and renames it; returns `target`."""
        work = target.parent / f"part-{os.getpid()}-{secrets.token_hex(4)}"
        work.mkdir()  # as open to others as the user's umask has it; mkdtemp's is for one alone
        try:
            self._write(texts, work)
            with contextlib.suppress(OSError):  # another process was faster with the same texts
                work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return target

    def _write(self, texts: dict[str, Path], work: Path) -> None:
        dictionary = Dictionary()
        raw = {split: _write_ids(text, dictionary, work / f"{split}.u32")
               for split, text in texts.items()}
        # Known only now that all words are: uint16 for the Penn Treebank, a quarter of int64.
        dtype = np.min_scalar_type(max(len(dictionary) - 1, 0))
        for split, part in raw.items():
            _narrow(part, work / f"{split}.npy", dtype)
        np.save(work / "counts.npy", np.asarray(dictionary.counter, np.int64))
        (work / "words.txt").write_text("\n".join(dictionary.idx2word), encoding="utf-8")
        files = {name: _sha256(work / name) for name in CACHED}
        (work / "meta.json").write_text(json.dumps({"rules": RULES, "sha256": files}))


def _writable(parent: Path, name: str) -> bool:
    """Can `name` be made in `parent`? Not in a read-only folder, nor where it is another user's who
    lets nobody read it."""
    try:
        parent.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(parent, os.W_OK) and not os.path.lexists(parent / name)


def _temporary(data: Path, why: str) -> Path:
    """A folder elsewhere, for this run alone; said on stderr."""
    temporary = Path(tempfile.mkdtemp(prefix="corpus-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    print(f"{data} {why}: tokenised copy in {temporary}", file=sys.stderr)
    return temporary


def _write_ids(text: Path, dictionary: Dictionary, part: Path) -> Path:
    """Appends the text's ids (uint32) to the file `part` as they come; returns it."""
    with part.open("wb") as out:
        for tokens in words_of(text):
            dictionary.add_words(tokens).tofile(out)
    if part.stat().st_size == 0:
        raise ValueError(f"{text} is empty")
    return part


def _narrow(part: Path, target: Path, dtype: np.dtype) -> None:
    """Rewrites a uint32 file as .npy of a smaller type, piecewise, and removes it."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False,
              "shape": (part.stat().st_size // 4,)}
    with part.open("rb") as ids, target.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        while len(piece := np.fromfile(ids, np.uint32, CHUNK)):  # mapped, all would stay resident
            piece.astype(dtype).tofile(out)
    part.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _intact(folder: Path) -> bool:
    """Is there a cache in `folder`, with every file as it was written?"""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        files = meta["sha256"]
        if meta.get("rules") != RULES:
            return False
        if files == {name: _sha256(folder / name) for name in CACHED}:
            return True
        print(f"damaged cache {folder}: tokenising again", file=sys.stderr)
    except FileNotFoundError:
        pass
    except PermissionError:
        print(f"the cache {folder} is not readable by this user: tokenising again",
              file=sys.stderr)
    except (OSError, ValueError, KeyError, TypeError):
        print(f"damaged cache {folder}: tokenising again", file=sys.stderr)
    return False
