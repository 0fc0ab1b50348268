"""Files: written whole or not at all, any damage noticed, no code of theirs ever run."""

import errno
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch

from trellisnet import files

CONTENT = {"format": "x", "tensor": torch.arange(7.0), "plain": [1, 2.5, "three", None]}
RECORDED = Path(__file__).resolve().parents[1] / "golden/cases/trellisnet/e2e"


def same(a, b):
    return (a.keys() == b.keys() and torch.equal(a["tensor"], b["tensor"])
            and a["plain"] == b["plain"])


# ----------------------------------------------------------------------------------------- writing
def test_anyone_can_read_it(tmp_path):
    """The checksum is an ordinary zip comment: torch.load and zipfile take the file as it is."""
    path = tmp_path / "a.pt"
    files.write(path, CONTENT)
    assert same(files.read(path), CONTENT)
    assert same(torch.load(path, weights_only=True), CONTENT)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert len(archive.comment) == 64
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("failing", ["save", "fsync", "replace"])
def test_failure_leaves_the_old_file(tmp_path, monkeypatch, failing):
    """Wherever writing is interrupted the old file stays, and nothing half-made beside it."""
    path = tmp_path / "a.pt"
    files.write(path, CONTENT)
    before = path.read_bytes()

    def fail(*_):
        raise KeyboardInterrupt

    def half(content, file):
        file.write(before[:100])
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(*{"save": (torch, "save", half), "fsync": (os, "fsync", fail),
                        "replace": (files.Path, "replace", fail)}[failing])
        with pytest.raises(KeyboardInterrupt):
            files.write(path, {"other": 1})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk(tmp_path):
    """The error names the file; the old one stays."""
    path = tmp_path / "a.pt"
    files.write(path, CONTENT)
    (tmp_path / ".a.pt.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.pt'") as caught:
        files.write(path, {"large": torch.zeros(100_000)})
    assert caught.value.errno == errno.ENOSPC
    assert same(files.read(path), CONTENT)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_what_a_killed_process_left_does_not_matter(tmp_path):
    (tmp_path / ".a.pt.part").write_bytes(b"x" * 100_000)
    files.write(tmp_path / "a.pt", CONTENT)
    assert same(files.read(tmp_path / "a.pt"), CONTENT)


def test_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    order = []
    for module, name in ((os, "fsync"), (files.Path, "replace")):
        own = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, own=own, name=name: (
            order.append(name), own(*a))[1])
    files.write(tmp_path / "a.pt", CONTENT)
    assert order == ["fsync", "replace"]


def test_set_aside(tmp_path):
    path = tmp_path / "m.pt"
    assert files.set_aside(path) is None
    names = []
    for text in "abc":
        path.write_text(text)
        names.append(files.set_aside(path).name)
        assert not path.exists()
    assert names == ["m.old.pt", "m.old2.pt", "m.old3.pt"]
    assert [(tmp_path / name).read_text() for name in names] == ["a", "b", "c"]


# ------------------------------------------------------------------------------------------ damage
@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.pt"
    files.write(path, CONTENT)
    return path.read_bytes()


def assert_refused(tmp_path, content):
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.pt") as caught:
        files.read(path)
    assert "\n" not in str(caught.value)


def test_every_truncation_is_noticed(tmp_path, good):
    """All lengths that cut the checksum or the zip's directory short, and some of the others."""
    lengths = {*range(len(good) - 200, len(good)), *range(0, len(good), 37), 0, 1, 4, 21, 22}
    for length in lengths:
        assert_refused(tmp_path, good[:length])


@pytest.mark.parametrize("extra", [b"\0", b"PK\x05\x06" + bytes(18), b"0" * 64],
                         ids=["zero", "end-record", "digits"])
def test_what_was_added_is_noticed(tmp_path, good, extra):
    assert_refused(tmp_path, good + extra)


@pytest.mark.parametrize("group", range(4))
def test_every_flipped_bit_is_noticed(tmp_path, good, group):
    """All bits of the first four and the last 86 bytes (the zip's end, the checksum), and 160
    random ones."""
    rng = random.Random(group)
    bits = 8 * len(good)
    ends = [*range(32), *range(bits - 8 * 86, bits)]
    for place in ends[group::4] + [rng.randrange(bits) for _ in range(40)]:
        flipped = bytearray(good)
        flipped[place // 8] ^= 1 << place % 8
        assert_refused(tmp_path, bytes(flipped))


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04", b"text\n" * 50,
                                     b"PK\x05\x06" + bytes(18)])
def test_no_checkpoint_at_all(tmp_path, content):
    assert_refused(tmp_path, content)


def test_missing_and_other_kinds(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*x\.pt"):
        files.read(tmp_path / "x.pt")
    with pytest.raises(FileNotFoundError):
        files.read(tmp_path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt holds a list"):
        files.read(tmp_path / "list.pt")


# ---------------------------------------------------------------------------------- files of others
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_plain_files_of_torch_pass(tmp_path, zipped):
    """They have no checksum."""
    torch.save(CONTENT, tmp_path / "theirs.pt", _use_new_zipfile_serialization=zipped)
    assert same(files.read(tmp_path / "theirs.pt"), CONTENT)


@pytest.mark.parametrize("name", ["word_plain", "word_plain_cuda_zip", "word_plain_cuda_legacy"])
def test_the_originals_files_pass(name):
    assert "encoder.weight" in files.read(RECORDED / f"{name}.pkl")


class Hostile:
    """Unpickled with trust, it would make a file."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return Path.touch, (Path(self.canary),)


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
def test_code_in_a_file_is_not_run(tmp_path, how):
    canary, path = tmp_path / "canary", tmp_path / "hostile.pt"
    content = {"model": Hostile(canary)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(ValueError, match=r"hostile\.pt"):
        files.read(path)
    assert not canary.exists()
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert canary.exists()  # it would have


def test_a_whole_pickled_model_is_refused_with_the_way_out(tmp_path):
    """As the original's .pt files are."""
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=r"whole pickled model.*--load_weight NEW"):
        files.read(tmp_path / "whole.pt")
