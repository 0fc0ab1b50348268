"""Files: written whole or not at all, and read as they were written."""

import errno
import os
import zipfile

import pytest
import torch

from awd_lstm import checkpoint
from tests.awd_lstm.small import same, small_model

CONTENT = {"format": "x", "tensor": torch.arange(7.0), "plain": [1, 2.5, "three", None, (4,)]}


# ----------------------------------------------------------------------------------------- writing
def test_round_trip(tmp_path):
    checkpoint.write(tmp_path / "a.pt", CONTENT)
    assert same(checkpoint.read(tmp_path / "a.pt"), CONTENT)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_anyone_can_read_it(tmp_path):
    """The checksum is an ordinary zip comment: torch.load and zipfile take the file as it is."""
    path = tmp_path / "a.pt"
    checkpoint.write(path, CONTENT)
    assert same(torch.load(path, weights_only=True), CONTENT)
    assert same(torch.load(path, weights_only=True, mmap=True), CONTENT)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"sha256 ")


@pytest.mark.parametrize("failing", ["save", "fsync", "replace"])
def test_failure_leaves_the_old_file(tmp_path, monkeypatch, failing):
    """Wherever writing is interrupted the old file stays, and nothing half-made beside it."""
    path = tmp_path / "a.pt"
    checkpoint.write(path, CONTENT)
    before = path.read_bytes()

    def fail(*_):
        raise KeyboardInterrupt

    def half(content, file):
        file.write(before[:100])
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(*{"save": (torch, "save", half), "fsync": (os, "fsync", fail),
                        "replace": (checkpoint.Path, "replace", fail)}[failing])
        with pytest.raises(KeyboardInterrupt):
            checkpoint.write(path, {"other": 1})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk(tmp_path):
    """The error names the file; the old one stays."""
    path = tmp_path / "a.pt"
    checkpoint.write(path, CONTENT)
    (tmp_path / ".a.pt.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.pt'") as caught:
        checkpoint.write(path, {"large": torch.zeros(100_000)})
    assert caught.value.errno == errno.ENOSPC
    assert same(checkpoint.read(path), CONTENT)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_written_to_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    order = []
    for module, name in ((os, "fsync"), (checkpoint.Path, "replace")):
        own = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, own=own, name=name: (
            order.append(name), own(*a))[1])
    checkpoint.write(tmp_path / "a.pt", CONTENT)
    assert order == ["fsync", "replace"]


@pytest.mark.parametrize("keep", [False, True], ids=["move", "keep"])
def test_set_aside(tmp_path, keep):
    path = tmp_path / "m.pt"
    assert checkpoint.set_aside(path, "old", keep) is None
    names = []
    for text in "abc":
        path.unlink(missing_ok=True)
        path.write_text(text)
        names.append(checkpoint.set_aside(path, "old", keep).name)
        assert path.exists() == keep
    assert names == ["m.old.pt", "m.old2.pt", "m.old3.pt"]
    assert [(tmp_path / name).read_text() for name in names] == ["a", "b", "c"]


def test_set_aside_twice_keeps_one(tmp_path):
    """finetune.py started again before it improved on anything."""
    path = tmp_path / "m.pt"
    path.write_text("a")
    assert {checkpoint.set_aside(path, "main", keep=True).name for _ in range(3)} == {"m.main.pt"}


def test_set_aside_survives_the_replacement(tmp_path):
    path = tmp_path / "m.pt"
    checkpoint.write(path, {"a": 1})
    aside = checkpoint.set_aside(path, "main", keep=True)
    checkpoint.write(path, {"a": 2})
    assert (checkpoint.read(aside), checkpoint.read(path)) == ({"a": 1}, {"a": 2})


# ------------------------------------------------------------------------------------------ models
@pytest.mark.parametrize("splits", [(), (5, 20)], ids=["plain", "splits"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "QRNN"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_model_round_trip(tmp_path, kind, splits, tied):
    model, criterion = small_model(splits=[] if not tied else splits, rnn_type=kind,
                                   tie_weights=tied)
    path = tmp_path / "m.pt"
    checkpoint.save_model(path, model, criterion, {"lr": 30}, "digest", epoch=4)
    again, again_criterion, facts = checkpoint.load_model(path)
    assert same(dict(again.state_dict()), dict(model.state_dict()))
    assert same(dict(again_criterion.state_dict()), dict(criterion.state_dict()))
    assert checkpoint.config_of(again) == checkpoint.config_of(model)
    assert again_criterion.splits == criterion.splits
    assert (facts["epoch"], facts["args"], facts["vocabulary"]) == (4, {"lr": 30}, "digest")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wdrop", [0, 0.5])
def test_originals_state_dict(tmp_path, zipped, wdrop):
    """No checksum, no sizes, either format of torch.save."""
    model, _ = small_model(wdrop=wdrop)
    path = tmp_path / "original.pt"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
    again, criterion, facts = checkpoint.load_model(path)
    assert same(dict(again.state_dict()),  # without weight drop the recurrent matrix is not _raw
                {key.replace(".module.", ".").removesuffix("_raw"): value
                 for key, value in model.state_dict().items()})
    assert (facts, criterion.splits) == ({}, [])
    assert {again.dropout, again.dropouth, again.dropouti, again.dropoute, again.wdrop} == {0}
    hot, _, _ = checkpoint.load_model(path, {"wdrop": 0.5, "dropout": 0.1})
    assert (hot.wdrop, hot.dropout, hot.dropouth) == (0.5, 0.1, 0)


def test_a_state_dict_that_lacks_a_layer(tmp_path):
    model, _ = small_model()
    state = dict(model.state_dict())
    del state["rnns.1.module.bias_ih_l0"]
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"m\.pt does not fit .*rnns\.1.*bias_ih_l0"):
        checkpoint.load_model(tmp_path / "m.pt")
