"""What --resume refuses and what it takes, and which files of earlier runs are kept."""

import shutil

import pytest
import torch

from awd_lstm import checkpoint, main, training
from tests.awd_lstm.small import LEARNS, train, write_corpus


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
    "--optimizer adam", "--clip 0.5", "--model QRNN", "--when 2 3", "--precision 64"])
def test_other_settings_are_refused(stopped, capsys, flag):
    name, *values = flag.split()
    line = refused(capsys, "main", stopped, "--resume", name, *values)
    assert f"{name} " in line
    assert "here" in line
    assert line.count(" there, ") == 1


@pytest.mark.parametrize("flag", ["--epochs 2", "--log-interval 7", "--save-interval 2",
                                  "--max-steps 6", "--exact-loss"])
def test_these_settings_may_change(stopped, flag):
    train("main", stopped, "--resume", "--max-steps", "5", *flag.split())


def test_other_texts_are_refused(stopped, capsys):
    with (stopped / "texts" / "valid.txt").open("a") as file:
        file.write("w1\n")
    assert "not those trained on so far" in refused(capsys, "main", stopped, "--resume")


def test_moved_texts_are_the_same(stopped):
    """The texts count, not where they lie."""
    shutil.move(stopped / "texts", stopped / "elsewhere")
    train("main", stopped, "--resume", "--max-steps", "5", "--data", str(stopped / "elsewhere"))


def test_state_of_the_other_script_is_refused(stopped, capsys):
    line = refused(capsys, "finetune", stopped, "--resume", str(stopped / "m.state.pt"))
    assert "state of main.py, not of finetune.py" in line


def test_a_model_is_no_state_for_finetune(stopped, capsys):
    line = refused(capsys, "finetune", stopped, "--resume", str(stopped / "m.pt"))
    assert "the model to start from is --save" in line


def test_no_state(tmp_path, capsys):
    write_corpus(tmp_path / "texts")
    for script, state in (("main", "m.state.pt"), ("finetune", "m.finetune.state.pt")):
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
    path = stopped / "m.state.pt"
    content = checkpoint.read(path)
    content["processes"] *= 2
    checkpoint.write(path, content)
    assert "of 2 processes, not 1" in refused(capsys, "main", stopped, "--resume")


# ------------------------------------------------------------------------------- files kept, flags
def test_resume_by_path_needs_no_save(stopped, monkeypatch):
    """--resume PATH knows the rest."""
    flags = main.parse_args(["--resume", str(stopped / "m.state.pt"), "--max-steps", "5",
                             "--data", str(stopped / "texts")])
    content = checkpoint.read(stopped / "m.state.pt")
    for name, value in content["args"].items():
        if name not in {"resume", "max_steps", "save"}:
            setattr(flags, name, value)
    run = main.build(flags)
    assert run.args.save == str(stopped / "m.pt")
    assert run.progress.step == 4


def test_earlier_runs_are_set_aside(tmp_path, capsys):
    write_corpus(tmp_path / "texts")
    for seed in "123":
        train("main", tmp_path, "--max-steps", "2", "--seed", seed)
    assert f"{tmp_path / 'm.pt'} is of an earlier run" in capsys.readouterr().out
    seeds = {p.name: checkpoint.read(p)["args"]["seed"] for p in tmp_path.glob("*.pt")}
    assert seeds == {"m.old.pt": 1, "m.old2.pt": 2, "m.pt": 3,
                     "m.state.old.pt": 1, "m.state.old2.pt": 2, "m.state.pt": 3}
    assert {p.name for p in (tmp_path / "logs").iterdir()} == {"m", "m-2", "m-3"}


def test_finetune_keeps_its_input(tmp_path, capsys):
    """It updates --save in place, as the published commands expect."""
    write_corpus(tmp_path / "texts")
    path = train("main", tmp_path, "--epochs", "1", *LEARNS)
    before = path.read_bytes()
    train("finetune", tmp_path, "--epochs", "2", *LEARNS)
    assert f"kept as {tmp_path / 'm.main.pt'}" in capsys.readouterr().out
    assert (tmp_path / "m.main.pt").read_bytes() == before
    assert path.read_bytes() != before
    improved = path.read_bytes()
    train("finetune", tmp_path, "--epochs", "1")
    assert (tmp_path / "m.main.pt").read_bytes() == before
    assert (tmp_path / "m.main2.pt").read_bytes() == improved


def test_finetune_never_continues_an_earlier_runs_state(tmp_path, monkeypatch):
    """Stopped before its first state is written, a new run leaves none to resume."""
    write_corpus(tmp_path / "texts")
    train("main", tmp_path, "--epochs", "1")
    train("finetune", tmp_path, "--epochs", "1")

    def killed(run):
        raise RuntimeError("killed")
    with monkeypatch.context() as patch:
        patch.setattr(training, "one_update", killed)
        with pytest.raises(RuntimeError):
            train("finetune", tmp_path, "--epochs", "1")
    with pytest.raises(SystemExit):
        train("finetune", tmp_path, "--epochs", "1", "--resume")
    assert (tmp_path / "m.finetune.state.old.pt").exists()


@pytest.mark.parametrize("form", ["model", "state_dict"])
def test_resume_from_weights_starts_a_new_run(tmp_path, capsys, form):
    """As the original's --resume in effect: its weights, everything else fresh."""
    write_corpus(tmp_path / "texts")
    first = train("main", tmp_path, "--epochs", "1", save="first.pt")
    weights = checkpoint.read(first)["model"]
    if form == "state_dict":
        first = tmp_path / "bare.pt"
        torch.save(weights, first)
    args = ["--resume", str(first), "--max-steps", "1", "--lr", "1e-9", "--wdrop", "0.3",
            "--dropoute", "0.2"]
    again = train("main", tmp_path, *args, save="again.pt")
    assert "with a fresh optimizer and epoch count" in capsys.readouterr().out
    content = checkpoint.read(again)
    assert (content["config"]["wdrop"], content["config"]["dropoute"]) == (0.3, 0.2)
    for key, value in content["model"].items():
        torch.testing.assert_close(value, weights[key], msg=key)
    assert checkpoint.read(tmp_path / "again.state.pt")["progress"]["step"] == 1


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
    lines = (stopped / "logs" / "m" / "metrics.csv").read_text().splitlines()
    assert lines[0] == "step,epoch,name,value"
    assert all(int(line.split(",")[0]) > 4 for line in lines[1:])
