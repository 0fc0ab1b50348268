"""The shell scripts for images, and the original's command line."""

import os
import subprocess

import pytest

from harness import files
from tests.tnn.im.small import ROOT, command, flags, write_digits
from tnn.im.args import parse_args


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


def shell(script, *arguments, **environment):
    return subprocess.run(["bash", str(ROOT / "tnn" / script), *arguments], text=True, check=False,
                          capture_output=True, env=os.environ | environment)


@pytest.mark.parametrize(("call", "environment", "said"), [
    (("script_im.sh",), {}, "SMOKE=1 bash tnn/script_im.sh"),
    (("script_im.sh",), {"DATASET": "CIFAR10"}, "./getdata.sh cifar10"),
    (("script_im.sh",), {"DATASET": "PETS"}, "not 'PETS'"),
    (("script_im.sh",), {"GPUS": "many"}, "GPUS is a positive number"),
    (("train_im.sh", "1", "2"), {}, "usage: bash train_im.sh GPUS BATCH ARCH RUN LR DATASET"),
])
def test_scripts_say_one_line(call, environment, said, tmp_path):
    done = shell(*call, DATA=str(tmp_path / "none"), **environment)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_train_im_positionals(data, tmp_path):
    """The nine positionals reach main.py, and what follows overrides them."""
    small = flags(data, "script")[4:]
    small = small[:small.index("--batch-size")]
    done = shell("train_im.sh", "2", "32", "tnn_vit_e3g1_tiny_rpe_l1_95", "name", "0.008", "DIGITS",
                 "0.1", "1", "3", *small, "--epochs", "1", "--log-dir", str(tmp_path),
                 DATA=str(data), CKPT_DIR=str(tmp_path / "run"), KEEP_BATCH="1")
    assert done.returncode == 0, done.stderr
    assert "2 batches an update" in done.stderr
    args = files.read(tmp_path / "run/checkpoint_last.pth")["args"]
    assert (args["batch_size"], args["accumulate"], args["lr"]) == (32, 2, 0.008)
    assert (args["model"], args["data_set"]) == ("tnn_vit_e3g1_tiny_rpe_l1_95", "DIGITS")
    assert (args["weight_decay"], args["warmup_epochs"], args["clip_grad"]) == (0.1, 1, 3.0)
    assert args["fp32_resume"]
    assert args["dist_eval"]
    assert args["broadcast_buffers"]


def test_the_original_command_line_is_understood(data):
    words = [*command(data, "all")[2:], "--drop", "0.1", "--drop-path", "0.2", "--use-mcloader",
             "--pin-mem", "--no-pin-mem", "--world_size", "4", "--dist_url", "env://",
             "--dr", "0.2", "--inat-category", "genus", "--cooldown-epochs", "3", "--resplit",
             "--start_epoch", "1"]
    args = parse_args(words)
    assert args.decay_rate == 0.2
    assert not args.pin_mem


def test_a_first_epoch_behind_the_last_is_refused(data, capsys):
    """It would train nothing and exit with 0."""
    with pytest.raises(SystemExit):
        parse_args([*command(data, "all")[2:], "--epochs", "3", "--start_epoch", "3"])
    assert "--start_epoch 3: --epochs 3 are counted from 0" in capsys.readouterr().err
