"""Reads tagged sentences: what is clear is read, the rest refused by file and line.

Three kinds of file, told apart by their content:

    token TAB tag            the original's .conll; further columns are ignored
    token tag chunk          the same with blanks: no line of the file has a tab (CoNLL-2000), and
                             all have as many columns
    1 TAB token TAB .. tag   CoNLL-U: ten columns, of which FORM and UPOS are read; comments (#),
                             ranges of words (2-3) and empty nodes (2.1) are skipped

A line of nothing but white space ends a sentence; the last sentence needs none (the original lost
it), and two in a row make no empty sentence (which broke the original). So does -DOCSTART-, which
begins a document in CoNLL-2003 and is no word. Only blanks and tabs separate columns: a
non-breaking space is a character like any other within a token.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from texts.words import refuse_wide

Word = tuple[str, str]  # token, tag
Sentence = list[Word]

BYTE_ORDER_MARK = "\ufeff"  # of a file; also in its middle, where files were joined
BLANKS = re.compile(r"[ \t]+")
DOCUMENT = "-DOCSTART-"
CONLLU_COLUMNS, FORM, UPOS = 10, 1, 3
CONLLU_NUMBER = re.compile(r"\d+")
CONLLU_SKIPPED = re.compile(r"\d+[-.]\d+")


def lines_of(path: Path) -> list[str]:
    """Raises ValueError if the file is not UTF-8."""
    refuse_wide(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None
    # Not splitlines(), to which U+0085 or a form feed inside of a token would be a line's end.
    return [line.removeprefix(BYTE_ORDER_MARK) for line in text.removesuffix("\n").split("\n")]


def read_sentences(path: Path) -> list[Sentence]:
    """The sentences of a file. Raises ValueError naming the file, and the line that is unclear."""
    lines = lines_of(path)
    parse = kind_of(lines)
    sentences: list[Sentence] = []
    current: Sentence = []
    for number, line in enumerate(lines, 1):
        try:
            word = parse(line) if line.strip() and not begins_document(line) else None
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        if word:
            current.append(word)
        elif current and (not line.strip() or begins_document(line)):
            sentences.append(current)
            current = []
    if current:
        sentences.append(current)
    if any(len(s) > 1 for s in sentences) and all(map(_is_numbered, sentences)):
        raise ValueError(f"{path} numbers its words in the first column, but is not CoNLL-U (ten "
                         "columns, separated by tabs): give the columns token TAB tag")
    return sentences


def begins_document(line: str) -> bool:
    return BLANKS.split(line, maxsplit=1)[0] == DOCUMENT


def kind_of(lines: list[str]) -> Callable[[str], Word | None]:
    """What turns a line of this file, not a blank one, into a word, or into None to be skipped."""
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    number, *others = first.split("\t")
    if len(others) == CONLLU_COLUMNS - 1 and (CONLLU_NUMBER.fullmatch(number)
                                              or CONLLU_SKIPPED.fullmatch(number)):
        return conllu_word
    if any("\t" in line for line in lines if line.strip()):
        return tabbed_word
    spaced = next((line for line in lines if line.strip() and not begins_document(line)), "")
    return partial(spaced_word, count=len(spaced_columns(spaced)))


def conllu_word(line: str) -> Word | None:
    columns = line.split("\t")
    if line.startswith("#") or CONLLU_SKIPPED.fullmatch(columns[0]):
        return None
    if len(columns) != CONLLU_COLUMNS or not CONLLU_NUMBER.fullmatch(columns[0]):
        raise ValueError("a word of CoNLL-U is a number and nine more columns, separated by tabs")
    if columns[UPOS] == "_":
        raise ValueError("this word has no tag (UPOS is _)")
    return _complete(columns[FORM], columns[UPOS])


def tabbed_word(line: str) -> Word:
    token, tab, others = line.partition("\t")
    if not tab:
        raise ValueError("no tab between token and tag, as the other lines have")
    return _complete(token, others.split("\t")[0])


def spaced_columns(line: str) -> list[str]:
    return BLANKS.split(line.strip(" "))


def spaced_word(line: str, count: int) -> Word:
    """count: the columns of every line. Where one has more, a token may hold a blank, and its tag
    be elsewhere."""
    columns = spaced_columns(line)
    if len(columns) < 2:
        raise ValueError("a token without a tag: neither tab nor blank is in this line")
    if len(columns) != count:
        raise ValueError(f"{len(columns)} columns, where the first line has {count}: separate them "
                         "by tabs if a token holds a blank")
    return _complete(columns[0], columns[1])


def _complete(token: str, tag: str) -> Word:
    token, tag = token.strip(" "), tag.strip()  # no tag ends in a non-breaking space
    if not token or not tag:
        raise ValueError(f"the {'tag' if token else 'token'} is missing")
    return token, tag


def _is_numbered(sentence: Sentence) -> bool:
    """From 1, or from 0 as in CoNLL-2012."""
    first = int(sentence[0][0] != "0")
    return all(token == str(number) for number, (token, _) in enumerate(sentence, first))
