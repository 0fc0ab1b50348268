"""The data sets themselves: those built on the spot, and the real ones where ../shared/data is."""

import hashlib
import json
import lzma
import os
import subprocess
import sys

import numpy
import pytest

from getdata import enwik8
from getdata.embedded import digits, pydoc_text
from getdata.settings import ROOT
from tests.getdata.place import REAL_MIRROR

# ------------------------------------------------------------------------------------------------
# Real data


PUBLISHED = {  # data/README.md of the mirror: md5, and lines where it is text
    "penn/train.txt": ("f26c4b92c5fdc7b3f8c7cdcb991d8420", 42_068),
    "penn/valid.txt": ("aa0affc06ff7c36e977d7cd49e3839bf", 3_370),
    "penn/test.txt": ("8b80168b89c18661a38ef683c0dc3721", 3_761),
    "pennchar/train.txt": ("874909f99060142f6b88cc74c34baaa2", 42_068),
    "pennchar/valid.txt": ("9e0fe5bec2a8bf43fd686dc23d5ab8bb", 3_370),
    "pennchar/test.txt": ("1f9a2d1afe00f76e8bfbe09a65439681", 3_761),
    "wikitext-2/train.txt": ("34a77ebe59551b3a3b3d8c0a2797c976", 36_718),
    "wikitext-2/valid.txt": ("d756d22ab2310e7e60c094bea5c5a8eb", 3_760),
    "wikitext-2/test.txt": ("781c9418ab9414bd09e4aad825aae752", 4_358),
    "mnist/MNIST/raw/train-images-idx3-ubyte": ("6bbc9ace898e44ae57da46a324031adb", None),
    "mnist/MNIST/raw/train-labels-idx1-ubyte": ("a25bea736e30d166cdddb491f175f624", None),
    "mnist/MNIST/raw/t10k-images-idx3-ubyte": ("2646ac647ad5339dbf082846283269ea", None),
    "mnist/MNIST/raw/t10k-labels-idx1-ubyte": ("27ae3e4e09519cfbb04c329615203637", None),
}


@pytest.mark.skipif(not REAL_MIRROR.is_dir(), reason="no folder ../shared/data with real data")
def test_the_real_mirror_gives_the_published_files(tmp_path):
    names = ["ptb", "ptbc", "wt2", "mnist", "gpt2-bpe", "pos", "enwik8-100k", "listops-d20"]
    env = os.environ | {"DATA_MIRROR": "../shared/data", "DATA_DIR": str(tmp_path)}
    run = subprocess.run(
        [str(ROOT / "getdata.sh"), *names], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")
    for name, (md5, lines) in PUBLISHED.items():
        body = (tmp_path / name).read_bytes()
        assert hashlib.md5(body).hexdigest() == md5, name
        assert lines in (None, body.count(b"\n")), name
    conll = (tmp_path / "pos/conll2000/train.txt").read_text().split("\n\n")
    assert len([sentence for sentence in conll if sentence.strip()]) == 8_936
    assert len((tmp_path / "gpt2-bpe/dict.txt").read_text().splitlines()) == 50_260
    assert (tmp_path / "pos/ud-ewt/en-ud-dev.ppos.tsv").stat().st_size == 213_179
    assert (tmp_path / "enwik8-100k/valid.txt.raw").stat().st_size == 5_000
    torchvision = pytest.importorskip("torchvision")
    assert len(torchvision.datasets.MNIST(tmp_path / "mnist", download=False)) == 60_000


# ------------------------------------------------------------------------------------------------
# Built on the spot


@pytest.fixture(scope="module")
def pydoc(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pydoc")
    pydoc_text.pydoc(folder)
    return {split: (folder / f"{split}.txt").read_text() for split in pydoc_text.SPLITS}


def test_pydoc_looks_like_ptb(pydoc):
    for text in pydoc.values():
        lines = text.splitlines()
        assert len(lines) > 300
        assert all(line.startswith(" ") and line.endswith(" ") and line.strip() for line in lines)
        words = set(text.split())
        assert words - {"N"} == {word.lower() for word in words - {"N"}}
        assert not any(word.isdigit() for word in words)
    words = {split: text.split() for split, text in pydoc.items()}
    assert 4_000 < len(set(words["train"])) < 12_000
    assert 200_000 < len(words["train"]) < 600_000
    assert set(words["valid"]) | set(words["test"]) <= set(words["train"]) | {"<unk>"}
    for split in ("valid", "test"):
        assert 0.04 < len(words[split]) / len(words["train"]) < 0.09


def test_pydoc_does_not_depend_on_the_hash_seed(pydoc):
    code = ("import json; from getdata.embedded.pydoc_text import pydoc_lines;"
            "print(json.dumps(pydoc_lines()))")
    env = os.environ | {"PYTHONHASHSEED": "7"}
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True)
    lines = json.loads(out.stdout)
    assert {s: "".join(f" {line} \n" for line in lines[s]) for s in lines} == pydoc


def test_characters_are_written_as_mikolov_did():
    assert pydoc_text.to_characters([" a cd ", "N"]) == "a _ c d \n N \n "


@pytest.mark.skipif(not REAL_MIRROR.is_dir(), reason="no folder ../shared/data with real data")
def test_characters_agree_with_the_published_file():
    words = (REAL_MIRROR / "ptb/ptb.valid.txt").read_text().splitlines()
    with lzma.open(REAL_MIRROR / "ptb-char/ptb.char.valid.txt.xz", "rt", newline="") as file:
        assert pydoc_text.to_characters(words) == file.read()


def test_digits_are_the_same_every_time(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        digits.digits(tmp_path / name)
    one, two = ((tmp_path / name / "digits.npz").read_bytes() for name in "ab")
    assert one == two
    with numpy.load(tmp_path / "a/digits.npz") as data:
        assert data["train_images"].shape == (1437, 8, 8)
        assert data["test_images"].shape == (360, 8, 8)
        assert data["train_images"].max() == 16
        assert sorted(set(data["test_labels"].tolist())) == list(range(10))


def test_enwik8_is_prepared_as_the_original_did(tmp_path, monkeypatch):
    monkeypatch.setattr(enwik8, "BLOCK", 7)  # blocks must not show
    body = b"<mediawiki>\n\n  caf\xc3\xa9\n" * 50
    (tmp_path / "enwik8").write_bytes(body)
    enwik8.enwik8(tmp_path)
    n = len(body) // 20
    parts = {"train": body[: -2 * n], "valid": body[-2 * n : -n], "test": body[-n:]}
    for split, part in parts.items():
        text = " ".join("\n" if byte == 10 else str(byte) for byte in part)
        assert (tmp_path / f"{split}.txt").read_text() == text
        assert (tmp_path / f"{split}.txt.raw").read_bytes() == part
    assert not (tmp_path / "enwik8").exists()
