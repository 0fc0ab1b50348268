"""The Long Range Arena's tasks: files, vocabulary, cache, splits, batches, refusals."""

import argparse
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from getdata.embedded.long_range_arena import aan_small
from tnn.lra import data
from tnn.lra.args import add_data_flags, parse_args
from tnn.lra.data import load_task
from tnn.lra.tasks import imdb as imdb_task
from tnn.lra.tasks import tables, texts

ROOT = Path(data.__file__).resolve().parents[2]


def flags(*given):
    parser = argparse.ArgumentParser()
    add_data_flags(parser)
    return parser.parse_args(given)


def spelled(task, ids):
    return [task.itos[i] for i in ids]


# ----------------------------------------------------------------------------------- listops
TREES = {"train": ["[MAX 1 2 ]", "( ( ( [MIN 3 ) 3 ) ] )"], "val": ["[SM 3 9 ]"], "test": ["7"]}


@pytest.fixture
def listops(tmp_path):
    folder = tmp_path / "listops"
    folder.mkdir()
    for split, trees in TREES.items():
        lines = ["Source\tTarget", *(f"{tree}\t{i}" for i, tree in enumerate(trees))]
        (folder / f"basic_{split}.tsv").write_text("\r\n".join(lines) + "\r\n", newline="")
    return folder


def test_listops(listops):
    """Specials, then tokens by falling count in train, ties by code point; ] is called X."""
    task = load_task("listops", listops.parent, flags())
    assert task.itos == ["<pad>", "<unk>", "<eos>", "3", "X", "1", "2", "[MAX", "[MIN"]
    assert (task.vocab_size, task.d_input, task.classes, task.l_max) == (9, None, 10, 2048)
    assert spelled(task, task.train[1][0]) == ["[MIN", "3", "3", "X", "<eos>"]
    assert spelled(task, task.val[0][0]) == ["<unk>", "3", "<unk>", "X", "<eos>"]
    assert [len(part) for part in (task.train, task.val, task.test)] == [2, 1, 1]


def test_a_batch_is_padded_to_its_longest_text(listops):
    task = load_task("listops", listops.parent, flags())
    loader = DataLoader(task.train, 2, collate_fn=task.collate)
    x, y, lengths = next(iter(loader))
    assert x.tolist() == [[7, 5, 6, 4, 2], [8, 3, 3, 4, 2]]
    x, y, lengths = task.collate([task.test[0], task.train[0]])
    assert x.tolist() == [[1, 2, 0, 0, 0], [7, 5, 6, 4, 2]]
    assert (y.tolist(), lengths.tolist()) == ([0, 0], [2, 5])
    assert x.dtype == y.dtype == lengths.dtype == torch.int64


def test_long_texts_are_cut_before_the_vocabulary_is_made(listops):
    task = load_task("listops", listops.parent, flags("--l-max", "3"))
    assert task.itos[3:] == ["1", "3", "[MAX", "[MIN"]
    assert spelled(task, task.train[0][0]) == ["[MAX", "1", "<eos>"]


def test_min_freq(listops):
    task = load_task("listops", listops.parent, flags("--min-freq", "2"))
    assert task.itos[3:] == ["3", "X"]


def test_limits_take_the_same_samples_every_time(listops):
    task = load_task("listops", listops.parent, flags("--train-limit", "1", "--eval-limit", "9"))
    assert (len(task.train), len(task.val)) == (1, 1)
    again = load_task("listops", listops.parent, flags("--train-limit", "1"))
    assert torch.equal(task.train[0][0], again.train[0][0])


def test_each_file_is_known_by_its_content(listops):
    """Of the reviews' 50,000 files the folder as a whole."""
    before = load_task("listops", listops.parent, flags()).inputs
    assert set(before) == {f"basic_{split}.tsv" for split in ("train", "val", "test")}
    with (listops / "basic_val.tsv").open("a", newline="") as file:
        file.write("[MAX 2 2 ]\t2\r\n")
    after = load_task("listops", listops.parent, flags()).inputs
    assert {name for name in before if before[name] != after[name]} == {"basic_val.tsv"}


# ------------------------------------------------------------------------------------- cache
def caches(folder):
    return sorted(folder.glob(".tnn-lra-*.npz"))


