"""The scripts as a user runs them: the published chain, bad days, several processes."""

import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from awd_lstm import checkpoint, generate, main, pointer
from tests.awd_lstm.small import SETTINGS, train, write_corpus

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "awd_lstm"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def command(script, *flags) -> list[str]:
    return [sys.executable, str(SCRIPTS / script), *map(str, flags)]


def run(argv, cwd, code=0, **kwargs) -> subprocess.CompletedProcess:
    """Runs a command; its exit code must be `code`, and no traceback may show."""
    done = subprocess.run(argv, cwd=cwd, env=ENVIRONMENT, text=True, capture_output=True,
                          timeout=120, check=False, **kwargs)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def training(folder, *flags) -> list:
    """Flags of a small run in `folder`."""
    return [*SETTINGS.split(), "--data", folder / "texts", "--save", folder / "m.pt",
            "--log-dir", folder / "logs", *flags]


@pytest.fixture
def folder(tmp_path):
    write_corpus(tmp_path / "texts")
    return tmp_path


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
    assert "PTB.pt will be updated in place; as it was it is kept as PTB.main.pt" in done[
        "finetune"].stdout
    assert re.search(r"^\| End of training \| test loss +\d\.\d\d \| test ppl +\d+\.\d\d$",
                     done["finetune"].stdout, re.M)
    assert checkpoint.read(home / "PTB.main.pt")["script"] == "main"


def test_chain_pointer(chain):
    for name in ("val", "test"):
        assert re.search(rf"^={{89}}\n\| End of pointer \| {name} loss +\d\.\d\d \| {name} ppl "
                         r"+\d+\.\d\d\n={89}$", chain[1]["pointer"].stdout, re.M)


def test_chain_generate(chain):
    home, _ = chain
    assert len((home / "generated.txt").read_text(encoding="utf-8").split()) == 30


def test_chain_leaves_nothing_else(chain):
    home, _ = chain
    assert sorted(p.name for p in home.iterdir() if ".prev." not in p.name) == [
        "PTB.finetune.state.pt", "PTB.main.pt", "PTB.pt", "PTB.state.pt", "data",
        "generated.txt", "logs"]
    assert sorted(p.name for p in (home / "logs").iterdir()) == ["PTB", "PTB.finetune"]


def test_in_the_scripts_own_folder(chain):
    """`cd awd_lstm; python generate.py`: its files called model, data, utils are found as ours."""
    home, _ = chain
    done = run([sys.executable, "generate.py", "--data", home / "data/penn", "--checkpoint",
                home / "PTB.pt", "--outf", "-", "--words", "5", "--no-cuda"], SCRIPTS)
    assert len(done.stdout.split()) == 5


def test_loss_falls(chain):
    """finetune.py improves on main.py, and on guessing among the 31 words."""
    home, _ = chain
    first, second = (checkpoint.read(home / name)["valid_loss"]
                     for name in ("PTB.main.pt", "PTB.pt"))
    assert second < min(first, math.log(31))


@pytest.mark.parametrize("script", ["main", "finetune", "pointer", "generate"])
def test_help(script, tmp_path):
    """Every flag is explained."""
    done = run([sys.executable, "-m", f"awd_lstm.{script}", "-h"], ROOT)
    flags = re.findall(r"^  (-\S.*)$", done.stdout, re.M)
    assert len(flags) > 10
    unexplained = re.findall(r"^  (-\S+(?: \S+)?)\n(?=  -|\n|\Z)", done.stdout, re.M)
    assert unexplained == []


