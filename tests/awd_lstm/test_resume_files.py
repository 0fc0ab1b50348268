"""What --resume refuses and what it takes, and which files of earlier runs are kept."""

import shutil

import pytest
import torch

from awd_lstm import finetune, main, training
from harness import files
from tests.awd_lstm.small import LEARNS, SETTINGS, same, train, write_corpus


# ---------------------------------------------------------------------------------------- refusals
@pytest.fixture
def stopped(tmp_path):
    write_corpus(tmp_path / "texts")
    train("main", tmp_path, "--max-steps", "4")
    return tmp_path


def refused(capsys, script, folder, *flags, **kwargs):
    capsys.readouterr()
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    with pytest.raises(SystemExit) as stop:
        train(script, folder, *flags, **kwargs)
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]  # --optimizer adam warns of its lr before
    assert line.startswith(f"{script}.py: --resume")
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    return line


@pytest.mark.parametrize("flag", [
    "--lr 6", "--nhid 9", "--wdrop 0.4", "--batch_size 9", "--bptt 16", "--seed 8",
    "--optimizer adam", "--clip 0.5", "--model QRNN", "--when 2 3", "--precision 64",
    "--exact-loss", "--compile force"])
def test_other_settings_are_refused(stopped, capsys, flag):
    name, *values = flag.split()
    line = refused(capsys, "main", stopped, "--resume", name, *values)
    assert f"{name} " in line
    assert "here" in line
    assert line.count(" there, ") == 1


@pytest.mark.parametrize("flag", ["--epochs 2", "--log-interval 7", "--save-interval 2",
                                  "--max-steps 6"])
def test_these_settings_may_change(stopped, flag):
    train("main", stopped, "--resume", "--max-steps", "5", *flag.split())


def test_other_texts_are_refused(stopped, capsys):
    with (stopped / "texts" / "valid.txt").open("a") as file:
        file.write("w1\n")
    assert "valid.txt is not what the run in" in refused(capsys, "main", stopped, "--resume")


def test_moved_texts_are_the_same(stopped):
    """The texts count, not where they lie."""
    shutil.move(stopped / "texts", stopped / "elsewhere")
    train("main", stopped, "--resume", "--max-steps", "5", "--data", str(stopped / "elsewhere"))


def test_state_of_the_other_script_is_refused(stopped, capsys):
    line = refused(capsys, "finetune", stopped, "--resume", str(stopped / "m.pt.state"))
    assert "state of awd_lstm/main.py, not of awd_lstm/finetune.py" in line


def test_a_model_is_no_state_for_finetune(stopped, capsys):
    line = refused(capsys, "finetune", stopped, "--resume", str(stopped / "m.pt"))
    assert "is no training state of awd_lstm/finetune.py" in line


def test_no_state(tmp_path, capsys):
    write_corpus(tmp_path / "texts")
    for script, state in (("main", "m.pt.state"), ("finetune", "m.pt.finetune.state")):
        line = refused(capsys, script, tmp_path, "--resume")
        assert f"there is no training state {tmp_path / state}; start without --resume" in line


def test_the_best_model_must_still_be_there(tmp_path, capsys):
    """It cannot be made again from the state, which holds the current weights."""
    write_corpus(tmp_path / "texts")
    train("main", tmp_path, "--epochs", "1")
    (tmp_path / "m.pt").unlink()
    line = refused(capsys, "main", tmp_path, "--resume")
    assert f"the best model so far, {tmp_path / 'm.pt'}, is not there" in line


def test_other_number_of_processes_is_refused(stopped, capsys):
    path = stopped / "m.pt.state"
    content = files.read(path)
    content["processes"] *= 2
    files.write(path, content)
    assert "of 2 processes, not 1" in refused(capsys, "main", stopped, "--resume")


# ------------------------------------------------------------------------------- files kept, flags
def test_resume_by_path_needs_no_save(stopped):
    """--resume PATH knows the rest."""
    words = [*SETTINGS.split(), "--data", str(stopped / "texts"), "--log-dir",
             str(stopped / "logs"), "--resume", str(stopped / "m.pt.state"), "--max-steps", "5"]
    main.main(words)
    assert files.read(stopped / "m.pt.state")["progress"]["step"] == 5


def test_earlier_runs_are_set_aside(tmp_path, capsys):
    write_corpus(tmp_path / "texts")
    for seed in "123":
        train("main", tmp_path, "--epochs", "1", "--seed", seed, "--when", "1")
    assert f"{tmp_path / 'm.pt'} is of an earlier run" in capsys.readouterr().out
    seeds = {p.name: files.read(p)["args"]["seed"] for p in tmp_path.glob("m.pt*")
             if ".prev" not in p.name}
    names = ("m.pt", "m.pt.state", "m.pt.e1")
    assert seeds == {f"{name}{ending}": seed for name in names
                     for ending, seed in ((".old", 1), (".old2", 2), ("", 3))}
    assert {p.name for p in (tmp_path / "logs").iterdir()} == {"m.pt", "m.pt-2", "m.pt-3"}


