"""A text's words, whatever the pieces that it is read in; its files under their several names."""

import io
import os
import random
import threading

import pytest

from harness.endings import BadInput
from texts import words
from texts.folder import find_some, find_texts
from texts.sentences import opened
from texts.words import BOM, EOS, numbered, words_in, words_of


def plain(text: str) -> list[str]:
    """The definition: line by line, the whole text in memory."""
    lines = text.split("\n")
    lines = lines if lines[-1] else lines[:-1]
    return [word for line in lines for word in (*line.lstrip(BOM).split(), EOS)]


@pytest.mark.parametrize("chunk", [3, 5, 17, 1000])
def test_pieces_do_not_show(chunk, monkeypatch):
    """Long lines are cut at blanks, blanks of all kinds, marks at line starts, no last line break,
    empty lines."""
    monkeypatch.setattr(words, "CHUNK", chunk)
    rng = random.Random(chunk)
    for _ in range(400):
        text = "".join(rng.choice(("a", "bcd", " ", "  ", "\n", "\t", "\u2003", "\n" + BOM, "e"))
                       for _ in range(rng.randint(0, 40)))
        found = [word for piece in words_in(io.StringIO(text)) for word in piece]
        assert found == plain(text), repr(text)


def test_one_line_is_never_in_memory_as_a_whole(monkeypatch):
    """text8 is one line of 100 MB: a piece of words is not longer than two pieces of text."""
    monkeypatch.setattr(words, "CHUNK", 100)
    pieces = list(words_in(io.StringIO("word " * 5000)))
    assert max(map(len, pieces)) <= 2 * 100 / len("word ") + 1
    assert sum(map(len, pieces)) == 5001


def test_a_text_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"gut \xfc\n")
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8 text"):
        list(words_of(tmp_path / "a.txt"))


def test_numbers_are_given_by_first_appearance():
    index = {"b": 0}
    assert [list(ids) for ids in numbered([["a", "b", "a"], ["c"]], index)] == [[1, 0, 1], [2]]
    assert list(index) == ["b", "a", "c"]


@pytest.mark.parametrize("names", ["{}.txt", "wiki.{}.tokens", "ptb.{}.txt", "ptb.char.{}.txt"])
def test_texts_are_found_under_the_names_that_they_are_published_by(names, tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / names.format(split)).write_text("x\n")
    assert {split: path.name for split, path in find_texts(tmp_path).items()} == {
        split: names.format(split) for split in ("train", "valid", "test")}
    (tmp_path / names.format("valid")).unlink()
    with pytest.raises(FileNotFoundError, match=f"^no {names.format('valid')} in "):
        find_texts(tmp_path)
    assert list(find_some(tmp_path, ("valid", "test"))) == ["test"]


def test_a_folder_without_texts(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^no train\.txt in "):
        find_texts(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_wide_characters_without_a_mark_are_refused(encoding, tmp_path):
    """They pass for UTF-8, in which each word would be another one. NULs of a text's own do not
    count."""
    path = tmp_path / "x.txt"
    path.write_bytes("a word\n".encode(encoding))
    for read in (lambda: list(words_of(path)), lambda: opened(str(path)).__enter__()):
        with pytest.raises((ValueError, BadInput), match=f"{path} is not UTF-8 text but UTF-16"):
            read()
    path.write_bytes(b"w1 \0 w2\n")
    assert list(words_of(path)) == [["w1", "\0", "w2", EOS]]


def test_a_pipe_is_read_once(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("a word\n",))
    writer.start()
    with opened(str(path)) as file:
        assert file.read() == "a word\n"
    writer.join()
