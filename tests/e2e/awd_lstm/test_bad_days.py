"""Bad days: asked to stop, no data, short texts, a loss that is not finite, nonsense."""

import math
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from awd_lstm import finetune, main, pointer
from awd_lstm.training import Run
from harness import files
from tests.awd_lstm.small import train, write_corpus
from tests.e2e.awd_lstm.scripts import ENVIRONMENT, assert_same_files, command, run, training


# ---------------------------------------------------------------------------------- interruptions
# tests/trust sends SIGTERM to every script.
@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
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
    assert f"--resume ({folder / 'm.pt.state'})" in out
    assert ("| End of training | test loss" in out) == (signum == signal.SIGINT)

    steps = str(files.read(folder / "m.pt.state")["progress"]["step"] + 12)
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


@pytest.mark.parametrize(("script", "flags", "message"), [
    pytest.param("main.py", [], "./getdata.sh wt2"),
    pytest.param("pointer.py", ["--save", "x.pt"], "no file x.pt", marks=pytest.mark.slow),
    pytest.param("generate.py", [], "no file model.pt", marks=pytest.mark.slow)],
    ids=["main", "pointer", "generate"])
def test_missing_data(tmp_path, script, flags, message):
    """pointer.py and generate.py ask for the model first, which knows its words."""
    done = run(command(script, "--data", "data/wikitext-2", *flags, "--no-cuda"), tmp_path, code=2)
    assert message in one_line(done, script)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "getdata"), [
    ("penn", "getdata.sh ptb"), ("pennchar", "getdata.sh ptbc"), ("enwik8", "getdata.sh enwik8"),
    ("wikitext-103", "getdata.sh wt103"), ("own", "train.txt, valid.txt and test.txt")])
def test_missing_data_names_its_source(tmp_path, capsys, name, getdata):
    with pytest.raises(SystemExit) as stop:
        main.main(["--data", str(tmp_path / name), "--save", str(tmp_path / "m.pt"), "--no-cuda"])
    assert stop.value.code == 2
    assert getdata in capsys.readouterr().err


# tests/trust spoils a gradient of every script.
@pytest.mark.slow
def test_loss_that_is_not_finite(folder):
    """Stopped before the update, the step is named, what was written stays good."""
    train("main", folder, "--max-steps", "3")
    before = (folder / "m.pt").read_bytes()
    done = run(command("main.py", *training(folder, "--lr", "1e30", "--clip", "0",
                                            "--save-interval", "1")), folder, code=1)
    line = one_line(done, "main.py")
    assert re.search(r"is not finite at epoch 1, step \d+; stopped before the update", line)
    assert (folder / "m.pt.old").read_bytes() == before
    state = files.read(folder / "m.pt.state")
    assert f"step {state['progress']['step']};" in line


@pytest.mark.parametrize("script", ["main", "finetune"])
@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_validation_loss_that_is_not_finite(folder, capsys, monkeypatch, script, loss):
    """It ends the run as a training loss does, and is never the best."""
    train("main", folder, "--epochs", "1")
    before = (folder / "m.pt").read_bytes()
    monkeypatch.setattr(Run, "evaluate", lambda run, source: loss)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        train(script, folder)
    assert stop.value.code == 1
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{script}.py: the validation loss is {loss} at epoch 1, step ")
    assert (folder / f"m.pt.{'old' if script == 'main' else 'main'}").read_bytes() == before


def refused(capsys, *flags):
    with pytest.raises(SystemExit) as stop:
        main.main([str(flag) for flag in flags])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_save_in_a_new_folder(folder, capsys):
    """The folder is made; where a file is in the way, that is said before the training."""
    train("main", folder, "--max-steps", "1", save="new/deeper/m.pt")
    assert (folder / "new" / "deeper" / "m.pt").is_file()
    (folder / "file").touch()
    assert f"--save {folder}/file/m.pt: " in refused(
        capsys, *training(folder, "--save", folder / "file" / "m.pt"))
    assert "is a folder" in refused(capsys, *training(folder, "--save", folder / "new"))
    assert sorted(p.name for p in (folder / "new").iterdir()) == ["deeper"]


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
    assert "train.txt is too short" in line
    assert "5000 columns" in line
    assert "a smaller --batch_size" in line


@pytest.mark.parametrize("script", [main, finetune, pointer])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_short_text_is_named(folder, capsys, script, split):
    """An empty line is one token, and a prediction takes two."""
    train("main", folder, "--max-steps", "1")
    (folder / "texts" / f"{split}.txt").write_text("\n")
    own = ["--resume", str(folder / "m.pt"), "--save", str(folder / "n.pt")]
    flags = (["--data", str(folder / "texts"), "--save", str(folder / "m.pt"), "--no-cuda"]
             if script is pointer else [*map(str, training(folder)), *(own * (script is main))])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        script.main(flags)
    assert stop.value.code == 2
    line, = capsys.readouterr().err.splitlines()
    assert re.search(rf"{folder}/texts/{split}\.txt is too short. it has (1 tokens|a single token)",
                     line)
    assert "give a longer text" in line


def test_a_byte_order_mark_is_no_word(folder):
    """Before the first line, and where texts that have one were joined."""
    for text in (folder / "texts").glob("*.txt"):
        text.write_text("\ufeff" + text.read_text().replace("\n", "\n\ufeff", 1), encoding="utf-8")
    train("main", folder, "--max-steps", "1")
    assert files.read(folder / "m.pt")["config"]["ntoken"] == 31