def test_the_cache_is_read_and_keyed_by_files_and_options(listops, monkeypatch):
    first = load_task("listops", listops.parent, flags())
    assert len(caches(listops)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(texts, "encode_all", None)  # would fail if called
        again = load_task("listops", listops.parent, flags())
    assert again.itos == first.itos
    assert all(torch.equal(a[0], b[0]) and a[1] == b[1]
               for a, b in zip(map(first.train.__getitem__, range(2)),
                               map(again.train.__getitem__, range(2)), strict=True))
    for number, options in enumerate((["--l-max", "9"], ["--min-freq", "2"],
                                      ["--tsv-quoting", "none"]), 2):
        load_task("listops", listops.parent, flags(*options))
        assert len(caches(listops)) == number
    with (listops / "basic_test.tsv").open("a", newline="") as file:
        file.write("[MAX 2 2 ]\t2\r\n")
    assert len(load_task("listops", listops.parent, flags()).test) == 2


@pytest.mark.parametrize("damage", ["cut", "byte", "empty", "pickle"])
def test_a_damaged_cache_is_made_again(damage, listops, capsys):
    first = load_task("listops", listops.parent, flags())
    (cache,) = caches(listops)
    whole = cache.read_bytes()
    middle = whole.index(np.array([8, 3, 3, 4, 2], np.uint8).tobytes())
    evil = pickle.dumps({"ids0": [1]})
    cache.write_bytes({"cut": whole[:-30], "empty": b"", "pickle": evil,
                       "byte": whole[:middle] + b"\1" + whole[middle + 1:]}[damage])
    capsys.readouterr()
    again = load_task("listops", listops.parent, flags())
    assert "damaged cache" in capsys.readouterr().err
    assert torch.equal(again.train[1][0], first.train[1][0])
    assert cache.read_bytes() == whole


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder_means_no_cache(listops, capsys):
    listops.chmod(0o500)
    try:
        load_task("listops", listops.parent, flags())
    finally:
        listops.chmod(0o700)
    assert "no cache" in capsys.readouterr().err
    assert not caches(listops)


# --------------------------------------------------------------------------------------- aan
def write_aan(root, train, other="1.0\ta\tb\tx\ty\n"):
    folder = root / "aan"
    folder.mkdir()
    for split, body in (("train", train), ("eval", other), ("test", other)):
        (folder / f"new_aan_pairs.{split}.tsv").write_text(body)
    return root


def test_aan_pads_both_halves_to_one_width(tmp_path):
    """The original padded them apart and could not join different widths."""
    root = write_aan(tmp_path, "0.0\t1\t2\tabc\td\n1.0\t3\t4\te\tfghij\n")
    task = load_task("aan", root, flags())
    x, y, lengths = task.collate([task.train[0], task.train[1]])
    assert x.shape == (4, 6)
    assert lengths.tolist() == [4, 2, 2, 6]  # both first texts, then both second ones
    assert y.tolist() == [0, 1]
    assert spelled(task, x[2]) == ["d", "<eos>"] + 4 * ["<pad>"]


def test_quotes_are_read_as_pandas_reads_them_or_not_at_all(tmp_path):
    root = write_aan(tmp_path, '1.0\t1\t2\t"a\tb""c"d\n')
    with pytest.raises(ValueError, match=r"4 columns, not 5 \(--tsv-quoting none"):
        load_task("aan", root, flags())
    task = load_task("aan", root, flags("--tsv-quoting", "none"))
    assert spelled(task, task.train[0][0]) == ['"', "a", "<eos>"]
    assert spelled(task, task.train[0][1]) == [*'b""c"d', "<eos>"]


def test_a_quoted_field_may_hold_tabs_and_ends_of_lines(tmp_path):
    root = write_aan(tmp_path, '1.0\t1\t2\t"a\tb""\nc"d\tg"h\n')
    task = load_task("aan", root, flags())
    assert spelled(task, task.train[0][0]) == [*'a\tb"\ncd', "<eos>"]
    assert spelled(task, task.train[0][1]) == [*'g"h', "<eos>"]


def test_the_set_made_of_docstrings_has_the_form_of_aan(tmp_path):
    (tmp_path / "aan").mkdir()
    aan_small(tmp_path / "aan")
    task = load_task("aan", tmp_path, flags())
    assert [len(part) for part in (task.train, task.val, task.test)] == [2000, 200, 200]
    for part in (task.train, task.val, task.test):
        assert part.labels.float().mean() == 0.5
    first, second, _ = task.train[0]
    assert "".join(spelled(task, first[:2])) in ("b'", 'b"')
    assert min(len(first), len(second)) > 1500
    rows = {split: list(tables.tsv_rows(tmp_path / f"aan/new_aan_pairs.{split}.tsv", 5, "minimal"))
            for split in ("train", "eval", "test")}
    ids = {split: {name for row in found for name in row[1:3]} for split, found in rows.items()}
    assert ids["train"].isdisjoint(ids["eval"] | ids["test"])
    assert ids["eval"].isdisjoint(ids["test"])
    for label, one, two, _, _ in rows["train"]:
        modules = {name.rstrip("0123456789") for name in (one, two)}
        assert len(modules) == (1 if label == "1.0" else 2)
        assert one != two


# -------------------------------------------------------------------------------------- imdb
REVIEWS = {"train/neg/10_1.txt": "bad\u00e9", "train/neg/9_4.txt": "poor",
           "train/pos/0_8.txt": "ok", "train/pos/3_9.txt": "fine", "test/neg/0_2.txt": "bad",
           "test/pos/1_7.txt": "good", "train/unsup/0_0.txt": "zzz", "train/urls_pos.txt": "http"}


@pytest.fixture(params=["folder", "aclImdb_v1.tar.gz", "aclImdb_labelled.tar.xz"])
def imdb(request, tmp_path):
    if request.param == "folder":
        for name, body in REVIEWS.items():
            path = tmp_path / "imdb/aclImdb" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body, encoding="utf-8")
        return tmp_path
    folder = tmp_path / ("imdb" if "v1" in request.param else "imdb-labelled")
    folder.mkdir()
    with tarfile.open(folder / request.param, "w:" + request.param[-2:]) as archive:
        for name, body in reversed(REVIEWS.items()):
            info = tarfile.TarInfo(f"aclImdb/{name}")
            info.size = len(body.encode())
            archive.addfile(info, io.BytesIO(body.encode()))
    return tmp_path


