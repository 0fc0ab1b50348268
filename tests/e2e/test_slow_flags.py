"""--precision bf16-mixed and --compile: what a CPU that gains from bfloat16 computes, in every
script that trains, and the line of a CPU that does not."""

import importlib
import re

import pytest
import torch

from harness import machine
from kernels import cpu, library, product
from tests.trust.scripts import SCRIPTS, TINY_LSTM, Script, write_data

GRU = Script("awd-gru", "awd_lstm.main", f"{TINY_LSTM} --model GRU --lr 10 --epochs 6 --no-cuda",
             "m.pt.state", ("m.pt",))
DENSE = Script("sparse-dense", "sparse_seq.language_modeling.main",
               SCRIPTS["sparse-main"].flags.replace("sparse_all", "direct"), "run/state.pt", (),
               save="run")
TRAINED = [GRU, DENSE, *(script for script in SCRIPTS.values() if not script.before)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def native(monkeypatch):
    """As on a CPU with bfloat16 instructions: autocast is on, what stands in for them computes,
    however little there is to multiply."""
    if library.loaded() is None:
        pytest.skip("no compiler here")
    monkeypatch.setattr(machine, "bf16_pays", lambda: True)
    monkeypatch.setattr(cpu, "bf16_pays", lambda: True)
    monkeypatch.setattr(library, "has_bf16_instructions", lambda: True)
    monkeypatch.setattr(product, "WORTH_ROUNDING", 0)


def train(script, folder, data, *more):
    """Three updates. Returns the weights in one vector."""
    folder.mkdir()
    argv = script.argv(folder, data, *more, "--max-steps", 3)
    importlib.import_module(script.module).main(argv)
    content = script.read(folder / script.state)
    assert content["progress"]["step"] == 3
    weights = [t for t in content["model"].values() if t.is_floating_point()]
    assert {t.dtype for t in weights} == {torch.float32}
    return torch.cat([t.flatten() for t in weights])


@pytest.mark.parametrize("script", TRAINED, ids=lambda script: script.name)
def test_bfloat16_in_every_script(native, script, data, tmp_path):
    exact = train(script, tmp_path / "a", data)
    mixed = train(script, tmp_path / "b", data, "--precision", "bf16-mixed")
    assert not torch.equal(mixed, exact)
    error = ((mixed - exact).norm() / exact.norm()).item()
    assert error < 0.05  # Adam's first updates are signs, which rounding may turn


def test_a_cpu_that_does_not_gain_from_bfloat16(monkeypatch, data, tmp_path, capsys):
    monkeypatch.setattr(machine, "bf16_pays", lambda: False)
    script = SCRIPTS["awd-main"]
    exact = train(script, tmp_path / "a", data)
    assert "bfloat16" not in capsys.readouterr().out
    mixed = train(script, tmp_path / "b", data, "--precision", "bf16-mixed")
    said = capsys.readouterr().out
    assert len(re.findall("bf16-mixed: this CPU has no bfloat16 instructions", said)) == 1
    assert torch.equal(mixed, exact)
    state = tmp_path / "b/m.pt.state"
    assert script.read(state)["args"]["precision"] == "32"

    def resume(*more):
        importlib.import_module(script.module).main(
            script.argv(tmp_path / "b", data, "--resume", "--max-steps", "4", *more))
        return script.read(state)["progress"]["step"]

    assert resume("--precision", "bf16-mixed") == 4
    monkeypatch.setattr(machine, "bf16_pays", lambda: True)
    with pytest.raises(SystemExit, match="2"):  # a CPU that would round goes on in the same way
        resume("--precision", "bf16-mixed")
    assert "--precision 32 there, bf16-mixed here" in capsys.readouterr().err


def test_compile_is_ignored_on_a_cpu_unless_forced(monkeypatch, data, tmp_path, capsys):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module, **_: compiled.append(1) or module)
    script = SCRIPTS["awd-main"]
    train(script, tmp_path / "a", data, "--compile")
    assert len(re.findall("--compile: ignored, since on a CPU", capsys.readouterr().out)) == 1
    assert not compiled
    assert script.read(tmp_path / "a/m.pt.state")["args"]["compile"] is False
    train(script, tmp_path / "b", data, "--compile", "force")
    assert "--compile: ignored" not in capsys.readouterr().out
    assert compiled


@pytest.mark.parametrize("script", ["awd_lstm.main", "awd_lstm.finetune", "awd_lstm.scratch.main",
                                    "sparse_seq.language_modeling.main",
                                    "sparse_seq.sequence_labeling.main", "tnn.im.main",
                                    "tnn.lra.main", "trellisnet.word_PTB.word_ptb"])
def test_where_compiling_only_loses_time(script):
    """TrellisNet compiles its gates alone, which gains a little."""
    more = ["--task=listops"] if script == "tnn.lra.main" else []
    given = importlib.import_module(script).parse_args(["--compile", *more])
    assert given.compile is True
    assert ("compile" in given.slower_on_cpu) == (not script.startswith("trellisnet"))
    assert importlib.import_module(script).parse_args(["--compile=force", *more]).compile == "force"
