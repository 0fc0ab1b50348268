"""Texts to ids, and a cache that is fast, true and never in the way."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from awd_lstm import data
from awd_lstm.data import CACHE, SPLITS, Corpus, Dictionary
from texts.vocabulary import UnknownWords

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {"train": "the cat sat\n\nthe mat\n", "valid": "a cat\n", "test": "the dog"}


def write(folder, **texts):
    folder.mkdir(exist_ok=True)
    for split in SPLITS:
        text = (TEXTS | texts)[split]
        (folder / f"{split}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def tokens(corpus, split="train"):
    return [corpus.dictionary.idx2word[i] for i in getattr(corpus, split)]


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "texts")


# -------------------------------------------------------------------------------------- tokens
def test_ids_by_first_occurrence(folder):
    """Train, then valid, then test; <eos> gets its id after the words of the first line."""
    corpus = Corpus(folder)
    assert corpus.dictionary.idx2word == ["the", "cat", "sat", "<eos>", "mat", "a", "dog"]
    assert corpus.train.tolist() == [0, 1, 2, 3, 3, 0, 4, 3]
    assert corpus.valid.tolist() == [5, 1, 3]
    assert corpus.test.tolist() == [0, 6, 3]
    assert corpus.dictionary.counter == [3, 2, 1, 5, 1, 1, 1]
    assert corpus.dictionary.total == 14
    assert len(corpus.dictionary) == 7


@pytest.mark.parametrize(("text", "expected"), [
    ("a\n\n\nb\n", ["a", "<eos>", "<eos>", "<eos>", "b", "<eos>"]),
    ("a b", ["a", "b", "<eos>"]),
    ("\n", ["<eos>"]),
    ("a <eos> b\n", ["a", "<eos>", "b", "<eos>"]),
    ("a\tb  c \r\nd\r\n", ["a", "b", "c", "<eos>", "d", "<eos>"]),
    ("Stra\u00dfe \u4e2d\u6587\u00a0\U0001f600\n",
     ["Stra\u00dfe", "\u4e2d\u6587", "\U0001f600", "<eos>"]),
    ("a\u2028b\x1cc\x85d\n", ["a", "b", "c", "d", "<eos>"]),
], ids=["empty-lines", "no-last-newline", "only-newline", "literal-eos", "crlf", "unicode",
        "odd-spaces"])
def test_tokens(tmp_path, text, expected):
    for cached in (False, True):
        corpus = Corpus(write(tmp_path / "texts", train=text))
        assert tokens(corpus) == expected
        assert corpus.cached == cached


def reference(texts):
    """The original's reader, token by token."""
    word2idx, ids = {}, {}
    for split in SPLITS:
        lines = texts[split].splitlines(keepends=False) if texts[split] else []
        words = [word for line in lines for word in [*line.split(), "<eos>"]]
        ids[split] = [word2idx.setdefault(word, len(word2idx)) for word in words]
    return list(word2idx), ids


LINES = st.lists(st.text("ab \t\u00e9\u4e2d", max_size=6), min_size=1, max_size=8).map(
    lambda lines: "\n".join(lines) + "\n")


@settings(max_examples=25, deadline=None)
@given(train=LINES, valid=LINES, test=LINES, chunk=st.sampled_from([1, 3, 1 << 24]))
def test_equals_the_plain_reader(tmp_path_factory, train, valid, test, chunk):
    """However the text is cut into pieces while reading."""
    texts = {"train": train, "valid": valid, "test": test}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "CHUNK", chunk)
        corpus = Corpus(write(tmp_path_factory.mktemp("texts"), **texts))
    words, ids = reference(texts)
    assert corpus.dictionary.idx2word == words
    assert {split: getattr(corpus, split).tolist() for split in SPLITS} == ids
    counts = np.bincount([i for split in SPLITS for i in ids[split]], minlength=len(words))
    assert corpus.dictionary.counter == counts.tolist()


