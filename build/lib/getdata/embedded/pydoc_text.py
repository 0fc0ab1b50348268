"""The standard library's docstrings as words and characters, in the Penn Treebank's formats."""

import collections
import hashlib
import re

from getdata.embedded.docstrings import stdlib_docstrings

SPLITS = ("train", "valid", "test")
MIN_COUNT = 2  # a word seen less often in train becomes <unk>
HELD_OUT = 0.05  # share of the tokens in valid, and in test
LARGEST_HELD_OUT = 0.02  # a module with more of the text than this always goes to train

WORD = r"[a-z_]+(?:\d+[a-z_]*)*"
TOKEN = re.compile(rf"{WORD}(?:['-]{WORD})*|\d+(?:[.,]\d+)*|->|[<>=!]=|\.\.\.|[^\w\s]")
SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+")


def sentences(docstring):
    """Yield the lists of tokens of a docstring's sentences, doctest lines left out."""
    for paragraph in re.split(r"\n\s*\n", docstring):
        lines = [line.strip() for line in paragraph.splitlines()]
        if any(line.startswith(">>>") for line in lines):
            lines = lines[: next(i for i, line in enumerate(lines) if line.startswith(">>>"))]
        for sentence in SENTENCE_END.split(" ".join(lines).lower()):
            tokens = TOKEN.findall(sentence)
            tokens = ["N" if token[0].isdigit() else token for token in tokens if token.isascii()]
            if sum(token[0].isalpha() for token in tokens) >= 2:
                yield tokens


def stdlib_sentences():
    """Return {top-level module: the sentences of its docstrings}."""
    return {
        module: [tokens for text in texts for tokens in sentences(text)]
        for module, texts in stdlib_docstrings().items()
    }


def split_by_module(modules):
    """Return {split: sentences}; each module goes whole to one, in an order set by its name."""
    size = {name: sum(map(len, lines)) for name, lines in modules.items()}
    total = sum(size.values())
    filled = dict.fromkeys(SPLITS, 0)
    parts = {split: [] for split in SPLITS}
    for name in sorted(modules, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        small = size[name] <= LARGEST_HELD_OUT * total
        open_splits = [s for s in ("valid", "test") if filled[s] < HELD_OUT * total and small]
        split = min(open_splits, key=filled.get, default="train")
        filled[split] += size[name]
        parts[split] += modules[name]
    return parts


def pydoc_lines():
    """Return {split: lines of text} with the words that are rare in train replaced by <unk>."""
    parts = split_by_module(stdlib_sentences())
    counts = collections.Counter(token for tokens in parts["train"] for token in tokens)
    known = {token for token, count in counts.items() if count >= MIN_COUNT}
    return {
        split: [" ".join(t if t in known else "<unk>" for t in tokens) for tokens in lines]
        for split, lines in parts.items()
    }


def pydoc(folder):
    """Write {train,valid,test}.txt: one sentence a line with a blank at both ends, as PTB has."""
    for split, lines in pydoc_lines().items():
        text = "".join(f" {line} \n" for line in lines)
        (folder / f"{split}.txt").write_text(text, encoding="utf-8", newline="\n")


def to_characters(lines):
    """Return lines in the PTB character format: `_` for a blank, a blank after every character."""
    text = "".join(line.strip().replace(" ", "_") + "\n" for line in lines)
    return "".join(character + " " for character in text)


def pydoc_char(folder):
    """Write the text of `pydoc` as characters."""
    for split, lines in pydoc_lines().items():
        path = folder / f"{split}.txt"
        path.write_text(to_characters(lines), encoding="utf-8", newline="\n")
