"""prepare_lm_data.sh: the result is fairseq's own, and nothing of the user's is lost on the way."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fairseq", reason="fairseq's wheel is not installed")

from fairseq import options
from fairseq.examples.roberta import multiprocessing_bpe_encoder
from fairseq_cli import preprocess

from harness.endings import SIGNALS
from tnn.lm import prepare_text

ROOT = Path(__file__).resolve().parents[3]
SHARED_BPE = ROOT / "../shared/data/gpt2-bpe"


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for split, lines in (("train", 40), ("valid", 5), ("test", 5)):
        (folder / f"{split}.txt").write_text("".join(
            f"caf\u00e9 number {i % 7} is open \n\n" for i in range(lines)), encoding="utf-8")
    return folder


@pytest.fixture
def prepare(capsys):
    """Runs the script in this process; its last line of output or complaint."""
    def run(*arguments, bpe="none", code=0):
        argv = [*map(str, arguments), "--bpe", str(bpe), "--workers", "1"]
        if code:
            with pytest.raises(SystemExit) as stop:
                prepare_text.main(argv)
            assert stop.value.code == code
        else:
            prepare_text.main(argv)
        said = capsys.readouterr()
        return (said.err if code else said.out).strip().splitlines()[-1]
    yield run
    logging.disable(logging.NOTSET)


def contents(folder: Path) -> dict:
    return {path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}


def by_fairseq(text: Path, out: Path, *more) -> None:
    """The same by fairseq's own command."""
    parser = options.get_preprocessing_parser()
    preprocess.main(parser.parse_args(
        ["--only-source", "--trainpref", f"{text}/train", "--validpref", f"{text}/valid",
         "--testpref", f"{text}/test", "--destdir", str(out), "--workers", "1", *more]))


