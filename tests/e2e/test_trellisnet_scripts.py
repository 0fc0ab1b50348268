"""The four scripts as a user runs them, from another folder: help, the original's weight files,
training, bad input. What can be seen in one process is in tests/trellisnet/test_run*.py."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness import files
from tests.golden.trellisnet_runs import timeless, translate
from tests.trellisnet.small import FLAGS, SCRIPTS, curve, flags_of, script, train, write_data

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "tests/golden/cases/trellisnet/e2e"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
BY_NAME = {Path(path).name: name for name, path in SCRIPTS.items()}
NAMES = {"word": "Trellis_wordPTB", "wt": "Trellis_wordWT103", "char": "Trellis_charPTB",
         "seq": "Trellis_seqMNIST_CIFAR"}
PYDOC, DIGITS = ROOT / "data/pydoc", ROOT / "data/digits"


def run(name, argv, cwd, code=0) -> subprocess.CompletedProcess:
    """Runs a script; its exit code must be `code`, and no traceback may show."""
    done = subprocess.run([sys.executable, str(ROOT / "trellisnet" / SCRIPTS[name]),
                           *map(str, argv)], cwd=cwd, env=ENVIRONMENT, text=True,
                          capture_output=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def folder(tmp_path):
    return write_data(tmp_path)


# ---------------------------------------------------------------- several scripts, one process
# Runs each command line (a JSON list of them) as a script of its own; importing torch anew for
# each would take longer than all the rest.
ONE_AFTER_THE_OTHER = """
import json, runpy, sys
for argv in json.loads(sys.argv[1]):
    print("SCRIPT", argv[0], flush=True)
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as stop:
        assert not stop.code, stop.code
"""


def run_each(commands, cwd) -> list[str]:
    """What each of the commands (name, flags) says."""
    argvs = [[str(ROOT / "trellisnet" / SCRIPTS[name]), *flags] for name, flags in commands]
    done = subprocess.run([sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(argvs)], cwd=cwd,
                          env=ENVIRONMENT, text=True, capture_output=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return re.split(r"^SCRIPT .*\n", done.stdout, flags=re.M)[1:]


def test_help(tmp_path):
    """From any folder, without data; every flag is explained."""
    for said in run_each([(name, ["-h"]) for name in SCRIPTS], tmp_path):
        assert len(re.findall(r"^  (-\S.*)$", said, re.M)) > 30
        assert re.findall(r"^  (-\S+(?: \S+)?)\n(?=  -|\n|\Z)", said, re.M) == []
    assert list(tmp_path.iterdir()) == []


EVALUATED = {"word_eff": "word_plain_cuda_legacy.pkl", "word_mos_eff": "word_mos.pkl",
             "wt_repack_zero_tail_splits": "word_wnorm.pkl", "char_repack": "char_wnorm.pkl"}


def test_the_originals_weights_have_their_recorded_losses(tmp_path):
    """The files and command lines of the recording, one of them in the legacy CUDA format in which
    the released checkpoints are; tests/golden compares all digits."""
    for data in ("corpus_word", "corpus_char"):
        shutil.copytree(RECORDED / data, tmp_path / data)
    recorded = json.loads((RECORDED / "expected.json").read_text())["eval"]
    commands = []
    for case, weights in EVALUATED.items():
        shutil.copy(RECORDED / weights, tmp_path)
        env = {"TN_SPLITS": "[8,16,27]"} if "splits" in case else {}
        argv = translate(recorded[case]["script"], recorded[case]["argv"], env)
        argv[argv.index("--load_weight") + 1] = weights
        commands.append((BY_NAME[recorded[case]["script"]], argv))
    outputs = run_each(commands, tmp_path)
    for (case, weights), said in zip(EVALUATED.items(), outputs, strict=True):
        losses, expected = ([timeless(line) for line in lines if " loss " in line]
                            for lines in (said.splitlines(), recorded[case]["stdout"]))
        assert losses == expected
        assert len(losses) == 2
        assert f"Model loaded successfully from {weights}" in said
    assert not list(tmp_path.glob("*.pt"))


# --------------------------------------------------------------------------------------- training
@pytest.mark.parametrize("name", ["word", "wt", "seq"])
def test_train(name, folder):
    """In a folder of the user's: model, state, weights and log there."""
    done = run(name, [*FLAGS[name].split(), "--epochs", "1", "--log-dir", "logs"], folder)
    stem = NAMES[name]
    assert {p.name for p in folder.iterdir()} - {"weights", f"{stem}.pt.state.prev"} == {
        "texts", "images", "logs", f"{stem}.pt", f"{stem}.pt.state"}
    log, = folder.glob("logs/*/*.log")
    assert log == folder / f"logs/{stem}.pt/{stem}.log"
    assert done.stdout.splitlines() == log.read_text().splitlines()
    if name == "seq":
        assert "Test set: Average loss: " in done.stdout
    else:
        assert "| End of training | test loss" in done.stdout
        torch.load(folder / f"weights/{stem}.pt.pkl", weights_only=True)


