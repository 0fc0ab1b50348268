"""The Long Range Arena script on tiny ListOps files: training, resuming, refusing, stopping."""

import csv
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tnn import files
from tnn.lra import main as script
from tnn.lra.main import main, parse_args
from tnn.lra.settings import TASKS, settings_of
from tnn.lra.utils import cosine_factor, evaluation_batches, training_batches

ROOT = Path(__file__).resolve().parents[3]
MAIN = ROOT / "tnn/lra/main.py"
SMALL = ["--task=listops", "--d-model=8", "--n-layers=1", "--dpb-dim=4", "--batch-size=4",
         "--epochs=2", "--warmup=2", "--lr=0.01", "--workers=0", "--seed=1", "--data=."]


def expression(rng, length):
    return "( [SM " + " ".join(str(rng.randrange(10)) for _ in range(length)) + " ] )"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """22 / 5 / 5 sums modulo ten, of 3 to 20 digits; the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    Path("listops").mkdir()
    for split, count in (("train", 22), ("val", 5), ("test", 5)):
        with open(f"listops/basic_{split}.tsv", "w", newline="") as file:
            rows = csv.writer(file, delimiter="\t")
            rows.writerow(["Source", "Target"])
            for _ in range(count):
                text = expression(rng, rng.randrange(3, 21))
                rows.writerow([text, sum(map(int, re.findall(r"\d", text))) % 10])
    return tmp_path


def run(*flags, name="a"):
    """The script in this process -> its exit code."""
    try:
        main([*SMALL, "--save", f"{name}.pt", "--log-dir", f"logs-{name}", *map(str, flags)])
    except SystemExit as stop:
        return stop.code
    return 0


def launch(*flags, name="a", **more):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(MAIN), *SMALL, "--save", f"{name}.pt", "--log-dir",
                             f"logs-{name}", *map(str, flags)], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def same(a, b):
    """Are two files' values equal, bit for bit? Times and names of files are left out."""
    if isinstance(a, dict):
        leave = {"seconds", "metrics_size", "resume", "save", "log_dir", "max_steps",
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
    assert files.read("a.state.pt")["progress"]["best"]["val"] == 20


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
    with open("logs-a/metrics.csv", newline="") as file:
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


@pytest.mark.parametrize("stop", [3, 5, 7])
def test_resuming_is_never_having_stopped(data, stop):
    """At mid-epoch, at an epoch's end, in the second epoch; dropout on."""
    assert run("--dropout", 0.2, "--max-steps", 8, name="whole") == 0
    killed_at(stop, "part", ("--dropout", 0.2, "--max-steps", 8))
    assert same(files.read("whole.state.pt"), files.read("part.state.pt"))
    assert same(files.read("whole.pt")["model"], files.read("part.pt")["model"])


def killed_at(step, name, flags):
    """Begins, dies after writing the state of update `step`, goes on to the end."""
    class Killed(Exception):
        pass

    write = files.write

    def write_and_die(path, content, **more):
        write(path, content, **more)
        if content.get("progress", {}).get("step") == step:
            raise Killed

    files.write = write_and_die
    try:
        with pytest.raises(Killed):
            run(*flags, "--save-interval", step, name=name)
    finally:
        files.write = write
    assert files.read(f"{name}.state.pt")["progress"]["step"] == step
    assert run(*flags, "--resume", name=name) == 0


def test_accumulation_counts_updates(data, capsys):
    """5 batches in pairs: 3 updates an epoch; without batch norm the update is that of the pair."""
    plain = ("--norm", "layer", "--position-dropout", 0, "--epochs", 1, "--l-max", 5)
    assert run(*plain, "--accumulate", 2, "--batch-size", 2, "--max-steps", 3, name="two") == 0
    assert run(*plain, "--batch-size", 4, "--max-steps", 3, name="one") == 0
    one, two = (files.read(f"{n}.state.pt") for n in ("one", "two"))
    assert one["progress"]["step"] == two["progress"]["step"] == 3
    for name, weight in one["model"].items():
        torch.testing.assert_close(weight, two["model"][name], atol=2e-5, rtol=1e-4, msg=name)


def test_two_processes_are_one(data):
    """Synchronised batch norm, each process half of the batch; equal lengths, no dropout."""
    flags = ("--l-max", 5, "--position-dropout", 0, "--epochs", 1)
    assert run(*flags, "--batch-size", 4, name="one") == 0
    child = launch(*flags, "--batch-size", 2, "--devices", 2, "--device", "cpu", name="two")
    _out, err = child.communicate(timeout=240)
    assert child.returncode == 0, err
    one, two = (files.read(f"{n}.state.pt") for n in ("one", "two"))
    assert one["progress"]["step"] == two["progress"]["step"] == 5
    assert len(two["parts"]) == 2
    assert two["progress"]["last"]["train_loss"] == pytest.approx(
        one["progress"]["last"]["train_loss"], abs=1e-5)
    for name, weight in one["model"].items():
        noise = name.endswith((".o.bias", ".l3.bias", "running_mean"))  # no gradient: rounding
        torch.testing.assert_close(two["model"][name], weight, atol=0.05 if noise else 5e-4,
                                   rtol=1e-3, msg=name)


# ------------------------------------------------------------------------------------- stopping
def test_sigterm_saves_the_state(data):
    child = launch("--epochs", 10000)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not Path("a.state.pt").exists():
        time.sleep(0.2)
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 143, (out, err)
    assert "--resume" in out
    step = files.read("a.state.pt")["progress"]["step"]
    assert run("--epochs", 10000, "--resume", "--max-steps", step + 3) == 0
    assert files.read("a.state.pt")["progress"]["step"] == step + 3


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
    (["--resume"], "a.state.pt"),
    (["--load", "none.pt"], "none.pt"),
    (["--norm", "rms"], "rms"),
    (["--save", "listops/basic_val.tsv/x.pt"], "--save"),
])
def test_bad_input_is_one_line_and_exit_code_2(data, capsys, flags, said):
    assert run(*flags) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in last


