"""Checkpoints of ours and of the original: continued, refused, kept."""

import argparse
import os
import re

import pytest
import torch
from PIL import Image

from harness import files
from tests.tnn.im.small import finish, flags, start, train, write_digits
from tnn.im.args import arch_options, parse_args
from tnn.im.model import build


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def unbroken(data):
    train(data, "unbroken")
    return data / "unbroken"


def original_checkpoint(path, args):
    """As the original writes it: pickled argparse.Namespace and all."""
    model = build(args.model, num_classes=10, **arch_options(args))
    optimizer = torch.optim.AdamW(
        [{"params": [p for n, p in model.named_parameters() if p.requires_grad
                     and n.endswith("bias")]},
         {"params": [p for n, p in model.named_parameters() if p.requires_grad
                     and not n.endswith("bias")]}], lr=1e-3)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                "lr_scheduler": {"t_initial": 3}, "epoch": 1, "scaler": {},
                "args": argparse.Namespace(lr=1, model=args.model)}, path)
    return model


def test_an_original_checkpoint_is_continued(data, tmp_path, capsys):
    path = tmp_path / "checkpoint.pth"
    model = original_checkpoint(path, parse_args(flags(data, "x")))
    run = train(data, "continued", "--resume", str(path))
    assert "epoch 2, update 0" in capsys.readouterr().out
    assert run.progress.step == 4
    run = train(data, "evaluated", "--resume", str(path), "--eval")
    assert torch.equal(run.model.head[1].weight, model.head[1].weight)


def stopped(capsys, *arguments):
    with pytest.raises(SystemExit) as error:
        train(*arguments)
    return error.value.code, capsys.readouterr().err


class Evil:
    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize("damage", ["cut", "flip", "pickle", "nonsense", "list"])
