"""A run is kept: what it leaves, what --resume refuses, what becomes of earlier runs."""

import csv
import itertools
import shutil
import signal
from pathlib import Path

import pytest
import torch

from harness import files
from harness.keeper import STATE_FORMAT
from tests.harness import toy
from tests.harness.keeping import STEPS, assert_same_run, names, refused, text_of
from tests.harness.same import same


# ----------------------------------------------------------------------------- what is left
def test_what_a_run_leaves(unbroken):
    assert names(unbroken) == {"m.pt", "m.pt.state", "m.pt.state.prev", "m.pt.txt"}
    assert {path.name.split(".")[0] for path in (unbroken / "logs/m.pt").iterdir()} == {
        "metrics", "args", "events"}
    state, best = files.read(unbroken / "m.pt.state"), files.read(unbroken / "m.pt")
    assert (state["format"], state["script"]) == (STATE_FORMAT, "tests/harness/toy.py")
    assert state["args"]["lr"] == best["args"]["lr"] == 0.1
    assert (state["progress"]["epoch"], state["progress"]["step"]) == (4, STEPS)
    assert state["save"] == str(unbroken / "m.pt")
    lines = text_of(unbroken)
    assert [line.split()[0] for line in lines] == ["epoch", "epoch", "epoch", "test"]
    assert lines[-1].endswith(f"of epoch {best['epoch']}")


