"""Text to ids: three texts, tokens numbered by first appearance over train, valid, test.

The ids are cached beside the texts, in one .npz file named after the texts' SHA-256, so a changed
text is never confused with its former self. The archive's CRCs tell of damage.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from harness.cache import read_arrays, write_arrays

SPLITS = ("train", "valid", "test")
EOS = "<eos>"
BOM = "\ufeff"   # before a text; also before a line, where files were joined
RULES = 2        # of tokenising: a cache made by others is not looked at
CHUNK = 1 << 24  # bytes of text at a time: bounds the memory, not the result

# Pieces of a text -> tokens; called for one text after another.
Tokeniser = Callable[[Path], Iterable[list[str]]]


class Corpus:
    """`train`, `valid`, `test`: int32 tensors of ids. `words`: id -> token. `files`: split -> text,
    and `digests`: its file name -> its SHA-256. `cached`: the ids were there already."""

    def __init__(self, files: dict[str, Path], tokenise: Tokeniser, unit: str,
                 between: tuple[str, ...] = ()):
        """files: split -> text. `unit` names the kind of token in the cache's name. `between`:
        tokens that enter the vocabulary after each text but the last.

        Raises FileNotFoundError, or ValueError if a text is not UTF-8 or has no token.
        """
        for path in files.values():
            if not path.is_file():
                raise FileNotFoundError(f"no {path.name} in {path.parent}")
        self.files = files
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
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()


def word_corpus(folder: Path) -> Corpus:
    """train.txt, valid.txt and test.txt of a folder, tokenised at white space, <eos> at each line
    end. Raises like Corpus."""
    return Corpus({split: folder / f"{split}.txt" for split in SPLITS}, words_of, "words")


def words_of(path: Path) -> Iterator[list[str]]:
    """Whitespace-separated words, <eos> at each line end."""
    with path.open(encoding="utf-8") as file:
        while lines := file.readlines(CHUNK):
            yield [word for line in lines for word in (*line.lstrip(BOM).split(), EOS)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tokenise(files: dict[str, Path], tokenise: Tokeniser, between: tuple[str, ...]) -> dict:
    index: dict[str, int] = {}
    arrays = {}
    for split in SPLITS:
        ids = array("i")
        try:
            for tokens in tokenise(files[split]):
                for token in dict.fromkeys(tokens):  # each distinct one once: texts repeat a lot
                    index.setdefault(token, len(index))
                ids.extend(map(index.__getitem__, tokens))
        except UnicodeDecodeError as error:
            raise ValueError(f"{files[split]} is not UTF-8 text (byte {error.start})") from None
        if not ids:
            raise ValueError(f"{files[split]} is empty")
        arrays[split] = np.frombuffer(ids, np.int32)
        if split != SPLITS[-1]:
            for token in between:
                index.setdefault(token, len(index))
    arrays["words"] = np.frombuffer("\n".join(index).encode(), np.uint8)
    return arrays
