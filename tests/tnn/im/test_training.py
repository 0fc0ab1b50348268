"""The trainer: resuming bit for bit, processes, recipes, endings."""

import csv
import json
import re
import signal
import time
from dataclasses import asdict

import pytest
import torch
from torch.testing import assert_close

from harness import files
from tests.tnn.im.small import finish, start, train, write_digits
from tnn.im import main as script
from tnn.im.run import EpochLog

PLAIN = ["--mixup", "0", "--cutmix", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def unbroken(data):
    """A run that was never stopped, with everything random switched on."""
    train(data, "unbroken", "--stochastic-depth", "0.3")
    return data / "unbroken"


def same_state(one, two):
    a, b = (files.read(folder / "checkpoint_last.pth") for folder in (one, two))
    for name in a["model"]:
        assert torch.equal(a["model"][name], b["model"][name]), name
    assert a["progress"] == b["progress"]
    for i, moments in a["optimizer"]["state"].items():
        assert torch.equal(moments["exp_avg_sq"], b["optimizer"]["state"][i]["exp_avg_sq"])
    for name in ("torch", "python"):
        assert str(a["processes"][0]["random"][name]) == str(b["processes"][0]["random"][name])
    assert (one / "log.txt").read_text() == (two / "log.txt").read_text()


def test_lines(data, capsys):
    train(data, "lines", "--epochs", "2", "--fp32-resume")
    out = capsys.readouterr().out
    for expected in (
            r"^Epoch: \[1\]  \[0/4\]  eta: 0:\d\d:\d\d  lr: 0.000001  loss: (\d\.\d{4}) \(\1\)  "
            r"time: \d\.\d{4}  data: \d\.\d{4}$",
            r"^Epoch: \[1\]  \[3/4\]  eta: ",
            r"^Epoch: \[1\] Total time: 0:00:\d\d \(\d\.\d{4} s / it\)$",
            r"^Averaged stats: lr: 0.000001  loss: \d\.\d{4} \(\d\.\d{4}\)$",
            r"^Test:  \[0/2\]  eta: .*  acc1: \d+\.\d{4} \(\d+\.\d{4}\)  acc5: ",
            r"^\* Acc@1 \d+\.\d{3} Acc@5 \d+\.\d{3} loss \d\.\d{3}$",
            r"^Accuracy of the network on the 80 test images: \d+\.\d%$",
            r"^Max accuracy: \d+\.\d\d%$", r"^Training time 0:00:\d\d$"):
        assert re.search(expected, out, re.MULTILINE), f"{expected} in {out}"
    lines = [json.loads(line) for line in (data / "lines/log.txt").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    assert set(lines[0]) == {"train_lr", "train_loss", "test_loss", "test_acc1", "test_acc5",
                             "epoch", "n_parameters"}
    content = files.read(data / "lines/checkpoint_last.pth")
    trainable = sum(v.numel() for n, v in content["model"].items() if not n.endswith("gamma"))
    assert lines[0]["n_parameters"] == trainable
    assert f"Max accuracy: {max(line['test_acc1'] for line in lines):.2f}%" in out
    assert {p.name for p in (data / "lines").glob("*.pth*")} == {
        "checkpoint_0.pth", "checkpoint_best.pth", "checkpoint_last.pth",
        "checkpoint_last.pth.prev"}
    with (data / "metrics/lines/metrics.csv").open() as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert {"train_loss", "test_acc1"} <= names


@pytest.mark.parametrize("stop", [2, 4, 7])
def test_resuming_gives_the_same_bits(data, unbroken, stop):
    """In the middle of an epoch, at its end, and after the schedule has changed."""
    out = f"stopped{stop}"
    common = ["--stochastic-depth", "0.3", "--save-interval", "3"]
    train(data, out, *common, "--max-steps", str(stop))
    assert files.read(data / out / "checkpoint_last.pth")["progress"]["step"] == stop
    train(data, out, *common, "--resume")
    same_state(data / out, unbroken)


def test_resuming_from_the_best(data, unbroken):
    """The best accuracy is not forgotten, and later epochs are trained again."""
    best = files.read(unbroken / "checkpoint_best.pth")
    run = train(data, "from_best", "--stochastic-depth", "0.3", "--resume",
                str(unbroken / "checkpoint_best.pth"))
    assert run.progress.max_accuracy >= best["progress"]["max_accuracy"]
    assert asdict(run.progress) == files.read(unbroken / "checkpoint_last.pth")["progress"]


def test_the_best_survives_worse_epochs(data):
    train(data, "worse", "--epochs", "2", "--max-steps", "4")
    path = data / "worse/checkpoint_last.pth"
    content = files.read(path)
    content["progress"]["max_accuracy"] = 99.0
    files.write(path, content)
    (data / "worse/checkpoint_best.pth").write_bytes(b"the best")
    run = train(data, "worse", "--epochs", "2", "--resume")
    assert run.progress.max_accuracy == 99
    assert (data / "worse/checkpoint_best.pth").read_bytes() == b"the best"


def test_accumulation_equals_a_large_batch(data):
    one = train(data, "large", *PLAIN, "--epochs", "1")
    two = train(data, "small", *PLAIN, "--epochs", "1", "--batch-size", "32", "--accumulate", "2")
    assert one.lr == two.lr
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert_close(a, b, atol=2e-6, rtol=1e-4)


# By default tests/trust/test_parallel.py holds several processes against one.
@pytest.mark.slow
def test_two_processes_equal_one(data):
    one = train(data, "alone", *PLAIN, "--epochs", "2")
    code, out, errors = finish(start(data, "pair", *PLAIN, "--epochs", "2", "--batch-size", "32",
                                     "--devices", "2", "--dist-eval"))
    assert code == 0, errors
    pair = files.read(data / "pair/checkpoint_last.pth")
    for name, ours in one.model.state_dict().items():
        assert_close(pair["model"][name], ours, atol=2e-6, rtol=1e-4)
    assert pair["progress"]["max_accuracy"] == one.progress.max_accuracy
    assert len(pair["processes"]) == 2
    assert out.count("Max accuracy") == 2  # one process speaks for both


def test_ema_and_plateau_resume(data):
    more = ["--model-ema", "0.9", "--sched", "plateau", "--patience-epochs", "0",
            "--warmup-epochs", "0"]
    whole = train(data, "ema", *more)
    train(data, "ema_stopped", *more, "--max-steps", "6")
    train(data, "ema_stopped", *more, "--resume")
    same_state(data / "ema", data / "ema_stopped")
    a, b = (files.read(data / out / "checkpoint_last.pth") for out in ("ema", "ema_stopped"))
    for name in a["ema"]:
        assert torch.equal(a["ema"][name], b["ema"][name])
    assert not torch.equal(a["ema"]["head.1.bias"], whole.model.head[1].bias)
    assert a["lr_scheduler"] == b["lr_scheduler"]
    assert "test_acc1_ema" in (data / "ema/log.txt").read_text()


@pytest.mark.parametrize("flag", [["--opt", "sgd"], ["--aa", "", "--color-jitter", "0.3"],
                                  ["--mixup-mode", "elem"], ["--mixup", "0"],
                                  ["--cutmix-minmax", "0.2", "0.8"], ["--sched", "step"],
                                  ["--sched", "tanh", "--no-repeated-aug"],
                                  ["--lr-noise", "0.3", "--opt-betas", "0.9", "0.98"],
                                  ["--precision", "bf16-mixed"], ["--precision", "64"],
                                  ["--finetune", "BEST", "--test"]])
def test_other_recipes_run(data, unbroken, flag):
    flag = [str(unbroken / "checkpoint_best.pth") if f == "BEST" else f for f in flag]
    run = train(data, "other", "--epochs", "1", *flag)
    assert run.progress.step == {"--test": 1, "--no-repeated-aug": 5}.get(flag[-1], 4)
    assert all(p.isfinite().all() for p in run.model.parameters())


def test_finetune_leaves_another_head_out(data, unbroken, tmp_path, capsys):
    weights = files.read(unbroken / "checkpoint_best.pth")["model"]
    weights["head.1.weight"], weights["head.1.bias"] = torch.zeros(7, 32), torch.zeros(7)
    files.write(tmp_path / "seven.pth", {"model": weights})
    run = train(data, "tuned", "--finetune", str(tmp_path / "seven.pth"), "--eval")
    assert "Removing key head.1.bias" in capsys.readouterr().out
    name = "layers.0.token_mixer.o.weight"
    assert torch.equal(run.model.state_dict()[name], weights[name])


def test_learning_rate_counts_all_images(data):
    run = train(data, "rate", "--batch-size", "8", "--accumulate", "3",
                "--max-steps", "1", "--warmup-epochs", "0")
    assert run.lr == pytest.approx(0.01 * 24 / 512)


# ------------------------------------------------------------------------------------ signals
# By default tests/trust sends both signals to every script.
@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_the_state(data, signum, code):
    """And the run that follows ends with the bits of one that was never stopped."""
    out = f"signal{code}"
    process = start(data, out, "--epochs", "6")
    for line in process.stdout:
        if line.startswith("Epoch: [1]"):
            process.send_signal(signum)
            break
    assert finish(process)[0] == code
    stopped_at = files.read(data / out / "checkpoint_last.pth")["progress"]["step"]
    assert 4 < stopped_at < 24
    train(data, out, "--epochs", "6", "--resume")
    if not (data / "six").exists():
        train(data, "six", "--epochs", "6")
    same_state(data / out, data / "six")


@pytest.mark.slow
def test_kill_loses_no_more_than_the_interval(data):
    process = start(data, "killed", "--epochs", "200", "--save-interval", "2", "--num_workers", "1")
    path = data / "killed/checkpoint_last.pth"
    while not path.exists() and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    finish(process)
    assert files.read(path)["progress"]["step"] >= 2


@pytest.mark.parametrize(("flags", "reason"), [
    (["--input-size", "30"], "--input-size 30"),
    (["--input-size", "4"], "images of 4 x 4 pixels are not made of patches"),
    (["--aa", "nonsense"], "--aa nonsense: Unknown AA policy"),
    (["--cutmix-minmax", "0.5", "0.5"], "--cutmix-minmax 0.5 0.5: give two shares"),
    (["--finetune", "http://127.0.0.1:9/x.pth"], "--finetune http://127.0.0.1:9/x.pth: <urlopen"),
    (["--sched", "plateau", "--decay-rate", "1"], "--decay-rate must be in (0, 1), not 1.0"),
    (["--sched", "step", "--decay-epochs", "0"], "--decay-epochs must be positive"),
    (["--lr-noise", "0.1", "--lr-noise-pct", "-1"], "--lr-noise-pct must be positive"),
    (["--lr-noise", "0.1", "--lr-noise-pct", "1e-9"], "--lr-noise-pct 1e-09 is so small"),
    (["--cutmix-minmax", "0", "1e30"], "--cutmix-minmax 0 1e+30: give two shares")],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_flags_that_do_not_go_together_are_one_line(data, capsys, flags, reason):
    with pytest.raises(SystemExit) as stop:
        train(data, "refused", *flags)
    assert stop.value.code == 2
    *usage, line = capsys.readouterr().err.strip().splitlines()
    assert reason in line
    assert not usage or usage[0].startswith("usage:")


@pytest.mark.parametrize("torn", [b'{"train_lr": 1e-05, "trai', b"\xff\xfe", b"5", b"{}"])
def test_a_torn_last_line_of_the_log(tmp_path, torn):
    whole = b'{"epoch": 0}\n{"epoch": 1}\n'
    (tmp_path / "log.txt").write_bytes(whole + torn)
    EpochLog(tmp_path, 2, own=True)
    assert (tmp_path / "log.txt").read_bytes() == whole


@pytest.mark.parametrize("more", [[], ["--max-steps", "1"]], ids=["an epoch", "within an epoch"])
def test_a_test_loss_that_is_not_finite_ends_the_run(data, monkeypatch, capsys, more):
    monkeypatch.setattr(script, "score_batch", lambda model, images, labels: (
        torch.tensor(torch.nan), torch.tensor(1), torch.tensor(5)))
    with pytest.raises(SystemExit) as stop:
        train(data, "nan", "--epochs", "1", *more)
    assert stop.value.code == 1
    assert "the test loss is nan at epoch 0" in capsys.readouterr().err
    assert not (data / "nan/checkpoint_best.pth").exists()