def test_imdb_is_read_from_files_and_archives_alike(imdb, capsys):
    """Negative reviews first, by number; validation on the test set, with a warning."""
    task = load_task("imdb", imdb, flags("--min-freq", "1"))
    found = [("".join(spelled(task, ids[:-1])), label)
             for ids, label in map(task.train.__getitem__, range(len(task.train)))]
    assert found == [("poor", 0), ("bad\u00e9", 0), ("ok", 1), ("fine", 1)]
    assert (task.val is task.test, len(task.test)) == (True, 2)
    assert "validation is on the test set" in capsys.readouterr().err


def test_imdb_holds_out_training_reviews_on_request(imdb, capsys):
    task = load_task("imdb", imdb, flags("--min-freq", "1", "--val-split", "0.3"))
    assert [len(part) for part in (task.train, task.val, task.test)] == [2, 2, 2]
    assert not set(task.train.indices) & set(task.val.indices)
    assert "test set" not in capsys.readouterr().err


def test_the_split_of_imdb_is_the_draw_of_hugging_face():
    """train_test_split(test_size=0.1, seed=42): default_rng(42).permutation, test part first."""
    train, val = imdb_task.held_out(25_000, 0.1)
    order = np.random.default_rng(42).permutation(25_000)
    assert (val, train) == (order[:2500].tolist(), order[2500:].tolist())


def test_bytes_instead_of_characters(imdb):
    task = load_task("imdb", imdb, flags("--min-freq", "1", "--level", "byte"))
    assert spelled(task, task.train[1][0]) == [*"bad", "\u00c3", "\u00a9", "<eos>"]


def test_vocabularies_beyond_a_byte():
    vocabulary = texts.Vocabulary(map(chr, range(0x4E00, 0x4E00 + 300)))
    ids = vocabulary.encode("\u4e00\u4f2b?")
    assert (ids.tolist(), ids.dtype) == ([3, 302, 1], np.int16)
    assert vocabulary.encode(["\u4e00", "no"]).tolist() == [3, 1]


