"""The Long Range Arena script on tiny ListOps files: training, resuming, refusing, stopping."""

import csv
import math
import re
import signal
import time
from pathlib import Path

import pytest
import torch

from harness import files
from tests.tnn.lra.small import launch, run, write_sums
from tnn.lra import main as script


@pytest.fixture
def data(tmp_path, monkeypatch):
    """22 / 5 / 5 sums modulo ten; the working directory."""
    monkeypatch.chdir(tmp_path)
    write_sums(tmp_path)
    return tmp_path


def same(a, b):
    """Are two files' values equal, bit for bit? Times and names of files are left out."""
    if isinstance(a, dict):
        leave = {"seconds", "metrics_size", "metrics", "resume", "save", "log_dir", "max_steps",
                 "save_interval"}
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k not in leave)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


# ------------------------------------------------------------------------------------- training
def test_an_epoch_cut_short_leaves_the_best_model_alone(data, monkeypatch):
    """Else a resumed run that finds no better one would end with it."""
    values = iter((10.0, 50.0, 20.0))

    def evaluated(run):
        value = next(values)
        return {"val_loss": 1.0, "val": value, "test_loss": 1.0, "test": value}
    monkeypatch.setattr(script, "evaluate_both", evaluated)
    assert run("--max-steps", 7) == 0     # an epoch has five updates
    assert files.read("a.pt")["epoch"] == 1
    assert run("--resume") == 0
    assert files.read("a.pt")["epoch"] == 2
    assert files.read("a.pt.state")["progress"]["best"]["val"] == 20


@pytest.mark.parametrize("loss", ["val", "test"])
def test_a_loss_that_is_not_finite_ends_the_run(data, monkeypatch, capsys, loss):
    """With weights of nan, every class is the first: an accuracy like any other."""
    values = iter((math.nan, 1.0) if loss == "test" else (1.0, math.nan))  # the test set is first
    monkeypatch.setattr(script, "evaluate", lambda run, data: (next(values), 10.0))
    assert run("--max-steps", 2) == 1
    assert f"the {loss.replace('val', 'validation')} loss is nan" in capsys.readouterr().err
    assert not Path("a.pt").exists()


def test_trains_reports_and_keeps_the_best(data, capsys):
    assert run("--log-interval", 2) == 0
    out = capsys.readouterr().out
    assert "listops, tno, script settings: 22 / 5 / 5 samples, 10 classes" in out
    epochs = re.findall(r"epoch (\d) \| step (\d+) .*val loss [\d.]+ acc ([\d.]+) .*"
                        r"test loss [\d.]+ acc ([\d.]+)", out)
    assert [(e, s) for e, s, *_ in epochs] == [("1", "5"), ("2", "10")]
    best = files.read("a.pt")
    assert best["val_accuracy"] == max(float(e[2]) for e in epochs)
    end = re.search(r"End of training \| test acc ([\d.]+) \| val acc ([\d.]+) \| best epoch (\d)",
                    out)
    assert float(end[1]) == best["test_accuracy"]
    assert int(end[3]) == best["epoch"]
    with open("logs/a.pt/metrics.csv", newline="") as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert names >= {"train/accuracy", "train/loss", "val/accuracy", "val/loss", "test/accuracy",
                     "test/loss", "trainer/loss", "trainer/epoch", "norm/0", "norm/1", "timer/step",
                     "timer/epoch", "timer/validation", "params/total", "params/trainable",
                     "params/fixed", "final/val/accuracy", "final/test/accuracy"}


def test_evaluating_the_saved_model_gives_its_accuracy(data, capsys):
    assert run() == 0
    best = files.read("a.pt")
    assert run("--load", "a.pt", "--eval") == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.endswith(f"acc {best['test_accuracy']:.2f}")
    # Weights of the original come in a Lightning checkpoint.
    torch.save({"state_dict": best["model"], "epoch": 3}, "lightning.ckpt")
    assert run("--load", "lightning.ckpt", "--eval") == 0
    assert capsys.readouterr().out.splitlines()[-1] == line
    assert run("--load", "a.pt.state", "--eval") == 0
    assert "a.pt.state is a training state: its weights are those of the last" in (
        capsys.readouterr().err)


