"""Texts as ids: the order of the vocabulary, what is a token, the cache, and what is refused."""

import hashlib
import random

import pytest
import torch

from harness import files
from trellisnet.char_PTB.data import Characters, find_texts
from trellisnet.text import SPLITS, word_corpus

TEXTS = {"train": "b a b\n\nc a\n", "valid": "d c\n", "test": "a e d\n"}


def write(folder, **changes):
    folder.mkdir(exist_ok=True)
    for split, content in (TEXTS | changes).items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / f"{split}.txt").write_bytes(data)
    return folder


def words(folder):
    return word_corpus(folder)


def characters(folder):
    return Characters(str(folder), "ptb")


def spelled(corpus, split="train"):
    return [corpus.words[i] for i in getattr(corpus, split)]


# -------------------------------------------------------------------------------------- words
def test_words_are_numbered_by_first_appearance(tmp_path):
    """Over train, then valid, then test; <eos> ends each line, an empty one too."""
    corpus = words(write(tmp_path))
    assert corpus.words == ["b", "a", "<eos>", "c", "d", "e"]
    assert corpus.train.tolist() == [0, 1, 0, 2, 2, 3, 1, 2]
    assert corpus.valid.tolist() == [4, 3, 2]
    assert corpus.test.tolist() == [1, 5, 4, 2]
    assert corpus.train.dtype == torch.int32
    assert len(corpus) == 6


@pytest.mark.parametrize(("content", "tokens"), [
    ("a b\r\nc\r\n", "a b <eos> c <eos>"), ("a b", "a b <eos>"), ("\n\n", "<eos> <eos>"),
    ("  a \t b  \n", "a b <eos>"), ("\u00e9t\u00e9 \u4e2d\n", "\u00e9t\u00e9 \u4e2d <eos>"),
    ("a <eos> b\n", "a <eos> b <eos>"), ("\ufeffa b\n\ufeffc\n", "a b <eos> c <eos>")],
    ids=["CRLF", "no-newline", "empty-lines", "spaces", "UTF-8", "eos", "byte-order-marks"])
def test_words_of_a_text(tmp_path, content, tokens):
    assert spelled(words(write(tmp_path, train=content))) == tokens.split()


def test_chunks_do_not_show(tmp_path, monkeypatch):
    """A long text is read in pieces."""
    lines = "".join(f"w{i % 7} x{i % 5}\n" for i in range(300))
    whole = words(write(tmp_path / "a", train=lines))
    letters = characters(tmp_path / "a")
    monkeypatch.setattr("texts.words.CHUNK", 50)
    monkeypatch.setattr("trellisnet.char_PTB.data.CHUNK", 50)
    for old, new in ((whole, words(write(tmp_path / "b", train=lines))),
                     (letters, characters(tmp_path / "b"))):
        assert not new.cached
        assert new.words == old.words
        assert torch.equal(new.train, old.train)


# ---------------------------------------------------------------------------------- characters
def test_spaces_stay_and_a_newline_is_one_character(tmp_path):
    """The vocabulary is that of train, a space, valid, a space, test: the space has a number even
    if no text has one."""
    corpus = characters(write(tmp_path, train="ab  a\n\nb", valid="cb\n", test="d\n"))
    assert spelled(corpus) == ["a", "b", " ", " ", "a", "<eos>", "<eos>", "b"]
    assert corpus.words == ["a", "b", " ", "<eos>", "c", "d"]
    without = characters(write(tmp_path, train="ab\n", valid="c\n", test="d\n"))
    assert without.words == ["a", "b", "<eos>", " ", "c", "d"]


def test_no_letter_is_a_line_end(tmp_path):
    """The original, and release 0.1, wrote U+00FF for a line's end, so that letter was one too."""
    corpus = characters(write(tmp_path, train="a\u00ffb\nc\u00ff\n", valid="ab\n", test="c\n"))
    assert spelled(corpus) == ["a", "\u00ff", "b", "<eos>", "c", "\u00ff", "<eos>"]
    assert len(corpus) == 6


def test_the_vocabulary_of_release_0_1_is_known_again(tmp_path):
    """Its digest stands in model files; texts with U+00FF were other texts to it."""
    def digest(words):
        return hashlib.sha256("\n".join(words).encode()).hexdigest()
    corpus = characters(write(tmp_path, train="ab\n", valid="c\n", test="d\n"))
    assert corpus.digest() == digest(["a", "b", "\u00ff", " ", "c", "d"])
    corpus = characters(write(tmp_path, train="a\u00ff\n", valid="c\n", test="d\n"))
    assert corpus.digest() == digest(["a", "\u00ff", "<eos>", " ", "c", "d"])


SPACED = {"train": "t h e _ c a t\na _ c\n", "valid": "a _ b\n", "test": "b _ a\n"}


