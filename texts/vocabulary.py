"""The words of a trained model, as its file holds them, and texts seen with them.

A model file has `word_list`, the words in the order of their ids, as the bytes of a text (UTF-8, a
word a line): 2 MB for WikiText-103's 267,735 words, written and read within milliseconds, where a
list of strings takes the restricted unpickler half a second.
"""

import hashlib
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

UNKNOWN = "<unk>"
NAMED = 10  # unknown words that a message names


class UnknownWords(ValueError):
    """Words that the model does not know, and for which it has no <unk>; names them."""

    def __init__(self, words: Counter):
        super().__init__(f"the model does not know {names_of(words)}, and its vocabulary has no "
                         f"{UNKNOWN}")


def pack(words: Iterable[str]) -> Tensor:
    """Words without line breaks -> uint8, their text's bytes."""
    text = "\n".join(words).encode("utf-8")
    return torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.zeros(
        0, dtype=torch.uint8)


def unpack(packed: Tensor) -> list[str]:
    """The words. Raises ValueError if these are the bytes of no text."""
    if not isinstance(packed, Tensor) or packed.dtype != torch.uint8 or packed.dim() != 1:
        raise ValueError("the file's list of words is damaged")
    return packed.numpy().tobytes().decode("utf-8").split("\n")


def words_in_file(content: dict, count: int | None = None, digest: str | None = None
                  ) -> list[str] | None:
    """The words that a model file or training state holds; None if it is of before they did.

    count, digest: what the words must have (SHA-256 of pack's bytes), where it is known. Raises
    ValueError.
    """
    if "word_list" not in content:
        return None
    words = unpack(content["word_list"])
    if count is not None and len(words) != count:
        raise ValueError(f"the file lists {len(words)} words, its model has {count}")
    if digest is not None and digest_of(words) != digest:
        raise ValueError("the file's list of words is damaged")
    return words


def digest_of(words: Iterable[str]) -> str:
    """SHA-256 of the words in order: two vocabularies with the same digest share their ids."""
    return hashlib.sha256("\n".join(words).encode("utf-8")).hexdigest()


def ids_of(words: Sequence[str], known: dict[str, int]) -> list[int]:
    """known[word] for each word, that of <unk> for the others. Raises UnknownWords, naming them, if
    there is no <unk>."""
    unknown = known.get(UNKNOWN)
    if unknown is None and (missing := [word for word in words if word not in known]):
        raise UnknownWords(Counter(missing))
    return [known.get(word, unknown) for word in words]  # type: ignore[misc]


def names_of(words: Counter) -> str:
    """The most frequent ones by name, with how often each occurs where that is more than once."""
    named = [f"{word if word.isprintable() and word.strip() else repr(word)}"
             f"{f' ({count} times)' if count > 1 else ''}"
             for word, count in words.most_common(NAMED)]
    more = len(words) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def sentence_about(unknown: Counter, tokens: int) -> str:
    """What to tell about a text in which the model does not know these words."""
    if not unknown:
        return f"the model knows all words of its {tokens:,} tokens"
    return (f"{sum(unknown.values()):,} of {tokens:,} tokens ({len(unknown):,} words) unknown to "
            f"the model, read as {UNKNOWN}: {names_of(unknown)}")


def instead(args: Namespace) -> str:
    """Behind the message of UnknownWords: what the script offers, if it has --vocabulary."""
    has_choice = hasattr(args, "vocabulary")
    return ": --vocabulary data takes the texts' words instead" if has_choice else ""


# ------------------------------------------------------------------------- a model with other words
def with_words(state: Mapping[str, Tensor], rows: Iterable[str], known: Sequence[str],
               words: Sequence[str], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's state_dict for other words.

    state: that of the model, for the words `known` by id; rows: its tensors with a row per word;
    fresh: the state_dict of a new model for `words`, which has the rows of those that are not
    known. Raises ValueError if the sizes differ.
    """
    index = {word: i for i, word in enumerate(known)}
    new = [i for i, word in enumerate(words) if word in index]
    old = [index[words[i]] for i in new]
    found = dict(state)
    for name in rows:
        if name not in state or state[name].shape[1:] != fresh[name].shape[1:]:
            raise ValueError(f"the model's {name} does not fit the sizes given")
        found[name] = fresh[name].clone()
        found[name][new] = state[name][old]
    return found


def sentence_about_vectors(known: Sequence[str], words: Sequence[str]) -> str:
    """What to tell about a model for the words `known` that goes on with others."""
    new = len(set(words) - set(known))
    return (f"--vocabulary data: {len(words) - new:,} of {len(words):,} words keep the vectors "
            f"that the model has for them, {new:,} begin anew")
