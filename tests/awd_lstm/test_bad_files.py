"""Hostile, damaged and missing files at every flag that takes one: one line, nothing changed."""

import os
from pathlib import Path

import pytest
import torch

from awd_lstm import finetune, generate, main, pointer
from awd_lstm.inputs import load_model
from tests.awd_lstm.small import SETTINGS, same, save_model, small_model, write_corpus


class Touch:
    """Read with trust, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


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


WAYS = list(commands("", Path(), ""))


def refused(texts, tmp_path, path, way, capsys):
    """Runs the command, which must end with exit code 2 and one line; returns the line."""
    script, argv = commands(texts, tmp_path, path)[way]
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(SystemExit) as stop:
        script.main(argv)
    assert stop.value.code == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{script.__name__.split('.')[-1]}.py: {way.split()[1]}")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    return line


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("way", WAYS)
def test_hostile_file(texts, tmp_path, capsys, way, zipped):
    canary, path = tmp_path / "canary", tmp_path / "hostile.pt"
    torch.save({"encoder.weight": Touch(canary)}, path, _use_new_zipfile_serialization=zipped)
    line = refused(texts, tmp_path, path, way, capsys)
    assert "hostile.pt is refused" in line
    assert "torch.save(model.state_dict(), NEW)" in line
    torch.load(path, weights_only=False)
    assert canary.exists()  # the payload is live: else the above shows little


@pytest.mark.parametrize("way", WAYS)
def test_damaged_file(texts, tmp_path, capsys, way):
    path = tmp_path / "damaged.pt"
    save_model(path, *small_model())
    path.write_bytes(path.read_bytes()[:1000])
    assert "damaged.pt is damaged" in refused(texts, tmp_path, path, way, capsys)


@pytest.mark.parametrize("way", WAYS)
def test_missing_file(texts, tmp_path, capsys, way):
    path = tmp_path / "none.pt"
    assert f"there is no file {path}" in refused(texts, tmp_path, path, way, capsys)


def test_conversion_as_the_message_says(tmp_path):
    """Where it was made: torch.save(model.state_dict(), NEW)."""
    model, _ = small_model()
    torch.save(model.state_dict(), tmp_path / "new.pt")
    assert same(load_model(tmp_path / "new.pt")[0].encoder.weight, model.encoder.weight)
