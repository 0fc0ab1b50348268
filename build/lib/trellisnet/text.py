"""Text to ids: three texts, tokens numbered by first appearance over train, valid, test.

The ids are cached beside the texts, in one .npz file named after the texts' SHA-256, so a changed
text is never confused with its former self. The archive's CRCs tell of damage.
"""

import copy
import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from harness.cache import read_arrays, write_arrays
from texts.folder import SPLITS, find_texts
from texts.vocabulary import UNKNOWN, UnknownWords, digest_of, pack
from texts.words import numbered, words_of

RULES = 2        # of tokenising: a cache made by others is not looked at

# Pieces of a text -> tokens; called for one text after another.
Tokeniser = Callable[[Path], Iterable[list[str]]]


class Corpus:
    """`train`, `valid`, `test`: int32 tensors of ids. `words`: id -> token. `files`: split -> text,
    and `digests`: its file name -> its SHA-256. `cached`: the ids were there already. `unknown`:
    how often which token became <unk>, see in_words_of."""

    def __init__(self, files: dict[str, Path], tokenise: Tokeniser, unit: str,
                 between: tuple[str, ...] = ()):
        """files: split -> text. `unit` names the kind of token in the cache's name. `between`:
        tokens that enter the vocabulary after each text but the last.

        Raises FileNotFoundError, or ValueError if a text is not UTF-8 or has no token.
        """
        for path in files.values():
            if not path.is_file():
                raise FileNotFoundError(f"no {path.name} in {path.parent}")
        self.files, self.unknown = files, Counter()
        self.digests = {files[split].name: _sha256(files[split]) for split in SPLITS}
        key = hashlib.sha256(b"".join(map(bytes.fromhex, self.digests.values()))).hexdigest()[:16]
        cache = files["train"].parent / f".trellisnet-{unit}-{RULES}-{key}.npz"
        arrays = read_arrays(cache, (*SPLITS, "words"))
        self.cached = arrays is not None
        if arrays is None:
            arrays = _tokenise(files, tokenise, between)
            write_arrays(cache, arrays)
        self.words: list[str] = arrays["words"].tobytes().decode().split("\n")
        self.train, self.valid, self.test = (torch.from_numpy(arrays[split]) for split in SPLITS)

    def __len__(self) -> int:
        """Size of the vocabulary."""
        return len(self.words)

    def digest(self) -> str:
        """SHA-256 of the vocabulary: texts with the same digest share their ids."""
        return self.digest_of(self.words)

    def tokens(self) -> int:
        """Of all three texts."""
        return sum(len(getattr(self, split)) for split in SPLITS)

    def facts(self) -> dict:
        """What model files and training states hold of the vocabulary: digest, size, the words."""
        return {"vocabulary": self.digest(), "words": len(self), "word_list": pack(self.words)}

    @staticmethod
    def digest_of(words: list[str]) -> str:
        return digest_of(words)

    def in_words_of(self, words: list[str]) -> "Corpus":
        """The same texts with the ids of another vocabulary. Raises UnknownWords if a token is not
        in it, and no <unk> is."""
        known = {word: i for i, word in enumerate(words)}
        other = copy.copy(self)
        other.words = words
        counts = sum(torch.bincount(getattr(self, split), minlength=len(self)) for split in SPLITS)
        other.unknown = Counter({word: int(count) for word, count in
                                 zip(self.words, counts.tolist(), strict=True)
                                 if count and word not in known})
        if other.unknown and UNKNOWN not in known:
            raise UnknownWords(other.unknown)
        stand_in = known.get(UNKNOWN, 0)
        ids = torch.tensor([known.get(word, stand_in) for word in self.words], dtype=torch.int32)
        for split in SPLITS:
            setattr(other, split, ids[getattr(self, split)])
        return other


def word_corpus(folder: Path) -> Corpus:
    """train.txt, valid.txt and test.txt of a folder (or the names that texts.folder knows),
    tokenised at white space, <eos> at each line end. Raises like Corpus."""
    return Corpus(find_texts(folder), words_of, "words")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tokenise(files: dict[str, Path], tokenise: Tokeniser, between: tuple[str, ...]) -> dict:
    index: dict[str, int] = {}
    arrays = {}
    for split in SPLITS:
        ids = array("i")
        for part in numbered(tokenise(files[split]), index):
            ids.extend(part)
        if not ids:
            raise ValueError(f"{files[split]} is empty")
        arrays[split] = np.frombuffer(ids, np.int32)
        if split != SPLITS[-1]:
            for token in between:
                index.setdefault(token, len(index))
    arrays["words"] = np.frombuffer("\n".join(index).encode(), np.uint8)
    return arrays