def test_resuming_with_other_settings_is_refused(data, capsys):
    assert run("--max-steps", 2) == 0
    assert run("--resume", "--lr", 0.5) == 2
    assert "--lr 0.5 (was 0.01)" in capsys.readouterr().err
    assert run("--resume", "a.pt") == 2
    assert "no training state" in capsys.readouterr().err


def test_pickled_and_damaged_checkpoints_are_refused(data, capsys):
    torch.save(torch.nn.Linear(1, 1), "pickled.pt")
    assert run("--load", "pickled.pt") == 2
    assert "refused" in capsys.readouterr().err
    assert run("--max-steps", 1) == 0
    content = bytearray(Path("a.state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    Path("a.state.pt").write_bytes(content)
    assert run("--resume") == 2
    assert "damaged" in capsys.readouterr().err


def test_a_fresh_run_keeps_the_files_of_the_one_before(data, capsys):
    """And with its first state, damaged, does not go on from theirs."""
    assert run("--max-steps", 2, "--save-interval", 1) == 0
    theirs = {name: Path(name).read_bytes() for name in ("a.pt", "a.state.pt", "a.state.prev.pt")}
    capsys.readouterr()
    assert run("--max-steps", 1, "--seed", 2) == 0
    assert "a.state.pt is of an earlier run: kept as a.state.old.pt" in capsys.readouterr().out
    for name, content in theirs.items():
        assert Path(name).with_suffix(".old.pt").read_bytes() == content
    assert not Path("a.state.prev.pt").exists()
    Path("a.state.pt").write_bytes(b"damaged")
    assert run("--resume") == 2


# ------------------------------------------------------------------------ settings and scripts
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("block", ["script", "yaml"])
def test_flags_take_the_settings_of_the_task(task, block):
    args = vars(parse_args(["--task", task, "--settings", block]))
    assert all(args[name] == value for name, value in settings_of(task, block).items())
    assert parse_args(["--task", task, "--lr", "7"]).lr == 7
    assert parse_args(["--task", task, "--no-use-decay"]).use_decay is False


def test_the_cosine_returns_or_stays():
    for after_end, factor in (("cycle", 1.0), ("zero", 0.0)):
        assert cosine_factor(190, 10, 100, after_end) == pytest.approx(factor)
    assert cosine_factor(0, 10, 100) == 0
    assert cosine_factor(10, 10, 100) == 1


class Processes:
    def __init__(self, world_size, global_rank):
        self.world_size, self.global_rank = world_size, global_rank


def test_batches_of_all_processes_are_those_of_one():
    one = training_batches(23, 6, Processes(1, 0), 5)
    two = [training_batches(23, 3, Processes(2, rank), 5) for rank in range(2)]
    assert [sorted(a) for a in one] == [sorted(a + b) for a, b in zip(*two, strict=True)]
    assert one != training_batches(23, 6, Processes(1, 0), 6)
    scored = [i for rank in range(2) for batch in evaluation_batches(
        23, 3, Processes(2, rank), False) for i in batch]
    assert sorted(scored) == list(range(23))
    assert evaluation_batches(7, 3, Processes(1, 0), True) == [[0, 1, 2], [3, 4, 5]]


def shell(*words):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=200,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    return done.returncode, done.stdout, done.stderr


def test_script_without_a_task_says_what_can_be_run(data):
    code, out, _ = shell(sys.executable, ROOT / "tnn/script_lra.py")
    assert code == 0
    assert "pathfinderx" in out
    assert "--task listops" in out
    code, out, _ = shell(sys.executable, ROOT / "tnn/script_lra.py", "--task", "all", "--gpus", 2,
                         "--dry-run", "--lr", "0.5")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 6
    assert all("--devices 2" in x and "--lr 0.5" in x
                                                 for x in lines)
    assert all(("tno2d" in line) == ("cifar" in line or "pathfinder" in line) for line in lines)


def test_twenty_positional_arguments(data):
    code, _out, err = shell("bash", ROOT / "tnn/run_task.sh", "listops", "gtu", 4, 1, 8, 4, "batch",
                           2, 1.5, "False", 0.9, 0.01, 0.1, 1, 0, 0.1, 8, 2, "False", 3, "--data",
                           ".", "--max-steps", 1, "--log-dir", "logs")
    assert code == 0, err
    args = files.read("listops-gtu.pt")["args"]
    wanted = dict(batch_size=4, n_layers=1, d_model=8, dpb_dim=4, norm="batch", expand_tno=2,
                  expand_glu=1.5, use_decay=False, gamma=0.9, lr=0.01, weight_decay=0.1, workers=0,
                  dropout=0.1, dpb_type=8, dpb_layers=2, prenorm=False, warmup=3, devices=1)
    assert {name: args[name] for name in wanted} == wanted
    code, _, err = shell("bash", ROOT / "tnn/train_lra.sh", "listops")
    assert code == 2
    assert "usage" in err


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit):
        script.parse_args(["-h"])
    assert "None)" in capsys.readouterr().out
