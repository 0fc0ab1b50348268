"""Bad days: killed, asked to stop, no data, a full disk, a loss that is not finite, nonsense."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from awd_lstm import checkpoint, main
from tests.awd_lstm.small import train, write_corpus
from tests.e2e.awd_lstm.scripts import (
    ENVIRONMENT,
    SCRIPTS,
    assert_same_files,
    command,
    run,
    training,
)

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
