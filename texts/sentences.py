"""A text to score: the ids of its tokens, where its sentences (lines) end, which words are unknown.

A tokeniser turns one line into tokens, each with a sign whether a word ends with it, so that a
perplexity per word can be given also where tokens are characters or byte pairs.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from harness.endings import BadInput, bad_input
from texts.vocabulary import UNKNOWN, UnknownWords
from texts.words import BOM, refuse_wide

# A line without its line break -> its tokens, and for each whether a word ends with it.
Tokeniser = Callable[[str], tuple[list[str], list[bool]]]


@dataclass
class Text:
    """N tokens, S sentences. The last token of a sentence is the line's end."""

    ids: Tensor                     # (N,) int64
    ends: Tensor                    # (S,) int64: where each sentence ends, its last token included
    word_ends: Tensor               # (N,) bool: a word ends with this token
    unknown: Counter                # the tokens that the model does not know, as the text has them
    unknown_at: dict[int, str]      # ... and where
    is_unknown: Tensor              # (N,) bool

    def sentences(self) -> Iterator[slice]:
        """Where each sentence stands among the tokens."""
        start = 0
        for end in self.ends.tolist():
            yield slice(start, end)
            start = end


def words(line: str) -> tuple[list[str], list[bool]]:
    """The tokeniser of the word models."""
    found = line.split()
    return found, [True] * len(found)


def characters(line: str) -> tuple[list[str], list[bool]]:
    """Blanks are tokens too; a word ends before one, and at the line's end."""
    following = line[1:] + " "
    return list(line), [not c.isspace() and after.isspace()
                        for c, after in zip(line, following, strict=False)]


def read_text(file: TextIO, known: dict[str, int], end: int, tokenise: Tokeniser,
              unknown: str = UNKNOWN) -> Text:
    """The text of an open file. known: token -> id; end: the id of a line's end; unknown: the token
    that stands for what `known` lacks. Raises UnknownWords, or BadInput if there is no line."""
    ids: list[int] = []
    word_ends: list[bool] = []
    ends, missing = [], {}
    for line in file:
        tokens, marks = tokenise(line.removesuffix("\n").lstrip(BOM))
        for i, token in enumerate(tokens, len(ids)):
            if token not in known:
                missing[i] = token
        ids += [known.get(token, -1) for token in tokens] + [end]
        word_ends += [*marks, False]
        ends.append(len(ids))
    if not ids:
        raise BadInput("the text is empty: give at least one line")
    counted = Counter(missing.values())
    if missing and unknown not in known:
        raise UnknownWords(counted)
    found, is_unknown = torch.tensor(ids), torch.zeros(len(ids), dtype=torch.bool)
    is_unknown[list(missing)] = True
    found[is_unknown] = known.get(unknown, -1)
    return Text(found, torch.tensor(ends), torch.tensor(word_ends), counted, missing, is_unknown)


@contextmanager
def opened(path: str) -> Iterator[TextIO]:
    """The text file, or standard input for `-`, as UTF-8. Raises BadInput, also for what goes wrong
    while it is read."""
    name = "the standard input" if path == "-" else path
    try:
        if path == "-":
            sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
            yield sys.stdin
        else:
            with Path(path).open(encoding="utf-8") as file:
                with bad_input():
                    refuse_wide(Path(path))
                yield file
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} is not UTF-8 text (byte {error.start})") from None
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise BadInput(f"{name}: {error.strerror}: give a text file, a sentence a line, or - for "
                       "the standard input") from None
    except UnknownWords as error:
        raise BadInput(f"{name}: {error}") from None