def test_spaced_characters_are_the_same_text(tmp_path):
    """`t h e _ c a t`, the form in which getdata.sh has PTBC: its tokens are the characters."""
    corpus = characters(write(tmp_path, **SPACED))
    assert corpus.spaced
    assert spelled(corpus) == [*"the_cat", "<eos>", *"a_c", "<eos>"]


@pytest.mark.parametrize("split", SPLITS)
def test_one_longer_word_anywhere_and_blanks_are_characters(tmp_path, split):
    """A first line of one-letter words says nothing: the three texts are looked at whole."""
    corpus = characters(write(tmp_path, **SPACED | {split: "I a m\nwe walk on\n"}))
    assert not corpus.spaced
    assert corpus.words[:3] == (["I", " ", "a"] if split == "train" else ["t", " ", "h"])


def test_crlf_is_one_character_and_a_byte_order_mark_none(tmp_path):
    assert spelled(characters(write(tmp_path, train="\ufeffab\r\nc\r\n"))) == [
        "a", "b", "<eos>", "c", "<eos>"]


def test_characters_lie_in_one_of_several_places(tmp_path):
    """As getdata.sh has them, or in Mikolov's archive."""
    for place, name in (("simple-examples/data", "ptb.{}.txt"), ("", "{}.txt")):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            (tmp_path / place / name.format(split)).write_text("x\n")
        assert find_texts(tmp_path, "ptb")["valid"] == tmp_path / place / name.format("valid")
    with pytest.raises(FileNotFoundError, match=r"no train\.txt in .*nor pydoc/train\.txt"):
        find_texts(tmp_path / "simple-examples", "pydoc")


# ---------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("read", [words, characters])
def test_refused_texts(tmp_path, split, read):
    write(tmp_path, **{split: b"caf\xe9 \xff\n"})
    with pytest.raises(ValueError, match=rf"{split}\.txt is not UTF-8 text"):
        read(tmp_path)
    write(tmp_path, **{split: ""})
    with pytest.raises(ValueError, match=rf"{split}\.txt is empty"):
        read(tmp_path)
    (tmp_path / f"{split}.txt").unlink()
    with pytest.raises(FileNotFoundError, match=rf"no {split}\.txt in .*{tmp_path.name}"):
        read(tmp_path)


# -------------------------------------------------------------------------------------- cache
def same(a, b):
    return a.words == b.words and all(
        torch.equal(getattr(a, split), getattr(b, split)) for split in SPLITS)


def cache_of(folder):
    cache, = folder.glob(".trellisnet-*.npz")
    return cache


def test_the_second_time_comes_from_the_cache(tmp_path):
    first, second = words(write(tmp_path)), words(tmp_path)
    assert (first.cached, second.cached) == (False, True)
    assert same(first, second)
    assert first.digest() == second.digest()
    assert not list(tmp_path.glob("*.part"))


def test_a_changed_text_is_read_again(tmp_path):
    """The cache goes by content, not by name or time."""
    words(write(tmp_path))
    changed = words(write(tmp_path, valid="z d\n"))
    assert not changed.cached
    assert "z" in changed.words
    assert words(write(tmp_path)).cached


def test_words_and_characters_do_not_meet(tmp_path):
    words(write(tmp_path))
    assert not characters(tmp_path).cached
    assert words(tmp_path).cached
    assert characters(tmp_path).cached


def test_same_words_same_digest(tmp_path):
    """Whatever the texts say with them."""
    a = words(write(tmp_path / "a"))
    b = words(write(tmp_path / "b", test="e a a\n"))
    c = words(write(tmp_path / "c", test="f a a\n"))
    assert a.digest() == b.digest() != c.digest()


def test_damaged_cache(tmp_path, capsys):
    """Cut short or with a bit flipped it is not believed: the texts are read again, and the cache
    is whole again."""
    expected = words(write(tmp_path))
    cache = cache_of(tmp_path)
    whole, rng = cache.read_bytes(), random.Random(0)
    damaged = [whole[:n] for n in (0, 1, 100, len(whole) // 2, len(whole) - 1)]
    for _ in range(60):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(flipped))
    noticed = 0
    for content in damaged:
        cache.write_bytes(content)
        corpus = words(tmp_path)
        noticed += not corpus.cached
        assert same(corpus, expected)
    assert noticed > 30  # a bit of a time stamp changes nothing
    assert capsys.readouterr().err.count("damaged cache") == noticed
    assert words(tmp_path).cached


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    """Means no cache, nothing worse."""
    write(tmp_path)

    def read_only(*_, **__):
        raise PermissionError(13, "Permission denied")
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "open", read_only)
        corpus = words(tmp_path)
    assert "no cache of the data" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["test.txt", "train.txt", "valid.txt"]
    assert same(corpus, words(tmp_path))