def test_train_in_the_scripts_own_folder(folder):
    """`cd trellisnet/char_PTB; python char_ptb.py`: its data.py, model.py, utils.py are found as
    ours."""
    done = subprocess.run([sys.executable, "char_ptb.py", *flags_of("char", folder)],
                          cwd=ROOT / "trellisnet/char_PTB", env=ENVIRONMENT, text=True,
                          capture_output=True, timeout=120, check=True)
    assert "| End of training | test loss" in done.stdout
    torch.load(folder / "weights/m.pt.pkl", weights_only=True)


# --------------------------------------------------------------------------------------- bad days
def one_line(done, script):
    line, = done.stderr.splitlines()
    assert line.startswith(f"{script}: ")
    return line


def test_missing_data(tmp_path):
    done = run("wt", ["--data", "data/wikitext-103", "--device", "cpu"], tmp_path, code=2)
    assert "./getdata.sh wt103 fetches it" in one_line(done, "word_wt103.py")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------- real data, compilation
@pytest.mark.slow
@pytest.mark.skipif(not PYDOC.is_dir(), reason="no data/pydoc: ./getdata.sh pydoc")
def test_words_of_pydoc(tmp_path):
    """A hundred updates of a small model: the loss falls."""
    sizes = {"emsize": 64, "nout": 64, "nhid": 96, "nlevels": 12, "horizon": 12, "seq_len": 36,
             "aux_freq": 6, "log-interval": 30, "max-steps": 100}
    run = script("word").main([
        *(f"--{name}={size}" for name, size in sizes.items()), "--device", "cpu", "--data",
        str(PYDOC), "--save", str(tmp_path / "m.pt"), "--log-dir", str(tmp_path / "logs")])
    train_loss = curve(run, "train_loss")
    assert train_loss[-1] < train_loss[0] - 0.5


@pytest.mark.slow
@pytest.mark.skipif(not DIGITS.is_dir(), reason="no data/digits: ./getdata.sh digits")
def test_digits_pixel_by_pixel(tmp_path):
    """The command in seq_mnist_cifar.py: accuracy over 80 %."""
    run = script("seq").main([
        "--nhid=40", "--dilation", *map(str, (1, 1, 2, 4, 8, 16, 32)), "--nlevels=7",
        "--no-permute", "--lr=1e-2", "--dropout=0", "--dropouti=0.1", "--epochs=15",
        "--device", "cpu", "--data", str(DIGITS),
        "--save", str(tmp_path / "m.pt"), "--log-dir", str(tmp_path / "logs")])
    assert run.losses[1] > 80


@pytest.mark.slow
def test_compile(folder):
    """The gates in one compiled pass: the same numbers within rounding."""
    plain = write_data(folder / "plain")
    flags = ["--max-steps", "5"]
    run("word", flags_of("word", folder, *flags, "--compile"), folder)
    train("word", plain, *flags)
    ours, expected = (files.read(f / "m.pt.state")["model"] for f in (folder, plain))
    for key, value in expected.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-5, msg=key)