# ------------------------------------------------------------------------------------ interruptions
# Runs a script as its first argument says after changing something in it, as the second says.
WRAPPER = """
import os, runpy, signal, sys, time
script, patch = sys.argv[1:3]
exec(patch)
sys.argv = sys.argv[2:]
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""


def patched(script, patch, *flags) -> list[str]:
    return [sys.executable, "-c", WRAPPER, str(SCRIPTS / script), patch, *map(str, flags)]


KILL_AT = """
import pathlib
real, calls = {where}, []
def killing(*a):
    calls.append(1)
    if {after}: result = real(*a)
    if len(calls) == {n}: os.kill(os.getpid(), signal.SIGKILL)
    return result if {after} else real(*a)
{where} = killing
"""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    write_corpus(folder / "texts")
    train("main", folder, "--save-interval", "4")
    return folder


def assert_same_files(folder, expected):
    """Weights, training state and curves, bit for bit."""
    for name in ("m.pt", "m.state.pt"):
        a, b = (checkpoint.read(f / name) for f in (folder, expected))
        assert a["model"].keys() == b["model"].keys()
        for key in a["model"]:
            assert torch.equal(a["model"][key], b["model"][key]), f"{name} {key}"
    for key in ("i", "step", "epoch", "stored_loss", "best_val_loss", "lr"):
        assert a["progress"][key] == b["progress"][key]
    assert torch.equal(a["processes"][0]["torch"], b["processes"][0]["torch"])
    curves = [(f / "logs" / "m" / "metrics.csv").read_text() for f in (folder, expected)]
    assert curves[0] == curves[1]


@pytest.mark.parametrize(("where", "after", "n"), [
    ("os.fsync", False, 1), ("os.fsync", False, 7), ("os.fsync", True, 10),
    ("pathlib.Path.replace", False, 5), ("pathlib.Path.replace", True, 6),
], ids=["first-write", "before-flush", "after-flush", "before-rename", "after-rename"])
def test_killed_while_writing(folder, unbroken, where, after, n):
    """SIGKILL in the middle of a write loses nothing: what is there is whole, and --resume (or a
    new start, if no state was written yet) ends like a run that was never killed."""
    flags = training(folder, "--save-interval", "4")
    patch = KILL_AT.format(where=where, after=after, n=n)
    run(patched("main.py", patch, *flags), folder, code=-signal.SIGKILL)
    assert after or list(folder.glob(".*.part"))  # it was in the middle of writing
    for path in folder.glob("*.pt"):
        checkpoint.read(path)
    resume = ["--resume"] if (folder / "m.state.pt").exists() else []
    assert bool(resume) == (n > 1)
    shutil.rmtree(folder / "logs") if not resume else None
    train("main", folder, "--save-interval", "4", *resume)
    assert_same_files(folder, unbroken)
    assert not list(folder.glob(".*.part"))


def test_killed_at_random_times(folder, unbroken):
    """Again and again; saving takes most of the time here."""
    rng = random.Random(0)
    slow = "real = os.fsync; os.fsync = lambda f: (time.sleep(0.02), real(f))"
    flags = training(folder, "--save-interval", "1")
    killed = 0
    for _ in range(3):
        resume = ["--resume"] if (folder / "m.state.pt").exists() else []
        process = subprocess.Popen(patched("main.py", slow, *flags, *resume), cwd=folder,
                                   env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        for line in process.stdout:
            if line.startswith("| epoch"):
                break
        try:
            process.communicate(timeout=rng.uniform(0, 0.5))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        killed += process.returncode == -signal.SIGKILL
        for path in folder.glob("*.pt"):
            checkpoint.read(path)
    assert killed
    train("main", folder, "--save-interval", "1", "--resume")
    assert_same_files(folder, unbroken)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
                         ids=["Ctrl-C", "SIGTERM"])
def test_asked_to_stop(folder, tmp_path_factory, signum, code):
    """The state is saved; after Ctrl-C the best model so far is tested, as in the original."""
    process = subprocess.Popen(command("main.py", *training(folder, "--epochs", "8000")),
                               cwd=folder, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    for line in process.stdout:
        if line.startswith("| epoch   2 |"):
            break
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "Exiting from training early" in out
    assert f"--resume ({folder / 'm.state.pt'})" in out
    assert ("| End of training | test loss" in out) == (signum == signal.SIGINT)

    steps = str(checkpoint.read(folder / "m.state.pt")["progress"]["step"] + 12)
    train("main", folder, "--epochs", "8000", "--resume", "--max-steps", steps)
    expected = tmp_path_factory.mktemp("expected")
    write_corpus(expected / "texts")
    train("main", expected, "--epochs", "8000", "--max-steps", steps)
    assert_same_files(folder, expected)


# ------------------------------------------------------------------------------------- bad input
def one_line(done, script):
    line, = done.stderr.splitlines()
    assert line.startswith(f"{script}: ")
    return line


@pytest.mark.parametrize(("script", "flags"), [
    ("main.py", []), ("pointer.py", ["--save", "x.pt"]), ("generate.py", [])],
    ids=["main", "pointer", "generate"])
def test_missing_data(tmp_path, script, flags):
    done = run(command(script, "--data", "data/wikitext-2", *flags, "--no-cuda"), tmp_path, code=2)
    assert "./getdata.sh wt2" in one_line(done, script)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "getdata"), [
    ("penn", "getdata.sh ptb"), ("pennchar", "getdata.sh ptbc"), ("enwik8", "getdata.sh enwik8"),
    ("wikitext-103", "getdata.sh wt103"), ("own", "train.txt, valid.txt and test.txt")])
def test_missing_data_names_its_source(tmp_path, capsys, name, getdata):
    with pytest.raises(SystemExit) as stop:
        main.main(["--data", str(tmp_path / name), "--save", str(tmp_path / "m.pt"), "--no-cuda"])
    assert stop.value.code == 2
    assert getdata in capsys.readouterr().err


def test_loss_that_is_not_finite(folder):
    """Stopped before the update, the step is named, what was written stays good."""
    train("main", folder, "--max-steps", "3")
    before = (folder / "m.pt").read_bytes()
    done = run(command("main.py", *training(folder, "--lr", "1e30", "--clip", "0",
                                            "--save-interval", "1")), folder, code=1)
    line = one_line(done, "main.py")
    assert re.search(r"is not finite at epoch 1, step \d+; stopped before the update", line)
    assert (folder / "m.old.pt").read_bytes() == before
    state = checkpoint.read(folder / "m.state.pt")
    assert f"step {state['progress']['step']};" in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["m.pt", "m.state.pt"])
def test_full_disk(folder, name):
    (folder / f".{name}.part").symlink_to("/dev/full")
    done = run(command("main.py", *training(folder, "--epochs", "1")), folder, code=1)
    assert re.search(rf"No space left on device: '.*{name}'$", one_line(done, "main.py"))
    assert not (folder / name).exists()


def refused(capsys, *flags):
    with pytest.raises(SystemExit) as stop:
        main.main([str(flag) for flag in flags])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_save_where_there_is_no_folder(folder, capsys):
    """Said before the training, not after the first epoch."""
    (folder / "file").touch()
    for parent in ("missing", "file"):
        line = refused(capsys, *training(folder, "--save", folder / parent / "m.pt"))
        assert f"there is no folder {folder / parent}" in line


def test_save_in_a_read_only_folder(folder, capsys, monkeypatch):
    (folder / "closed").mkdir(mode=0o555)
    if os.geteuid() == 0:  # whom no mode stops
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed")
    line = refused(capsys, *training(folder, "--save", folder / "closed" / "m.pt"))
    assert "closed is read-only" in line


@pytest.mark.parametrize("flags", [
    "--batch_size 0", "--epochs 0", "--dropout 1", "--wdrop -0.1", "--lr 0", "--clip -1",
    "--model RNN", "--optimizer rmsprop", "--devices 9"], ids=str)
def test_nonsense_is_refused(folder, capsys, flags):
    assert flags.split()[0] in refused(capsys, *training(folder, *flags.split()))


def test_text_shorter_than_the_batch(folder, capsys):
    line = refused(capsys, *training(folder, "--batch_size", "5000"))
    assert "too short for 5000 columns" in line


# ----------------------------------------------------------------------------- several processes
QUIET = ("--dropout", "0", "--dropouth", "0", "--dropouti", "0", "--dropoute", "0", "--wdrop", "0",
         "--epochs", "1")


def assert_close_to_one_process(folder, tmp_path_factory, rtol, *flags):
    alone = tmp_path_factory.mktemp("alone")
    write_corpus(alone / "texts")
    train("main", alone, *QUIET, *flags)
    ours, expected = (checkpoint.read(f / "m.pt") for f in (folder, alone))
    for key, value in expected["model"].items():
        torch.testing.assert_close(ours["model"][key], value, rtol=0, atol=rtol, msg=key)
    assert ours["valid_loss"] == pytest.approx(expected["valid_loss"], rel=rtol * 10)


@pytest.mark.parametrize("kind", ["LSTM", "QRNN"])
def test_two_processes_share_an_uneven_batch(folder, tmp_path_factory, kind):
    """5 columns over 2 processes: each column counts the same, so the update is that of one
    process on the whole batch."""
    flags = ["--batch_size", "5", "--precision", "64", "--model", kind]
    done = run(command("main.py", *training(folder, *QUIET, *flags, "--devices", "2")), folder)
    assert done.stdout.count("| End of training") == 1
    assert checkpoint.read(folder / "m.pt")["model"]["encoder.weight"].dtype == torch.float64
    assert_close_to_one_process(folder, tmp_path_factory, 1e-10, *flags)


def test_torchrun(folder, tmp_path_factory):
    flags = ["--batch_size", "8"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
                "--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
                SCRIPTS / "main.py"]
    done = run([*map(str, torchrun), *map(str, training(folder, *QUIET, *flags))], folder)
    assert done.stdout.count("| End of training") == 1
    assert_close_to_one_process(folder, tmp_path_factory, 1e-5, *flags)


def test_two_processes_agree_on_a_default_name(folder):
    """Without --save the name is the time, which must be one for all."""
    flags = [*SETTINGS.split(), "--data", "texts", "--log-dir", "logs", "--max-steps", "2",
             "--devices", "2"]
    run(command("main.py", *flags), folder)
    assert len(list(folder.glob("*.pt"))) == 2  # a model and its state


@pytest.mark.slow
def test_two_processes_resume(folder, tmp_path_factory):
    """Bit for bit, each process with its own masks and hidden states."""
    expected = tmp_path_factory.mktemp("expected")
    write_corpus(expected / "texts")
    flags = ["--devices", "2", "--epochs", "2"]
    run(command("main.py", *training(expected, *flags)), expected)
    run(command("main.py", *training(folder, *flags, "--max-steps", "20")), folder)
    run(command("main.py", *training(folder, *flags, "--resume")), folder)
    assert_same_files(folder, expected)


@pytest.mark.slow
def test_compile(folder):
    done = run(command("main.py", *training(folder, "--compile", "--max-steps", "3")), folder)
    assert "| End of training" in done.stdout


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
    content = checkpoint.read(model)
    assert content["criterion"]["tail_vectors"].shape == (3, 4)
    assert content["criterion"]["tail_vectors"].any()  # they are trained
    pointer.main([*common, "--save", model, "--window", "10", "--bptt", "30"])
    assert "| End of pointer | test loss" in capsys.readouterr().out
    generate.main([*common, "--checkpoint", model, "--outf", str(tmp_path / "out.txt"),
                   "--words", "20", "--prompt", "w30000"])
    assert len((tmp_path / "out.txt").read_text().split()) == 21