@pytest.mark.parametrize(("stop", "more"), [
    (3, ()), (5, ()), (7, ()), (4, ("--batch-size", 2, "--accumulate", 2))])
def test_resuming_is_never_having_stopped(data, stop, more):
    """At mid-epoch, at an epoch's end, in the second epoch; dropout on."""
    common = ("--dropout", 0.2, "--max-steps", 8, *more)
    assert run(*common, name="whole") == 0
    killed_at(stop, "part", common)
    assert same(files.read("whole.pt.state"), files.read("part.pt.state"))
    assert same(files.read("whole.pt")["model"], files.read("part.pt")["model"])


def killed_at(step, name, flags):
    """Begins, dies after writing the state of update `step`, goes on to the end."""
    class Killed(Exception):
        pass

    write = files.write

    def write_and_die(path, content, **more):
        write(path, content, **more)
        if content.get("progress", {}).get("step") == step:
            raise Killed  # no error that the script knows how to end with

    files.write = write_and_die
    try:
        with pytest.raises(Killed):
            run(*flags, "--save-interval", step, name=name)
    finally:
        files.write = write
    assert files.read(f"{name}.pt.state")["progress"]["step"] == step
    assert run(*flags, "--resume", name=name) == 0


def test_accumulation_counts_updates(data, capsys):
    """5 batches in pairs: 3 updates an epoch; without batch norm the update is that of the pair."""
    plain = ("--norm", "layer", "--position-dropout", 0, "--epochs", 1, "--l-max", 5)
    assert run(*plain, "--accumulate", 2, "--batch-size", 2, "--max-steps", 3, name="two") == 0
    assert run(*plain, "--batch-size", 4, "--max-steps", 3, name="one") == 0
    one, two = (files.read(f"{n}.pt.state") for n in ("one", "two"))
    assert one["progress"]["step"] == two["progress"]["step"] == 3
    for name, weight in one["model"].items():
        torch.testing.assert_close(weight, two["model"][name], atol=2e-5, rtol=1e-4, msg=name)


# By default tests/trust/test_parallel.py holds several processes against one.
@pytest.mark.slow
def test_two_processes_are_one(data):
    """Synchronised batch norm, each process half of the batch; equal lengths, no dropout."""
    flags = ("--l-max", 5, "--position-dropout", 0, "--epochs", 1)
    assert run(*flags, "--batch-size", 4, name="one") == 0
    child = launch(*flags, "--batch-size", 2, "--devices", 2, "--device", "cpu", name="two")
    _out, err = child.communicate(timeout=240)
    assert child.returncode == 0, err
    one, two = (files.read(f"{n}.pt.state") for n in ("one", "two"))
    assert one["progress"]["step"] == two["progress"]["step"] == 5
    assert len(two["processes"]) == 2
    assert two["progress"]["last"]["train_loss"] == pytest.approx(
        one["progress"]["last"]["train_loss"], abs=1e-5)
    for name, weight in one["model"].items():
        noise = name.endswith((".o.bias", ".l3.bias", "running_mean"))  # no gradient: rounding
        torch.testing.assert_close(two["model"][name], weight, atol=0.05 if noise else 5e-4,
                                   rtol=1e-3, msg=name)


# ------------------------------------------------------------------------------------- stopping
# By default tests/trust sends both signals to every script.
@pytest.mark.slow
def test_sigterm_saves_the_state(data):
    child = launch("--epochs", 10000)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not Path("a.pt.state").exists():
        time.sleep(0.2)
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 143, (out, err)
    assert "--resume" in out
    step = files.read("a.pt.state")["progress"]["step"]
    assert run("--epochs", 10000, "--resume", "--max-steps", step + 3) == 0
    assert files.read("a.pt.state")["progress"]["step"] == step + 3


def test_not_a_number_ends_the_run(data, capsys):
    assert run("--lr", 1e30, "--warmup", 0, "--norm", "none") == 1
    assert re.search(r"the (loss|gradient of \S+) is not finite at epoch \d+, step \d+",
                     capsys.readouterr().err)


