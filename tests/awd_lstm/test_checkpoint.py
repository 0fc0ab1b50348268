"""Files: written whole or not at all, any damage noticed, no code of theirs ever run."""

import builtins
import errno
import os
import pickle
import random
import shutil
import zipfile

import pytest
import torch

from awd_lstm import checkpoint, finetune, generate, main, pointer
from awd_lstm.data import Corpus
from awd_lstm.model import RNNModel
from common.splitcross import SplitCrossEntropyLoss
from tests.awd_lstm.small import SETTINGS, write_corpus

CONTENT = {"format": "x", "tensor": torch.arange(7.0), "plain": [1, 2.5, "three", None, (4,)]}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def small_model(seed=0, splits=(), **changes):
    torch.manual_seed(seed)
    config = {"rnn_type": "LSTM", "ntoken": 31, "ninp": 6, "nhid": 8, "nlayers": 2,
              "dropout": 0.1, "dropouth": 0.2, "dropouti": 0.3, "dropoute": 0.4, "wdrop": 0.5,
              "tie_weights": True} | changes
    criterion = SplitCrossEntropyLoss(config["ninp"], splits)
    for p in criterion.parameters():
        torch.nn.init.normal_(p)
    return RNNModel(**config), criterion


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


# ------------------------------------------------------------------------------------------ damage
@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.pt"
    model, criterion = small_model()
    checkpoint.save_model(path, model, criterion, {"lr": 30.0}, "digest")
    return path.read_bytes()


def assert_refused(tmp_path, content):
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.pt"):
        checkpoint.read(path)


@pytest.mark.parametrize("group", range(4))
def test_every_truncation_is_noticed(tmp_path, good, group):
    """64 lengths: random ones, and all those that cut the checksum short."""
    rng = random.Random(group)
    lengths = [rng.randrange(len(good)) for _ in range(12)]
    lengths += [[0, 1, 4, 21], [-1, -2, -22, -23], [-70, -71, -72, -93], [-94, -92, -100, 100]][
        group]
    for length in lengths:
        assert_refused(tmp_path, good[:length])


def test_truncated_and_padded(tmp_path, good):
    for extra in (b"\0", b"PK\x05\x06" + bytes(18), good[-71:]):
        assert_refused(tmp_path, good + extra)