def test_finetune_keeps_its_input(tmp_path, capsys):
    """It updates --save in place, as the published commands expect."""
    write_corpus(tmp_path / "texts")
    path = train("main", tmp_path, "--epochs", "1", *LEARNS)
    before = path.read_bytes()
    train("finetune", tmp_path, "--epochs", "2", *LEARNS)
    assert f"kept as {tmp_path / 'm.pt.main'}" in capsys.readouterr().out
    assert (tmp_path / "m.pt.main").read_bytes() == before
    assert path.read_bytes() != before
    improved = path.read_bytes()
    train("finetune", tmp_path, "--epochs", "1")
    assert (tmp_path / "m.pt.main").read_bytes() == before
    assert (tmp_path / "m.pt.main2").read_bytes() == improved


def test_finetune_killed_after_its_first_best_model(tmp_path, monkeypatch):
    """The state is there before the first update: --resume does not fine-tune the tuned model."""
    write_corpus(tmp_path / "texts")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        shutil.copytree(tmp_path / "texts", folder / "texts")
        train("main", folder, "--epochs", "1", *LEARNS)
    untuned = (cut / "m.pt").read_bytes()
    train("finetune", whole, "--epochs", "2", *LEARNS)

    def killed(run, loss, message, own=finetune.save_best):
        own(run, loss, message)
        raise RuntimeError("killed")
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "save_best", killed)
        with pytest.raises(RuntimeError):
            train("finetune", cut, "--epochs", "2", *LEARNS)
    assert (cut / "m.pt").read_bytes() != untuned
    state = files.read(cut / "m.pt.finetune.state")
    assert state["progress"]["step"] == 0
    assert state["progress"]["stored_loss"] < training.NOTHING_STORED
    train("finetune", cut, "--epochs", "2", *LEARNS, "--resume")
    for name in ("m.pt", "m.pt.main", "m.pt.finetune.state"):
        assert same(files.read(cut / name)["model"], files.read(whole / name)["model"]), name


def test_finetune_never_continues_an_earlier_runs_state(tmp_path, monkeypatch):
    """A new run sets it aside before its first update."""
    write_corpus(tmp_path / "texts")
    train("main", tmp_path, "--epochs", "1")
    train("finetune", tmp_path, "--epochs", "1")
    first = files.read(tmp_path / "m.pt.finetune.state")["progress"]["step"]

    def killed(run):
        raise RuntimeError("killed")
    with monkeypatch.context() as patch:
        patch.setattr(training, "one_update", killed)
        with pytest.raises(RuntimeError):
            train("finetune", tmp_path, "--epochs", "1")
    steps = [files.read(tmp_path / f"m.pt.finetune.state{ending}")["progress"]["step"]
             for ending in ("", ".old")]
    assert steps == [0, first]


@pytest.mark.parametrize("form", ["model", "state_dict"])
def test_resume_from_weights_starts_a_new_run(tmp_path, capsys, form):
    """As the original's --resume in effect: its weights, everything else fresh."""
    write_corpus(tmp_path / "texts")
    first = train("main", tmp_path, "--epochs", "1", save="first.pt")
    weights = files.read(first)["model"]
    if form == "state_dict":
        first = tmp_path / "bare.pt"
        torch.save(weights, first)
    args = ["--resume", str(first), "--max-steps", "1", "--lr", "1e-9", "--wdrop", "0.3",
            "--dropoute", "0.2"]
    again = train("main", tmp_path, *args, save="again.pt")
    assert "with a fresh optimizer and epoch count" in capsys.readouterr().out
    content = files.read(again)
    assert (content["config"]["wdrop"], content["config"]["dropoute"]) == (0.3, 0.2)
    for key, value in content["model"].items():
        torch.testing.assert_close(value, weights[key], msg=key)
    assert files.read(tmp_path / "again.pt.state")["progress"]["step"] == 1


def test_resume_from_a_model_of_other_sizes(tmp_path, capsys):
    write_corpus(tmp_path / "texts")
    first = train("main", tmp_path, "--max-steps", "1", save="first.pt")
    line = refused(capsys, "main", tmp_path, "--resume", str(first), "--nhid", "9",
                   save="again.pt")
    assert "in the weights and" in line


def test_curves_lost_and_found(stopped):
    """The log folder was removed: the run goes on and starts a new file."""
    shutil.rmtree(stopped / "logs")
    train("main", stopped, "--resume", "--max-steps", "8")
    lines = (stopped / "logs" / "m.pt" / "metrics.csv").read_text().splitlines()
    assert lines[0] == "step,epoch,name,value"
    assert all(int(line.split(",")[0]) > 4 for line in lines[1:])


def test_a_missing_model_leaves_no_folder(tmp_path, capsys):
    """finetune.py begins from --save: a folder that is not there is a slip, not one to be made."""
    write_corpus(tmp_path / "texts")
    with pytest.raises(SystemExit) as stop:
        train("finetune", tmp_path, save="slip/m.pt")
    assert stop.value.code == 2
    assert f"--save: there is no file {tmp_path}/slip/m.pt" in capsys.readouterr().err
    assert not (tmp_path / "slip").exists()