def assert_same_data(ours: Path, theirs: Path) -> None:
    for name in ("dict.txt", *(f"{split}.{end}" for split in ("train", "valid", "test")
                               for end in ("bin", "idx"))):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def test_words_are_those_of_fairseq(prepare, text, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for split in ("train", "valid", "test"):
        shutil.copy(text / f"{split}.txt", bare / split)
    assert prepare(text, tmp_path / "out") == f"prepared: {tmp_path / 'out'}"
    by_fairseq(bare, tmp_path / "theirs")
    assert_same_data(tmp_path / "out", tmp_path / "theirs")


@pytest.mark.skipif(not SHARED_BPE.is_dir(), reason="GPT-2's byte pairs are not at hand")
def test_byte_pairs_are_those_of_fairseq(prepare, text, tmp_path, monkeypatch):
    coded = tmp_path / "coded"
    coded.mkdir()
    for split in ("train", "valid", "test"):
        monkeypatch.setattr(sys, "argv", [
            "encoder", "--encoder-json", str(SHARED_BPE / "encoder.json"), "--vocab-bpe",
            str(SHARED_BPE / "vocab.bpe"), "--inputs", str(text / f"{split}.txt"), "--outputs",
            str(coded / split), "--keep-empty", "--workers", "1"])
        multiprocessing_bpe_encoder.main()
    prepare(text, tmp_path / "out", bpe=SHARED_BPE)
    by_fairseq(coded, tmp_path / "theirs", "--srcdict", str(SHARED_BPE / "dict.txt"))
    assert_same_data(tmp_path / "out", tmp_path / "theirs")


def test_a_trailing_slash_deletes_nothing(prepare, text, tmp_path):
    """As tab completion types it; a second time the first result is kept under another name."""
    prepare(f"{text}/", f"{tmp_path}/out/")
    first = contents(tmp_path / "out")
    prepare(f"{text}/", f"{tmp_path}/out/")
    assert contents(tmp_path / "out.old") == first == contents(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.old", "text"]


@pytest.mark.parametrize("out", ["text", "text/", "text/../text", "text/inside", "."])
def test_the_texts_are_not_written_over(prepare, text, tmp_path, out):
    before = contents(tmp_path)
    assert "must lie apart" in prepare(text, tmp_path / out, code=2)
    assert contents(tmp_path) == before


def test_a_link_to_the_texts_is_the_texts(prepare, text, tmp_path):
    (tmp_path / "link").symlink_to(text)
    assert "must lie apart" in prepare(text, tmp_path / "link", code=2)


def test_a_link_to_another_disk_stays(prepare, text, tmp_path):
    """Empty, filled, or leading to what is not there yet: the data lie behind it."""
    disk, link = tmp_path / "disk/data", tmp_path / "out"
    link.symlink_to(disk)
    prepare(text, link)
    before = contents(disk)
    prepare(text, f"{link}/")
    assert link.is_symlink()
    assert contents(disk) == before
    assert sorted(path.name for path in disk.parent.iterdir()) == ["data", "data.old"]


def test_a_place_where_nothing_can_be_made_is_named(prepare, text, tmp_path):
    (tmp_path / "file").write_text("mine")
    line = prepare(text, tmp_path / "file/out", code=2)
    assert line.startswith(f"prepare_lm_data.sh: {tmp_path}/file/out: ")


def test_a_folder_of_the_users_is_refused(prepare, text, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    assert "thesis.tex" in prepare(text, mine, code=2)
    assert contents(mine) == {Path("thesis.tex"): b"x"}


@pytest.mark.parametrize(("name", "content", "said"), [
    ("valid.txt", b"", "valid.txt is empty"), ("test.txt", b" \n\n", "test.txt is empty"),
    ("train.txt", "caf\u00e9".encode("latin-1") + b" x\n", "train.txt, line 1: not UTF-8"),
    ("valid.txt", "a\nb\n".encode("utf-16"), "valid.txt is not UTF-8 text but UTF-16"),
    ("test.txt", "a\nb\n".encode("utf-16-le"), "test.txt is not UTF-8 text but UTF-16"),
])
def test_a_bad_text_is_named_and_leaves_nothing(prepare, text, tmp_path, name, content, said):
    (text / name).write_bytes(content)
    before = contents(tmp_path)
    assert said in prepare(text, tmp_path / "out", code=2)
    assert contents(tmp_path) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
def test_a_signal_leaves_nothing_half_made(prepare, text, tmp_path, monkeypatch, signum):
    before = contents(tmp_path)
    monkeypatch.setattr(prepare_text, "dictionary_of",
                        lambda *_: os.kill(os.getpid(), signum) or time.sleep(5))
    handlers = {each: signal.getsignal(each) for each in SIGNALS}
    try:
        with pytest.raises(SystemExit) as stop:
            prepare_text.main([str(text), str(tmp_path / "out"), "--bpe", "none", "--workers", "1"])
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    assert stop.value.code == 128 + signum
    assert contents(tmp_path) == before
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()]


def test_a_dictionary_that_is_none(prepare, text, tmp_path):
    """Before fairseq is imported, which takes seconds, if it is no file at all."""
    (tmp_path / "dict.txt").write_bytes(b"one two three\n\xff")
    for given in ("nowhere.txt", str(tmp_path), str(tmp_path / "dict.txt")):
        assert given in prepare(text, tmp_path / "out", "--dict", given, code=2)
    assert not (tmp_path / "out").exists()


def test_a_byte_order_mark_is_no_word(prepare, text, tmp_path):
    path = text / "train.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    prepare(text, tmp_path / "out")
    assert "\ufeff" not in (tmp_path / "out/dict.txt").read_text(encoding="utf-8")


def test_the_place_has_a_default(prepare, text, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_text, "TNN", tmp_path / "tnn")
    prepare(text)
    assert (tmp_path / "tnn/data/data-bin/text/train.idx").is_file()


def test_the_shell_script_hands_on_arguments_and_exit_code(tmp_path):
    done = subprocess.run(["bash", str(ROOT / "tnn/prepare_lm_data.sh"), str(tmp_path / "none")],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"prepare_lm_data.sh: there is no folder {tmp_path / 'none'}\n"