def test_damaged_checkpoints_are_refused(data, unbroken, tmp_path, monkeypatch, capsys, damage):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pth"
    good = (unbroken / "checkpoint_last.pth").read_bytes()
    if damage == "cut":
        path.write_bytes(good[:len(good) // 2])
    elif damage == "flip":
        path.write_bytes(good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
    elif damage == "pickle":
        torch.save({"model": Evil()}, path)
    elif damage == "nonsense":
        path.write_bytes(b"not a checkpoint")
    else:
        torch.save([1], path)
    code, errors = stopped(capsys, data, "bad", "--resume", str(path))
    assert code == 2
    assert errors.count("\n") == 1
    assert str(path) in errors
    assert not (tmp_path / "hacked").exists()


def test_bad_input_is_one_line(data, unbroken, capsys):
    for more, said in ((["--arch-options", "width=3"], "unexpected keyword argument 'width'"),
                       (["--batch-size", "1000"], "fewer than --batch-size 1000"),
                       (["--opt", "newton"], "--opt newton cannot be used"),
                       (["--data-set", "CIFAR10"], "./getdata.sh cifar10"),
                       (["--finetune", "/nowhere.pth"], "no file /nowhere.pth"),
                       (["--eval", "--resume", "/nowhere.pth"], "no file /nowhere.pth"),
                       (["--eval"], "--eval: which weights? Give --resume PATH, or --finetune"),
                       (["--device", "mps"], "no Apple GPU"),
                       (["--resume", str(unbroken / "checkpoint_last.pth"), "--lr", "1"],
                        "--lr 0.01 there, 1.0 here")):
        code, errors = stopped(capsys, data, "wrong", *more)
        assert code == 2, errors
        assert said in errors
        assert errors.count("\n") == 1, errors
    for more, said in ((["--batch-size", "63"], "must be even"),
                       (["--model", "pvt_small"], "no model pvt_small"),
                       (["--reprob", "2"], "--reprob"),
                       (["--arch-options", "depth"], "NAME=NUMBER"),
                       (["--epochs", "0"], "--epochs")):
        code, errors = stopped(capsys, data, "wrong", *more)
        assert code == 2
        assert said in errors


def test_missing_resume_starts_afresh_and_old_files_are_kept(data, capsys):
    train(data, "again", "--max-steps", "1", "--resume", "/nowhere.pth")
    assert "no file /nowhere.pth: starting afresh" in capsys.readouterr().out
    names = ("checkpoint_last.pth", "checkpoint_0.pth", "checkpoint_best.pth", "log.txt")
    contents = []
    for seed in "123":
        train(data, "thrice", "--epochs", "1", "--seed", seed)
        contents.append([(data / "thrice" / name).read_bytes() for name in names])
    for content, ending in zip(contents, (".old", ".old2", ""), strict=True):
        assert content == [(data / f"thrice/{name}{ending}").read_bytes() for name in names]


def test_nan_stops_before_the_update(data, capsys):
    code, errors = stopped(capsys, data, "nan", "--lr", "1e38", "--warmup-epochs", "0",
                           "--save-interval", "1")
    assert code == 1
    assert re.search(r"the (loss|gradient of \S+) is not finite at epoch \d+, step \d+", errors)
    files.read(data / "nan/checkpoint_last.pth")


# ------------------------------------------------------------------------------------ refusing
def test_changed_data_are_refused_by_name(data, tmp_path, capsys):
    (tmp_path / "digits.npz").write_bytes((data / "digits.npz").read_bytes())
    train(tmp_path, "run", "--max-steps", "2")
    write_digits(tmp_path, train=320, test=70)
    code, errors = stopped(capsys, tmp_path, "run", "--resume")
    assert code == 2
    assert "digits.npz is not what the run" in errors
    assert errors.count("\n") == 1


# By default tests/e2e/test_trellisnet_ddp.py asks this of the harness.
@pytest.mark.slow
def test_another_number_of_processes_is_refused(data, capsys):
    code, _, errors = finish(start(data, "two", "--max-steps", "2", "--devices", "2",
                                   "--batch-size", "32"))
    assert code == 0, errors
    code, errors = stopped(capsys, data, "two", "--batch-size", "32", "--resume")
    assert code == 2
    assert "give --devices 2" in errors


def test_another_length_of_the_schedule_is_refused(data, capsys):
    train(data, "length", "--max-steps", "2")
    code, errors = stopped(capsys, data, "length", "--epochs", "4", "--resume")
    assert code == 2
    assert "--epochs 3" in errors
    train(data, "steps", "--max-steps", "2", "--sched", "step")
    assert train(data, "steps", "--epochs", "4", "--sched", "step",
                 "--resume").progress.epoch == 4


def test_a_missing_best_model_is_found_at_resume(data, capsys):
    train(data, "lost", "--epochs", "3", "--max-steps", "6")
    (data / "lost/checkpoint_best.pth").unlink()
    code, errors = stopped(capsys, data, "lost", "--resume")
    assert code == 2
    assert "checkpoint_best.pth, is not there" in errors


def test_each_run_has_curves_of_its_own(data):
    """Under the same name, too."""
    for seed in "12":
        train(data, "curves", "--epochs", "1", "--seed", seed)
    assert {path.name for path in (data / "metrics").glob("curves*")} == {"curves", "curves-2"}


# -------------------------------------------------------------------------------- bad pictures
def write_pictures(folder):
    """train/ and val/ with two classes of eight pictures."""
    for part in ("train", "val"):
        for label, name in enumerate(("ant", "bee")):
            (folder / part / name).mkdir(parents=True)
            for i in range(8):
                colour = (100 * label, 20 * i, 30)
                Image.new("RGB", (32, 32), colour).save(folder / part / name / f"{i}.png")
    return folder


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("part", ["train", "val"])
def test_a_damaged_picture_is_one_line_and_the_state_is_saved(part, workers, tmp_path, capsys):
    """The resumed run, with the picture mended, ends like one that never met it."""
    write_pictures(tmp_path)
    more = ["--data-set", "IMNET", "--batch-size", "4", "--epochs", "1", "--num_workers", workers]
    whole = train(tmp_path, "whole", *more)
    bad = tmp_path / part / "bee/3.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:50] + bytes(len(good) - 50))
    code, errors = stopped(capsys, tmp_path, "run", *more)
    assert code == 2
    assert str(bad) in errors
    assert errors.count("\n") == 1, errors
    bad.write_bytes(good)
    resumed = train(tmp_path, "run", *more, "--resume")
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name