@pytest.mark.parametrize("group", range(8))
def test_every_flipped_bit_is_noticed(tmp_path, good, group):
    """256 bits, some of them in the zip's header, in its end record and in the checksum itself."""
    rng = random.Random(group)
    places = [rng.randrange(8 * len(good)) for _ in range(20)]
    places += [rng.randrange(8 * 4) for _ in range(2)]
    places += [8 * len(good) - 1 - rng.randrange(8 * 93) for _ in range(10)]
    for place in places:
        flipped = bytearray(good)
        flipped[place // 8] ^= 1 << place % 8
        assert_refused(tmp_path, bytes(flipped))


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04", b"text\n" * 50])
def test_no_checkpoint_at_all(tmp_path, content):
    assert_refused(tmp_path, content)


def test_missing_and_other_kinds(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*x\.pt"):
        checkpoint.read(tmp_path / "x.pt")
    with pytest.raises(FileNotFoundError):
        checkpoint.read(tmp_path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt holds a list"):
        checkpoint.read(tmp_path / "list.pt")
    checkpoint.write(tmp_path / "x.pt", {"format": "of another toolkit"})
    with pytest.raises(ValueError, match=r"x\.pt is a 'of another toolkit'"):
        checkpoint.load_model(tmp_path / "x.pt")
    checkpoint.write(tmp_path / "y.pt", {"format": checkpoint.MODEL_FORMAT})
    with pytest.raises(ValueError, match=r"y\.pt does not fit"):
        checkpoint.load_model(tmp_path / "y.pt")


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


# ---------------------------------------------------------------------------------- hostile files
class Reduce:
    """Unpickling calls function(*arguments)."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def payloads(canary):
    """Contents that create the file `canary` if they are unpickled without care."""
    touch = f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": Reduce(os.system, f"touch {canary}"),
        "eval": Reduce(builtins.eval, touch),
        "exec": Reduce(builtins.exec, touch),
        "open": Reduce(builtins.open, str(canary), "w"),
        "shutil.copy": Reduce(shutil.copy, __file__, str(canary)),
        "pickle.loads": Reduce(pickle.loads, pickle.dumps(Reduce(builtins.exec, touch))),
        "hidden-in-a-state-dict": {"encoder.weight": torch.ones(2, 2),
                                   "x": Reduce(builtins.exec, touch)},
        "module": torch.nn.Linear(2, 2),
        "originals-list": [small_model()[0], torch.nn.Linear(2, 2), None],
    }


def write_hostile(path, payload, form):
    if form == "pickle":
        path.write_bytes(pickle.dumps(payload, protocol=2))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "zip")


FORMS = ["zip", "legacy", "pickle"]
PAYLOADS = list(payloads("x"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PAYLOADS)
def test_hostile_file_is_refused_unread(tmp_path, form, name):
    canary, path = tmp_path / "canary", tmp_path / "hostile.pt"
    write_hostile(path, payloads(canary)[name], form)
    with pytest.raises(ValueError, match=r"hostile\.pt is refused: it needs code .*state_dict"):
        checkpoint.read(path)
    assert not canary.exists()


def test_the_payloads_are_live(tmp_path):
    """Without care they do run: the tests above would notice."""
    for name in ("os.system", "eval", "exec", "open", "shutil.copy", "pickle.loads"):
        canary = tmp_path / name
        write_hostile(tmp_path / "hostile.pt", payloads(canary)[name], "zip")
        torch.load(tmp_path / "hostile.pt", weights_only=False)
        assert canary.exists(), name


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("hostile") / "texts")


def commands(texts, tmp_path, path):
    """Every way in for a file."""
    common = ["--data", str(texts), "--no-cuda"]
    train = [*SETTINGS.split(), *common, "--log-dir", str(tmp_path / "logs")]
    return {
        "main --resume": (main, [*train, "--save", str(tmp_path / "m.pt"), "--resume", str(path)]),
        "finetune --save": (finetune, [*train, "--save", str(path)]),
        "finetune --resume": (finetune, [*train, "--save", str(path), "--resume", str(path)]),
        "pointer --save": (pointer, [*common, "--save", str(path)]),
        "generate --checkpoint": (generate, [*common, "--checkpoint", str(path), "--outf",
                                             str(tmp_path / "out.txt")]),
    }


WAYS = list(commands("", checkpoint.Path(), ""))


def refused(texts, tmp_path, path, way, capsys):
    """Runs the command, which must end with exit code 2 and one line; returns the line."""
    script, argv = commands(texts, tmp_path, path)[way]
    with pytest.raises(SystemExit) as stop:
        script.main(argv)
    assert stop.value.code == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{script.__name__.split('.')[-1]}.py: {way.split()[1]}")
    assert not (tmp_path / "m.pt").exists()
    return line


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", WAYS)
def test_hostile_file_at_every_door(texts, tmp_path, capsys, way, form):
    canary, path = tmp_path / "canary", tmp_path / "hostile.pt"
    write_hostile(path, payloads(canary)["os.system"], form)
    before = path.read_bytes()
    line = refused(texts, tmp_path, path, way, capsys)
    assert "torch.save(torch.load(OLD)[0].state_dict(), NEW)" in line
    assert not canary.exists()
    assert path.read_bytes() == before


@pytest.mark.parametrize("way", WAYS)
def test_damaged_file_at_every_door(texts, tmp_path, capsys, way, good):
    path = tmp_path / "damaged.pt"
    path.write_bytes(good[:1000])
    assert "damaged.pt is damaged" in refused(texts, tmp_path, path, way, capsys)


@pytest.mark.parametrize("way", WAYS)
def test_missing_file_at_every_door(texts, tmp_path, capsys, way):
    assert "no checkpoint" in refused(texts, tmp_path, tmp_path / "none.pt", way, capsys)


def test_conversion_as_the_message_says(tmp_path):
    """In the environment that made it: torch.save(torch.load(OLD)[0].state_dict(), NEW)."""
    old, new = tmp_path / "old.pt", tmp_path / "new.pt"
    model, criterion = small_model()
    torch.save([model, criterion, torch.optim.SGD(model.parameters(), 1)], old)
    torch.save(torch.load(old, weights_only=False)[0].state_dict(), new)
    assert same(dict(checkpoint.load_model(new)[0].state_dict())["encoder.weight"],
                model.encoder.weight)


def test_corpus_of_the_tests_has_31_words(texts):
    """small_model and the commands above agree."""
    assert len(Corpus(texts).dictionary) == 31