def test_it_draws_its_curves(unbroken):
    with (unbroken / "logs/m.pt/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["name"] == "train_loss"] == [*range(1, 16)]
    assert [(int(row["step"]), int(row["epoch"])) for row in rows if row["name"] == "valid_loss"
            ] == [(5, 1), (10, 2), (15, 3)]


def test_a_seed_gives_the_same_run(unbroken, here):
    toy.main([])
    assert_same_run(here, unbroken)


@pytest.mark.parametrize(("interval", "count"), [("1", 15 + 3), ("4", 3 + 3), ("5", 3 + 3),
                                                 ("1000", 3)])
def test_how_often_the_state_is_written(here, monkeypatch, interval, count):
    """Every so many updates, and at each epoch's end."""
    written, own = [], files.write
    monkeypatch.setattr(files, "write", lambda path, *a, **k: (
        written.append(Path(path).name), own(path, *a, **k)))
    toy.main(["--save-interval", interval])
    assert written.count("m.pt.state") == count


def test_the_previous_state_is_the_one_before(here):
    toy.main(["--save-interval", "1", "--max-steps", "4"])
    assert files.read("m.pt.state")["progress"]["step"] == 4
    assert files.read("m.pt.state.prev")["progress"]["step"] == 3


# --------------------------------------------------------------------------------- refusals
@pytest.fixture
def stopped(here):
    Path("text.txt").write_text("one\n")
    toy.main(["--max-steps", "7", "--text", "text.txt"])
    return here


TEXT = ("--text", "text.txt")


@pytest.mark.parametrize(("flag", "says"), [("--lr 0.2", "--lr 0.1 there, 0.2 here"),
                                            ("--seed 8", "--seed 7 there, 8 here"),
                                            ("--batch_size 9", "--batch_size 8 there, 9 here"),
                                            ("--precision 64", "--precision 32 there, 64 here")])
def test_other_settings(stopped, capsys, flag, says):
    line = refused(capsys, *TEXT, "--resume", *flag.split())
    assert line == (f"toy.py: --resume: m.pt.state was made with other settings ({says}); give the "
                    "same ones")


def test_other_inputs(stopped, capsys):
    """Named; where they lie does not matter."""
    Path("elsewhere").mkdir()
    shutil.move("text.txt", "elsewhere/text.txt")
    toy.main(["--text", "elsewhere/text.txt", "--resume", "--max-steps", "8"], free=["text"])
    Path("elsewhere/text.txt").write_text("two\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy.flags, "FREE_ON_RESUME", toy.flags.FREE_ON_RESUME | {"text"})
        line = refused(capsys, "--text", "elsewhere/text.txt", "--resume")
    assert "--resume: text.txt is not what the run in m.pt.state was trained on" in line


def test_no_state(here, capsys):
    assert refused(capsys, "--resume") == (
        "toy.py: --resume: there is no training state m.pt.state; start without --resume")
    assert "--resume: there is no file x.state" in refused(capsys, "--resume", "x.state")


def test_a_state_of_another_script(stopped, capsys):
    content = files.read("m.pt.state") | {"script": "awd_lstm/finetune.py"}
    files.write("m.pt.state", content)
    assert "m.pt.state is a state of awd_lstm/finetune.py, not of tests/harness/toy.py" in refused(
        capsys, *TEXT, "--resume")


def test_another_number_of_processes(stopped, capsys):
    content = files.read("m.pt.state")
    content["processes"] *= 2
    files.write("m.pt.state", content)
    assert "m.pt.state is of 2 processes, not 1: give --devices 2" in refused(
        capsys, *TEXT, "--resume")


def test_the_best_model_must_still_be_there(stopped, capsys):
    """It cannot be made again; said at once, not at the closing test."""
    Path("m.pt").unlink()
    assert "--resume: the best model so far, m.pt, is not there" in refused(
        capsys, *TEXT, "--resume")


def test_without_a_best_model_none_is_missed(here):
    toy.main(["--max-steps", "2"])
    assert not Path("m.pt").exists()
    toy.main(["--resume"])


def test_the_state_of_another_run(here, capsys):
    """Of release 0.1, which gave ptb.a and ptb.b one state."""
    toy.main(["--save", "ptb.b", "--max-steps", "2"])
    Path("ptb.b.state").rename("ptb.state.pt")
    line = refused(capsys, "--save", "ptb.a", "--resume")
    assert f"ptb.state.pt is the state of {here / 'ptb.b'}, not of ptb.a" in line


@pytest.mark.parametrize("takes", [False, True])
def test_a_model_in_place_of_a_state(unbroken, here, capsys, takes):
    """Some scripts start from its weights."""
    weights = {"0.weight": torch.ones(4, 3)}
    files.write("model.pt", weights)
    if not takes:
        assert refused(capsys, "--resume", "model.pt") == (
            "toy.py: --resume: model.pt is no training state of tests/harness/toy.py")
        return
    found = []

    class Watched(toy.Keeper):
        def __enter__(self):
            super().__enter__()
            found.append((self.weights, self.found))
            return self
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "Keeper", Watched)
        toy.main(["--resume", "model.pt", "--epochs", "1"], takes_weights=True)
    assert same(found[0][0], weights)
    assert found[0][1] is None


def test_a_place_that_cannot_be(here, capsys):
    Path("models").mkdir()
    assert "--save models is a folder" in refused(capsys, "--save", "models")
    Path("file").touch()
    assert refused(capsys, "--save", "file/m.pt").startswith("toy.py: --save file/m.pt: ")
    assert refused(capsys, "--log-dir", "file").startswith("toy.py: --log-dir file: ")


def test_folders_are_made(here):
    toy.main(["--save", "a/b/m.pt", "--max-steps", "1", "--log-dir", "c/d"])
    assert names(here / "a/b") == {"m.pt.state", "m.pt.txt"}
    assert (here / "c/d/m.pt/metrics.csv").is_file()


# ----------------------------------------------------------------------------- earlier runs
def test_earlier_runs_are_kept(here, capsys):
    contents = set()
    for seed in "123":
        toy.main(["--seed", seed, "--epochs", "1"])
        contents |= {path.read_bytes() for path in here.iterdir() if path.is_file()}
    assert "m.pt is of an earlier run: kept as m.pt.old" in capsys.readouterr().out
    kept = {path.name: path.read_bytes() for path in here.iterdir() if path.is_file()}
    assert contents <= set(kept.values())
    endings = ("", ".state", ".txt")
    assert set(kept) == {f"m.pt{ending}{old}" for ending, old in
                         itertools.product(endings, ("", ".old", ".old2"))}
    assert {path.name for path in (here / "logs").iterdir()} == {"m.pt", "m.pt-2", "m.pt-3"}


def test_a_fresh_run_that_dies_early_leaves_no_other_state_to_resume(here, capsys, monkeypatch):
    toy.main(["--epochs", "1"])

    def fail(*_):
        raise RuntimeError("a fault")
    with monkeypatch.context() as patch:
        patch.setattr(toy, "one_update", fail)
        with pytest.raises(RuntimeError):
            toy.main(["--epochs", "1"])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        toy.main(["--epochs", "1", "--resume"])
    assert "there is no training state m.pt.state" in capsys.readouterr().err
    assert files.read("m.pt.state.old")["progress"]["step"] == toy.UPDATES


def test_what_is_tuned_is_kept_and_stays(here):
    files.write("m.pt", {"model": {"0.weight": torch.zeros(1)}})
    before = Path("m.pt").read_bytes()
    toy.main(["--epochs", "1"], tunes=True, label="finetune")
    assert Path("m.pt.main").read_bytes() == before != Path("m.pt").read_bytes()
    assert "m.pt.finetune.state" in names(here)
    assert (here / "logs/m.pt.finetune").is_dir()
    toy.main(["--epochs", "1", "--resume"], tunes=True, label="finetune")
    assert "m.pt.main2" not in names(here)


# ------------------------------------------------------------------------------- evaluation
def test_a_call_that_only_evaluates_writes_nothing(unbroken, here):
    """And does not wait for the run that is writing there."""
    shutil.copytree(unbroken, here, dirs_exist_ok=True)
    before = {p: p.stat().st_mtime_ns for p in here.rglob("*")}
    args = toy.parse_args(["--resume"])
    with toy.Keeper("tests/harness/toy.py", args, writes=False) as keeper:
        run = toy.Run(args, keeper)
        keeper.resume(run)
        keeper.log(loss=1.0)
        keeper.save()
        assert run.progress.step == STEPS
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert {p: p.stat().st_mtime_ns for p in here.rglob("*")} == before


def test_a_script_that_saves_nothing(here):
    """--output_dir '' of the images."""
    run = toy.main(["--max-steps", "3", "--save", ""], text_log=None)
    assert run.progress.step == 3
    assert list(here.iterdir()) == []
