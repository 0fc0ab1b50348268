"""Damaged and hostile files: any damage noticed, no code of theirs ever run."""

import builtins
import os
import pickle
import random
import shutil

import pytest
import torch

from awd_lstm import checkpoint, finetune, generate, main, pointer
from awd_lstm.data import Corpus
from tests.awd_lstm.small import SETTINGS, same, small_model, write_corpus


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
