"""ListOps: trees, their value, and the files of the generator."""

import csv
import lzma
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tnn.lra.tasks import listops

ROOT = Path(listops.__file__).resolve().parents[3]
REAL = ROOT.parent / "shared/data/listops/test_d20s.tsv.xz"
FETCHED = ROOT / "data/listops-d20/test_d20s.tsv"


def run(out, *flags, **options):
    command = [sys.executable, str(ROOT / "tnn/lra/tasks/listops.py"), "--out", str(out), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


# ------------------------------------------------------------------------------------- values
@pytest.mark.parametrize(("text", "value"), [
    ("7", 7), ("[MAX 2 9 ]", 9), ("( ( ( [MIN 3 ) 1 ) ] )", 1), ("[SM 9 9 9 ]", 7),
    ("[MED 1 2 ]", 1), ("[MED 3 4 8 9 ]", 6), ("[MED 5 1 9 ]", 5),
    ("( ( ( [MAX 2 ) ( ( ( [SM 8 ) 5 ) ] ) ) ] )", 3), ("((([MAX 2)7)])", 7)])
def test_value(text, value):
    """MED of an even number is cut to an integer."""
    assert listops.evaluate(text) == value


@pytest.mark.parametrize("text", ["", "( )", "[MAX ]", "[MAX 1", "1 ]", "1 2", "[SUM 1 ]", "12",
                                  "[MAX 1 ] ]", "\u0663"])
def test_what_is_no_tree_is_refused(text):
    with pytest.raises(ValueError, match="ListOps tree"):
        listops.evaluate(text)


def test_the_labels_of_the_original_listops_are_recomputed():
    """10,000 trees by Nangia and Bowman's own generator."""
    if FETCHED.is_file():
        text = FETCHED.read_text()
    elif REAL.is_file():
        text = lzma.decompress(REAL.read_bytes()).decode()
    else:
        pytest.skip("no test_d20s.tsv: ./getdata.sh listops-d20 fetches it")
    samples = [line.split("\t") for line in text.splitlines()]
    assert len(samples) == 10_000
    assert [listops.evaluate(tree) for _, tree in samples] == [int(label) for label, _ in samples]


def test_a_byte_order_mark_is_no_part_of_a_table(tmp_path):
    path = tmp_path / "basic_train.tsv"
    path.write_bytes(b"\xef\xbb\xbfSource\tTarget\r\n[MAX 1 2 ]\t2\r\n")
    assert list(listops.read_rows(path, "minimal")) == [(("[MAX 1 2 ]",), 2)]


# -------------------------------------------------------------------------------------- trees
def test_a_drawn_tree_has_the_value_and_length_it_says():
    rng = random.Random(3)
    drawn = [listops.draw_tree(rng, max_depth=6, max_args=4) for _ in range(500)]
    for text, value, length in drawn:
        assert listops.evaluate(text) == value
        assert length == len([token for token in text.split() if token not in "()"])
        assert text.count("(") == text.count(")")
        depth = deepest = 0
        for token in text.split():
            depth += (token in listops.OPERATORS) - (token == "]")
            deepest = max(deepest, depth)
        assert deepest <= 5  # lists at depths 1 to 5, digits alone at 6
    assert 0.2 < sum(length > 1 for *_, length in drawn) / 500 < 0.3


def test_written_form():
    assert listops.written("[MAX", ("3", "0")) == "( ( ( [MAX 3 ) 0 ) ] )"


# -------------------------------------------------------------------------------------- files
def test_files_are_those_of_the_release_whatever_the_number_of_processes(tmp_path):
    flags = ["--train", "60", "--val", "10", "--test", "10"]
    for workers in "13":
        done = run(tmp_path / workers, *flags, "--workers", workers)
        assert (done.returncode, done.stderr) == (0, "")
    for split, size in (("train", 60), ("val", 10), ("test", 10)):
        body = (tmp_path / f"1/basic_{split}.tsv").read_bytes()
        assert body == (tmp_path / f"3/basic_{split}.tsv").read_bytes()
        assert body.count(b"\r\n") == body.count(b"\n") == size + 1
    found = [rows(tmp_path / f"1/basic_{split}.tsv") for split in ("train", "val", "test")]
    assert all(part[0] == ["Source", "Target"] for part in found)
    samples = [row for part in found for row in part[1:]]
    assert len({source for source, _ in samples}) == 80
    assert all(listops.evaluate(source) == int(target) for source, target in samples)
    lengths = [len(source.replace("(", "").replace(")", "").split()) for source, _ in samples]
    assert all(500 < length < 2000 for length in lengths)
    assert len(Counter(target for _, target in samples)) > 6
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == [
        "basic_test.tsv", "basic_train.tsv", "basic_val.tsv"]


def test_another_seed_gives_other_trees_and_no_tree_comes_twice(tmp_path):
    """Of the few trees this small, most are drawn again and again."""
    flags = ["--train", "300", "--val", "5", "--test", "5", "--min-length", "2",
             "--max-length", "7", "--max-depth", "2", "--max-args", "4"]
    for seed in "01":
        assert run(tmp_path / seed, *flags, "--seed", seed, "--workers", "1").returncode == 0
    one, two = ([source for source, _ in rows(tmp_path / seed / "basic_train.tsv")[1:]]
                for seed in "01")
    assert one != two
    assert len(set(one)) == 300


@pytest.mark.parametrize(("flags", "message"), [
    (["--train", "0"], "--train must be at least 1"), (["--max-args", "1"], "--max-args"),
    (["--workers", "0"], "--workers"),
    (["--min-length", "7", "--max-length", "8"], "no further tree")])
def test_settings_that_cannot_be_met_are_one_line(flags, message, tmp_path):
    done = run(tmp_path / "out", "--workers", "1", "--max-depth", "1", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
    assert not list(tmp_path.glob("out/*"))


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file/out")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(("signum", "code"), [
    (signal.SIGINT, 130), (signal.SIGTERM, 143),
    pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow)])
def test_interrupted_it_leaves_no_file(signum, code, tmp_path):
    command = [sys.executable, str(ROOT / "tnn/lra/tasks/listops.py"), "--out", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".*.part")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signum)
        process.communicate(timeout=60)
    assert process.returncode == code
    assert list(tmp_path.iterdir()) == []
