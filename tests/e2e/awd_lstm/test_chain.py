"""The published chain as a user runs it, from help to text, and a large vocabulary."""

import math
import re
import sys

import pytest

from awd_lstm import generate, main, pointer
from harness import files
from tests.awd_lstm.small import write_corpus
from tests.e2e.awd_lstm.scripts import ROOT, SCRIPTS, command, run


# ----------------------------------------------------------------------------- the published chain
@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """main, finetune, pointer, generate as published, typed in a folder that is not ours; the
    folders and --epoch as in the README, the sizes small."""
    home = tmp_path_factory.mktemp("home")
    write_corpus(home / "data" / "penn", train=1500)
    small = ["--emsize", "20", "--nhid", "30", "--nlayers", "2", "--log-dir", "logs", "--no-cuda"]
    shared = ["--batch_size", "20", "--data", "data/penn", "--dropouti", "0.4", "--dropouth",
              "0.25", "--seed", "141", "--epoch", "3", "--save", "PTB.pt"]
    return home, {
        "main": run(command("main.py", *shared, *small), home),
        "finetune": run(command("finetune.py", *shared, *small), home),
        "pointer": run(command("pointer.py", "--data", "data/penn", "--save", "PTB.pt",
                               "--lambdasm", "0.1", "--theta", "1.0", "--window", "50", "--bptt",
                               "200", "--no-cuda"), home),
        "generate": run(command("generate.py", "--data", "data/penn", "--checkpoint", "PTB.pt",
                                "--words", "30", "--no-cuda"), home),
    }


def test_chain_main(chain):
    out = chain[1]["main"].stdout
    assert "Producing dataset..." in out
    assert re.search(r"^Args: Namespace\(data='data/penn'", out, re.M)
    assert "Model total parameters: 11051" in out
    for epoch in (1, 2, 3):  # --epoch 3 is --epochs 3
        assert re.search(rf"^\| end of epoch   {epoch} \| time: +\d+\.\d\ds "
                         r"\| valid loss +\d\.\d\d \| valid ppl +\d+\.\d\d "
                         r"\| valid bpc +\d\.\d{3}$", out, re.M)
    assert "end of epoch   4" not in out
    assert re.search(r"^={89}\n\| End of training \| test loss +\d\.\d\d \| test ppl +\d+\.\d\d "
                     r"\| test bpc +\d\.\d{3}\n={89}$", out, re.M)


def test_chain_finetune(chain):
    home, done = chain
    assert "PTB.pt is of an earlier run: kept as PTB.pt.main" in done["finetune"].stdout
    assert re.search(r"^\| End of training \| test loss +\d\.\d\d \| test ppl +\d+\.\d\d$",
                     done["finetune"].stdout, re.M)
    assert files.read(home / "PTB.pt.main")["script"] == "main"


def test_chain_pointer(chain):
    for name in ("val", "test"):
        assert re.search(rf"^={{89}}\n\| End of pointer \| {name} loss +\d\.\d\d \| {name} ppl "
                         r"+\d+\.\d\d\n={89}$", chain[1]["pointer"].stdout, re.M)


def test_chain_generate(chain):
    home, _ = chain
    assert len((home / "generated.txt").read_text(encoding="utf-8").split()) == 30


def test_chain_leaves_nothing_else(chain):
    home, _ = chain
    assert sorted(p.name for p in home.iterdir() if p.suffix != ".prev") == [
        "PTB.pt", "PTB.pt.finetune.state", "PTB.pt.main", "PTB.pt.state", "data", "generated.txt",
        "logs"]
    assert sorted(p.name for p in (home / "logs").iterdir()) == ["PTB.pt", "PTB.pt.finetune"]


def test_in_the_scripts_own_folder(chain):
    """`cd awd_lstm; python generate.py`: its files called model, data, utils are found as ours."""
    home, _ = chain
    done = run([sys.executable, "generate.py", "--data", home / "data/penn", "--checkpoint",
                home / "PTB.pt", "--outf", "-", "--words", "5", "--no-cuda"], SCRIPTS)
    assert len(done.stdout.split()) == 5


def test_loss_falls(chain):
    """finetune.py improves on main.py, and on guessing among the 31 words."""
    home, _ = chain
    first, second = (files.read(home / name)["valid_loss"]
                     for name in ("PTB.pt.main", "PTB.pt"))
    assert second < min(first, math.log(31))


@pytest.mark.parametrize("script", ["main", "finetune", "pointer", "generate"])
def test_help(script, tmp_path):
    """Every flag is explained, at once: torch is not imported."""
    poisoned = tmp_path / "torch.py"
    poisoned.write_text("raise SystemExit('torch was imported')\n")
    done = run([sys.executable, "-m", f"awd_lstm.{script}", "-h"], ROOT, path=tmp_path)
    flags = re.findall(r"^  (-\S.*)$", done.stdout, re.M)
    assert len(flags) > 10
    unexplained = re.findall(r"^  (-\S+(?: \S+)?)\n(?=  -|\n|\Z)", done.stdout, re.M)
    assert unexplained == []


# ------------------------------------------------------------------------------- a large vocabulary
def test_split_softmax_from_data_to_text(tmp_path, capsys):
    """More than 75,000 words, as in WikiText-103: cut in four parts, trained, measured with the
    cache, sampled from."""
    texts = tmp_path / "texts"
    texts.mkdir()
    rare = [f"w{i}" for i in range(75_100)]
    (texts / "train.txt").write_text("".join(
        " ".join(rare[i: i + 20]) + "\n" for i in range(0, len(rare), 20)))
    for split in ("valid", "test"):
        (texts / f"{split}.txt").write_text("w1 w2 w30000 w3 w75099\n" * 12)
    model = str(tmp_path / "m.pt")
    common = ["--data", str(texts), "--no-cuda"]
    main.main([*common, "--emsize", "4", "--nhid", "4", "--nlayers", "1", "--batch_size", "4",
               "--bptt", "20", "--optimizer", "adam", "--lr", "0.01", "--max-steps", "4",
               "--save", model, "--log-dir", str(tmp_path / "logs")])
    out = capsys.readouterr().out
    assert "Using [2800, 20000, 76000]" in out
    content = files.read(model)
    assert content["criterion"]["tail_vectors"].shape == (3, 4)
    assert content["criterion"]["tail_vectors"].any()  # they are trained
    pointer.main([*common, "--save", model, "--window", "10", "--bptt", "30"])
    assert "| End of pointer | test loss" in capsys.readouterr().out
    generate.main([*common, "--checkpoint", model, "--outf", str(tmp_path / "out.txt"),
                   "--words", "20", "--prompt", "w30000"])
    assert len((tmp_path / "out.txt").read_text().split()) == 21