# ------------------------------------------------------------------------------------- refusing
@pytest.mark.parametrize(("flags", "said"), [
    (["--data", "nowhere"], "nowhere"),
    (["--batch-size", "0"], "--batch-size"),
    (["--batch-size", "100"], "--batch-size"),
    (["--dropout", "1"], "--dropout"),
    (["--arch", "tno2d"], "tno2d"),
    (["--d-model", "7"], "d_model 7"),
    (["--eval"], "--load"),
    (["--resume"], "a.pt.state"),
    (["--load", "none.pt"], "none.pt"),
    (["--norm", "rms"], "rms"),
    (["--save", "listops/basic_val.tsv/x.pt"], "--save"),
    (["--save", "listops"], "listops is a folder"),
])
def test_bad_input_is_one_line_and_exit_code_2(data, capsys, flags, said):
    assert run(*flags) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in last


def test_resuming_with_other_settings_is_refused(data, capsys):
    assert run("--max-steps", 2) == 0
    assert run("--resume", "--lr", 0.5) == 2
    assert "--lr 0.01 there, 0.5 here" in capsys.readouterr().err
    assert run("--resume", "a.pt") == 2
    assert "no training state" in capsys.readouterr().err


def test_pickled_and_damaged_checkpoints_are_refused(data, capsys):
    torch.save(torch.nn.Linear(1, 1), "pickled.pt")
    assert run("--load", "pickled.pt") == 2
    assert "refused" in capsys.readouterr().err
    assert run("--max-steps", 1) == 0
    content = bytearray(Path("a.pt.state").read_bytes())
    content[len(content) // 2] ^= 1
    Path("a.pt.state").write_bytes(content)
    assert run("--resume") == 2
    assert "damaged" in capsys.readouterr().err


def test_a_fresh_run_keeps_the_files_of_the_one_before(data, capsys):
    """And with its first state, damaged, does not go on from theirs."""
    assert run("--max-steps", 2, "--save-interval", 1) == 0
    theirs = {name: Path(name).read_bytes() for name in ("a.pt", "a.pt.state", "a.pt.state.prev")}
    capsys.readouterr()
    assert run("--max-steps", 1, "--seed", 2) == 0
    assert "a.pt.state is of an earlier run: kept as a.pt.state.old" in capsys.readouterr().out
    for name, content in theirs.items():
        assert Path(f"{name}.old").read_bytes() == content
    assert not Path("a.pt.state.prev").exists()
    Path("a.pt.state").write_bytes(b"damaged")
    assert run("--resume") == 2


def test_each_run_has_curves_of_its_own(data):
    """A fresh run under the same name, too; a resumed one goes on with them."""
    for more in (("--max-steps", 7), ("--max-steps", 7, "--seed", 2), ("--seed", 2, "--resume")):
        assert run(*more) == 0
    last = {}
    for name in ("a.pt", "a.pt-2"):
        with open(f"logs/{name}/metrics.csv", newline="") as file:
            last[name] = [int(row["step"]) for row in csv.DictReader(file)][-1]
    assert last == {"a.pt": 7, "a.pt-2": 10}
    assert not Path("logs/a.pt-3").exists()


def test_changed_data_are_refused_by_name(data, capsys):
    assert run("--max-steps", 2) == 0
    for split, word in (("val", "basic_val.tsv"), ("train", "basic_train.tsv")):
        path = Path(f"listops/basic_{split}.tsv")
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"SM", b"MAX", 1))
        assert run("--resume") == 2
        assert f"--resume: {word} is not what the run" in capsys.readouterr().err
        path.write_bytes(whole)
    assert run("--resume", "--max-steps", 3) == 0


# By default tests/e2e/test_trellisnet_ddp.py asks this of the harness.
@pytest.mark.slow
def test_another_number_of_processes_is_refused(data):
    child = launch("--batch-size", 2, "--devices", 2, "--device", "cpu", "--max-steps", 2)
    _, errors = child.communicate(timeout=240)
    assert child.returncode == 0, errors
    child = launch("--batch-size", 2, "--resume")
    assert "give --devices 2" in child.communicate(timeout=240)[1]
    assert child.returncode == 2