@pytest.mark.parametrize(("words", "dtype"), [
    (2, "uint8"), (256, "uint8"), (257, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_smallest_integer_type(tmp_path, words, dtype):
    """<eos> is one of the words; every id fits exactly."""
    text = " ".join(f"w{i}" for i in range(words - 1)) + "\n"
    for _ in range(2):
        corpus = Corpus(write(tmp_path / "texts", train=text, valid="w0\n", test="w0\n"))
        assert len(corpus.dictionary) == words
        assert {getattr(corpus, split).dtype for split in SPLITS} == {np.dtype(dtype)}
        assert corpus.train.tolist() == list(range(words))


def test_dictionary_digest_tells_words_and_order():
    digests = {Dictionary(words).digest() for words in (["a", "b"], ["b", "a"], ["a", "b", "c"])}
    assert len(digests) == 3
    assert Dictionary(["a", "b"], [5, 6]).digest() in digests


# ---------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize("split", SPLITS)
def test_missing_text(folder, split):
    (folder / f"{split}.txt").unlink()
    with pytest.raises(FileNotFoundError, match=rf"no {split}\.txt in"):
        Corpus(folder)


def test_empty_text(tmp_path):
    with pytest.raises(ValueError, match=r"valid\.txt is empty"):
        Corpus(write(tmp_path / "texts", valid=""))
    assert list((tmp_path / "texts" / CACHE).iterdir()) == []


def test_not_utf8(tmp_path):
    """Says which file and where; leaves nothing half-made."""
    with pytest.raises(ValueError, match=r"test\.txt is not UTF-8 text \(byte 2\)"):
        Corpus(write(tmp_path / "texts", test=b"ab\xff\xfe\n"))
    assert list((tmp_path / "texts" / CACHE).iterdir()) == []


# ------------------------------------------------------------------------------------------- cache
def cache_files(folder):
    cache, = (folder / CACHE).iterdir()
    return sorted(cache.iterdir())


def test_cache_hit(folder, monkeypatch):
    first = Corpus(folder)
    monkeypatch.setattr(data, "words_of", None)  # a second reading would fail
    second = Corpus(folder)
    assert (first.cached, second.cached) == (False, True)
    assert second.dictionary.digest() == first.dictionary.digest()
    assert second.dictionary.counter == first.dictionary.counter
    assert all(isinstance(getattr(second, split), np.memmap) for split in SPLITS)
    assert tokens(second, "test") == ["the", "dog", "<eos>"]


def test_cache_is_plain_data(folder):
    Corpus(folder)
    assert [p.name for p in cache_files(folder)] == [
        "counts.npy", "meta.json", "test.npy", "train.npy", "valid.npy", "words.txt"]
    for path in cache_files(folder):
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)


def test_changed_text_is_noticed(folder):
    """The original never looked again (15.3). Same size, same time stamp, one letter."""
    Corpus(folder)
    text = folder / "valid.txt"
    times = text.stat()
    text.write_text("a bat\n")
    os.utime(text, ns=(times.st_atime_ns, times.st_mtime_ns))
    corpus = Corpus(folder)
    assert not corpus.cached
    assert tokens(corpus, "valid") == ["a", "bat", "<eos>"]
    text.write_text("a cat\n")
    assert Corpus(folder).cached  # the first one is still there


def damages():
    """(id, function of the file's bytes), at places drawn once and for all."""
    rng = random.Random(0)
    yield "truncated", lambda b: b[:len(b) // 2]
    yield "emptied", lambda b: b""
    yield "longer", lambda b: b + b"\0"
    for k in range(6):
        place = rng.random()
        yield f"bit-{k}", lambda b, place=place, k=k: (
            b[:(i := int(place * len(b)))] + bytes([b[i] ^ 1 << k]) + b[i + 1:])


@pytest.mark.parametrize("damage", [d for _, d in damages()], ids=[name for name, _ in damages()])
@pytest.mark.parametrize("index", range(6), ids=["counts", "meta", "test", "train", "valid",
                                                 "words"])
def test_damaged_cache_is_rebuilt(folder, index, damage):
    Corpus(folder)
    path = cache_files(folder)[index]
    path.write_bytes(damage(path.read_bytes()))
    corpus = Corpus(folder)
    assert not corpus.cached
    assert tokens(corpus) == ["the", "cat", "sat", "<eos>", "<eos>", "the", "mat", "<eos>"]
    assert Corpus(folder).cached


@pytest.mark.parametrize("index", range(6))
def test_lost_cache_file_is_rebuilt(folder, index):
    Corpus(folder)
    cache_files(folder)[index].unlink()
    assert tokens(Corpus(folder), "valid") == ["a", "cat", "<eos>"]
    assert Corpus(folder).cached


@pytest.mark.parametrize("meta", ["[]", "{}", '{"sha256": 3}', '{"sha256": {}}'])
def test_odd_meta_is_rebuilt(folder, meta):
    Corpus(folder)
    (cache_files(folder)[1]).write_text(meta)
    assert tokens(Corpus(folder), "test") == ["the", "dog", "<eos>"]
    assert json.loads(cache_files(folder)[1].read_text())["sha256"]


def test_interrupted_tokenising_leaves_nothing(folder, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(data, "_narrow", stop)
        with pytest.raises(KeyboardInterrupt):
            Corpus(folder)
    assert list((folder / CACHE).iterdir()) == []
    assert not Corpus(folder).cached


def test_read_only_folder(folder, monkeypatch, capsys):
    """Tokenised elsewhere, and said so."""
    folder.chmod(0o555)
    if os.geteuid() == 0:  # whom no mode stops
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    try:
        corpus = Corpus(folder)
    finally:
        folder.chmod(0o755)
    assert "cannot be written by this user: tokenised copy in" in capsys.readouterr().err
    assert tokens(corpus, "valid") == ["a", "cat", "<eos>"]


def test_a_full_disk_of_the_data(folder, monkeypatch, capsys):
    """No cache there, nothing worse. NumPy's error of a short write has no number."""
    own, places = data._narrow, []

    def full(part, target, dtype):
        places.append(target)
        if folder in target.parents:
            raise OSError("809 requested and 512 written")
        own(part, target, dtype)
    monkeypatch.setattr(data, "_narrow", full)
    assert tokens(Corpus(folder), "valid") == ["a", "cat", "<eos>"]
    assert len(places) == 4
    assert "has no room (809 requested" in capsys.readouterr().err
    assert list((folder / CACHE).iterdir()) == []


def test_no_place_for_the_cache(folder, capsys):
    (folder / CACHE).write_text("in the way")
    assert tokens(Corpus(folder), "valid") == ["a", "cat", "<eos>"]
    assert "tokenised copy in" in capsys.readouterr().err
    assert (folder / CACHE).read_text() == "in the way"


PROGRAM = """
import sys
from awd_lstm.data import Corpus
print("ready", flush=True)
sys.stdin.readline()
corpus = Corpus(sys.argv[1])
print(int(corpus.train.sum()), len(corpus.dictionary))
"""


def test_two_processes_at_once(tmp_path):
    """Both get the right ids; one cache is left, nothing else."""
    text = "\n".join(f"w{i % 3001} w{i % 7}" for i in range(30_000))
    folder = write(tmp_path / "texts", train=text)
    both = [subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], cwd=ROOT, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    corpus = Corpus(folder)
    assert corpus.cached
    assert answers == [f"{int(corpus.train.sum())} {len(corpus.dictionary)}\n"] * 2
    assert len(list((folder / CACHE).iterdir())) == 1


@pytest.mark.parametrize("names", ["wiki.{}.tokens", "ptb.{}.txt"])
def test_texts_under_their_published_names(folder, names):
    """The same corpus, and for a resumed run the same texts."""
    first = Corpus(folder)
    for split in SPLITS:
        (folder / f"{split}.txt").rename(folder / names.format(split))
    again = Corpus(folder)
    assert again.digests == first.digests
    assert again.dictionary.idx2word == first.dictionary.idx2word
    assert again.texts["train"].name == names.format("train")


def test_in_words_of_another_vocabulary(folder):
    own = Corpus(folder)
    words = ["<unk>", *reversed(own.dictionary.idx2word[2:])]  # two words less
    seen = own.in_words_of(Dictionary(words))
    gone = own.dictionary.idx2word[:2]
    assert seen.unknown == {word: own.dictionary.counter[i] for i, word in enumerate(gone)}
    for split in SPLITS:
        expected = ["<unk>" if own.dictionary.idx2word[i] in gone else own.dictionary.idx2word[i]
                    for i in getattr(own, split)]
        assert [words[i] for i in getattr(seen, split)] == expected
    assert seen.dictionary.total == own.dictionary.total
    with pytest.raises(UnknownWords, match=gone[0]):
        own.in_words_of(Dictionary(words[1:]))