def test_counting_in_pieces_is_counting():
    found = ["abca", "", "\u00e9a", ["w", "w"]]
    assert texts.count_tokens(found, batch=2) == {"a": 3, "b": 1, "c": 1, "\u00e9": 1, "w": 2}


# ---------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(("task", "given", "kind", "message"), [
    ("listops", [], FileNotFoundError, "getdata.sh listops"),
    ("imdb", [], FileNotFoundError, "getdata.sh imdb"),
    ("aan", [], FileNotFoundError, "getdata.sh aan-small"),
    ("cifar", [], FileNotFoundError, "getdata.sh cifar10"),
    ("pathfinder", [], FileNotFoundError, "tnn/lra/tasks/pathfinder.py --resolution 32"),
    ("pathfinderx", [], FileNotFoundError, "tnn/lra/tasks/pathfinder.py --resolution 128"),
    ("cifar", ["--data-folder", "there"], FileNotFoundError, "cifar-10-batches-py"),
    ("imdb", ["--data-folder", "there"], FileNotFoundError, "aclImdb_v1.tar.gz"),
    ("listops", ["--data-folder", "there"], FileNotFoundError, "basic_train.tsv"),
    ("pathfinder", ["--data-folder", "there"], FileNotFoundError, "metadata")])
def test_what_cannot_be_read_is_one_line_that_says_what_to_do(task, given, kind, message, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(kind) as caught:
        load_task(task, tmp_path, flags(*given))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("task", "given", "message"), [
    ("chess", [], "invalid choice: 'chess'"),
    ("listops", ["--l-max", "1"], "--l-max must be at least 2"),
    ("listops", ["--min-freq", "0"], "--min-freq must be at least 1"),
    ("listops", ["--val-split", "0.1"], "only imdb"), ("imdb", ["--val-split", "1"], "--val-split"),
    ("cifar", ["--l-max", "9"], "always have 1024 pixels")])
def test_flags_that_do_not_fit_the_task(task, given, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(["--task", task, *given])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("body", "message"), [
    (b"Sauce\tTarget\r\n1\t1\r\n", "first line"), (b"Source\tTarget\r\n1\tx\r\n", "label 'x'"),
    (b"Source\tTarget\r\n1\t10\r\n", "label '10'"), (b"Source\tTarget\r\n1\r\n", "1 columns"),
    (b"Source\tTarget\r\n\xff\t1\r\n", "not UTF-8"), (b"Source\tTarget\r\n", "too small"),
    (b"", "first line")])
def test_damaged_listops_files_are_one_line(body, message, listops):
    (listops / "basic_train.tsv").write_bytes(body)
    with pytest.raises(ValueError, match=message) as caught:
        load_task("listops", listops.parent, flags())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", [b"no archive", b""])
def test_a_damaged_archive_of_reviews_is_one_line(body, tmp_path):
    (tmp_path / "imdb").mkdir()
    (tmp_path / "imdb/aclImdb_v1.tar.gz").write_bytes(body)
    with pytest.raises(ValueError, match=r"aclImdb_v1.tar.gz is damaged .*getdata.sh imdb"):
        load_task("imdb", tmp_path, flags())


def test_a_damaged_review_is_named(tmp_path):
    for split in ("train", "test"):
        path = tmp_path / f"imdb/aclImdb/{split}/pos/7_9.txt"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"good \xff" if split == "test" else b"good")
    with pytest.raises(ValueError, match=r"test/pos/7_9\.txt: 'utf-8' codec can't decode"):
        load_task("imdb", tmp_path, flags())


def test_small_sets_are_said_to_be_incomparable(listops, capsys):
    load_task("listops", listops.parent, flags())
    assert "not comparable with the Long Range Arena" in capsys.readouterr().err


# ---------------------------------------------------------------------------------- real data
@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "tnn/lra/data/imdb-labelled").exists(),
                    reason="no reviews: ./getdata.sh imdb-labelled fetches them")
def test_the_real_reviews():
    task = load_task("imdb", ROOT / "tnn/lra/data", flags())
    assert (len(task.train), len(task.test)) == (25_000, 25_000)
    assert 130 <= task.vocab_size <= 140  # 135 by the original's comment
    assert int(task.train.labels.sum()) == int(task.test.labels.sum()) == 12_500
