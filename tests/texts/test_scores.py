"""Any text under a model whose probabilities are known: what is predicted, counted and said."""

import io
import json
import math
from argparse import Namespace

import pytest
import torch

from harness.endings import BadInput
from texts.scores import continuous, independent, report, tally
from texts.sentences import characters, opened, read_text, words
from texts.vocabulary import (
    UnknownWords,
    digest_of,
    ids_of,
    names_of,
    pack,
    unpack,
    words_in_file,
)

KNOWN = {"<eos>": 0, "<unk>": 1, "a": 2, "b": 3}
TEXT = "a zebra\n\nb a\n"


def columns(source):
    """log p(w | the word v above it) = -(10 v + w); a text's beginning shows in what it sees."""
    return -(10.0 * source[:-1] + source[1:]).double()


def read(text=TEXT, known=KNOWN, tokenise=words):
    return read_text(io.StringIO(text), known, 0, tokenise)


# ---------------------------------------------------------------------------------- vocabularies
def test_words_are_packed_and_unpacked():
    found = ["a", " ", "\u00e9", "<eos>", "\u2028", "\x0b"]
    assert unpack(pack(found)) == found
    assert unpack(pack([])) == [""]
    content = {"word_list": pack(found)}
    assert words_in_file(content, 6, digest_of(found)) == found
    assert words_in_file({}) is None
    for count, digest in ((5, None), (6, "0")):
        with pytest.raises(ValueError, match="the file"):
            words_in_file(content, count, digest)
    with pytest.raises(ValueError, match="damaged"):
        unpack(torch.zeros(3))


def test_unknown_words_are_named():
    assert ids_of(["a", "zebra"], KNOWN) == [2, 1]
    with pytest.raises(UnknownWords, match=r"does not know zebra \(2 times\), ' ', and its vocab"):
        ids_of(["zebra", "a", " ", "zebra"], {"a": 0})
    many = read(" ".join(f"x{i}" for i in range(12)) + "\n").unknown
    assert names_of(many).endswith("x9 and 2 more")


# --------------------------------------------------------------------------------------- reading
def test_a_text_as_ids():
    text = read("\ufeffa zebra\n\nb a")
    assert text.ids.tolist() == [2, 1, 0, 0, 3, 2, 0]
    assert text.ends.tolist() == [3, 4, 7]
    assert text.word_ends.tolist() == [True, True, False, False, True, True, False]
    assert text.unknown == {"zebra": 1}
    assert text.unknown_at == {1: "zebra"}


def test_words_of_characters():
    assert characters("ab  c ") == (["a", "b", " ", " ", "c", " "],
                                    [False, True, False, False, True, False])
    assert characters("") == ([], [])


def test_texts_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="the text is empty"):
        read("")
    (tmp_path / "latin1.txt").write_bytes(b"\xfc\n")
    (tmp_path / "words.txt").write_text("zebra\n")
    for name, why in (("latin1.txt", "is not UTF-8"), ("no.txt", "No such file"),
                      (".", "Is a directory"), ("words.txt", "words.txt: the model does not know")):
        with pytest.raises(BadInput, match=why), opened(str(tmp_path / name)) as file:
            read_text(file, {"<eos>": 0}, 0, words)


# --------------------------------------------------------------------------------------- scoring
def test_continuous_text():
    """Each token given the one before, across line ends; the first is not predicted."""
    found = continuous(columns, read())
    assert found[0].isnan()
    assert found[1:].tolist() == [-21, -10, -0, -3, -32, -20]
    with pytest.raises(BadInput, match="--independent"):
        continuous(columns, read("\n"))


def test_independent_sentences():
    """Each behind a line's end; equal lengths side by side change nothing."""
    text = read(TEXT + "a b\n" * 150)
    found = independent(columns, text, 0)
    assert found[:7].tolist() == [-2, -21, -10, -0, -3, -32, -20]
    assert found[7:].tolist() == [-2, -23, -30] * 150


def test_tally():
    text = read()
    found = tally(text, continuous(columns, text), slice(0, 7))
    assert (found.tokens, found.words, found.unknown, found.log_probability) == (6, 3, 1, -86)
    numbers = found.numbers()
    assert numbers["perplexity_per_token"] == pytest.approx(math.exp(86 / 6))
    assert numbers["perplexity_per_word"] == pytest.approx(math.exp(86 / 3))
    assert numbers["perplexity_of_known"] == pytest.approx(math.exp(65 / 5))
    assert numbers["bits_per_token"] == pytest.approx(86 / 6 / math.log(2))
    nothing = tally(text, torch.full((7,), math.nan), slice(0, 7)).numbers()
    assert nothing["log_probability"] is nothing["perplexity_per_word"] is None


def said(capsys, log_p, text, **flags):
    args = Namespace(**{"model": "m.pt", "text": "-", "independent": False, "json": False,
                        "per_token": False, "totals": False} | flags)
    report(text, log_p, args, list(KNOWN))
    return capsys.readouterr().out


def test_json(capsys):
    text = read()
    found = json.loads(said(capsys, continuous(columns, text), text, json=True, per_token=True))
    assert found["unknown_words"] == {"zebra": 1}
    assert found["reading"] == "continuous"
    assert [each["log_probability"] for each in found["sentences"]] == [-31, 0, -55]
    assert found["sentences"][0]["per_token"] == [["a", None], ["zebra", -21], ["<eos>", -10]]
    totals = json.loads(said(capsys, continuous(columns, text), text, json=True, totals=True))
    assert "sentences" not in totals
    assert totals["log_probability"] == -86


def test_lines(capsys):
    text = read()
    lines = said(capsys, independent(columns, text, 0), text, independent=True,
                 per_token=True).splitlines()
    assert lines[1:5] == ["1\t-33.0000\t3\t1\t59874.14", "\t-2.0000\ta", "\t-21.0000\tzebra",
                          "\t-10.0000\t<eos>"]
    assert lines[-4].startswith("3 sentences, 7 tokens with the line ends, 7 of them predicted")
    assert lines[-1].startswith("1 unknown words, scored as <unk>: zebra; without them perplexity")
