"""What one epoch does: every row of the training data is learnt from once, whatever the number of
processes; time, and losses that are no numbers."""

from types import SimpleNamespace

import pytest
import torch

from tests.trellisnet.small import (
    LANGUAGE_MODELS,
    NO_DROPOUT,
    NO_TEXT_DROPOUT,
    curve,
    flags_of,
    script,
    train,
)
from trellisnet import training
from trellisnet.lm import TrainingLoss
from trellisnet.seq_MNIST_CIFAR.data import Images


# ------------------------------------------------------------------ every row once in an epoch
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_every_row_of_the_text_is_a_target_once_in_an_epoch(folder, monkeypatch, name):
    """Behind the history; in order, so that the carried state is of the row before."""
    targets_seen, forward = [], TrainingLoss.forward

    def noting(self, words, targets, hidden, start=0, *rows):
        targets_seen.append(targets[start:])
        return forward(self, words, targets, hidden, start, *rows)
    monkeypatch.setattr(TrainingLoss, "forward", noting)
    monkeypatch.setattr(training, "evaluate", lambda *_: 1.0)
    run = train(name, folder)
    once = run.train[1 + run.recipe.train.start:]
    assert torch.equal(torch.cat(targets_seen), torch.cat([once, once]))  # two epochs


@pytest.mark.parametrize("shuffled", [False, True], ids=["MNIST", "CIFAR-10"])
def test_every_image_is_seen_once_in_an_epoch(folder, monkeypatch, shuffled):
    """MNIST in order, as the original; CIFAR-10 in another order in each epoch."""
    rows_seen, batch = [], Images.batch

    def noting(self, rows):
        if torch.is_grad_enabled():
            rows_seen.append(rows)
        return batch(self, rows)
    monkeypatch.setattr(Images, "batch", noting)
    run = train("seq", folder, *(["--cifar"] if shuffled else []))
    first, second = torch.cat(rows_seen).view(2, -1)
    everyone = torch.arange(len(run.train))
    assert torch.equal(first.sort().values, everyone)
    assert torch.equal(second.sort().values, everyone)
    assert torch.equal(first, everyone) != shuffled
    assert torch.equal(first, second) != shuffled


# ------------------------------------------------------------------------- several processes
class Fabric:
    """Of one process among several, without the others."""

    device = torch.device("cpu")

    def __init__(self, rank, world):
        self.global_rank, self.world_size, self.is_global_zero = rank, world, rank == 0

    def setup_module(self, module):
        return module

    def backward(self, loss):
        loss.backward()

    def all_reduce(self, value, reduce_op):
        """This process's part of the mean."""
        return value


def keeper_of(fabric):
    def silent(*_, **__):
        return False
    return SimpleNamespace(fabric=fabric, found=None, say=silent, log=silent, resume=silent,
                           clip_gradients=silent, after_update=silent, out_of_steps=silent,
                           settle=silent, step=lambda optimizer: optimizer.step(),
                           later=lambda then, *values: then(*(v.item() for v in values)))


def gradients(run, update):
    """What update(run) adds up, without a step of the optimiser."""
    run.optimizer.step = run.optimizer.zero_grad = lambda: None
    update(run)
    return [p.grad for p in run.loss.parameters()]


def assert_mean(whole, parts):
    for expected, *values in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.stack(values).mean(0), expected, atol=1e-12, rtol=0)


IN_DOUBLE = ["--precision", "64", "--optim", "SGD"]


@pytest.mark.parametrize("world", [2, 3])
def test_uneven_shares_of_a_text_count_by_their_columns(folder, world):
    """Five columns over two or three processes: the mean of the processes' gradients, which DDP
    takes, is the gradient of the whole batch; so with the loss that is reported."""
    wt = script("wt")
    args = wt.parse_args(flags_of("wt", folder, "--batch_size", "5", *NO_TEXT_DROPOUT, *IN_DOUBLE))
    corpus = wt.load_corpus(args.data)
    torch.set_default_dtype(torch.float64)

    def update(rank, world):
        torch.manual_seed(7)
        run = training.TextRun(args, keeper_of(Fabric(rank, world)),
                               wt.model.build(args, len(corpus)), corpus, wt.recipe(args))
        run.start("SGD")
        run.hidden = run.model.init_hidden(run.train.shape[1])
        grads = gradients(run, lambda run: training.one_update(run, 0, 4))
        return [*grads, torch.tensor(run.progress.raw)]
    assert_mean(update(0, 1), [update(rank, world) for rank in range(world)])


@pytest.mark.parametrize("world", [2, 5])
def test_uneven_shares_of_images_count_by_their_number(folder, world):
    """Over an epoch, of whose last batch, three images, some of five processes have none."""
    seq = script("seq")
    args = seq.parse_args(flags_of("seq", folder, *NO_DROPOUT, *IN_DOUBLE))
    torch.set_default_dtype(torch.float64)

    def epoch(rank, world):
        torch.manual_seed(7)
        return gradients(seq.build(args, keeper_of(Fabric(rank, world))), seq.train_epoch)
    assert_mean(epoch(0, 1), [epoch(rank, world) for rank in range(world)])


# ------------------------------------------------------------------------------------- time
@pytest.fixture
def clock(monkeypatch):
    """Time stands still but for two seconds an update and one an evaluation."""
    now = SimpleNamespace(seconds=100.0)
    one_update, evaluate = training.one_update, training.evaluate

    def slow(own, seconds):
        def call(*args):
            now.seconds += seconds
            return own(*args)
        return call
    monkeypatch.setattr(training, "one_update", slow(one_update, 2))
    monkeypatch.setattr(training, "evaluate", slow(evaluate, 1))
    monkeypatch.setattr(training.time, "time", lambda: now.seconds)
    return now


def test_the_time_of_an_epoch_is_that_of_all_its_updates(folder, clock, capsys):
    """Also where --max-steps ends it, and where it was resumed: both evaluations on top."""
    train("word", folder, "--max-steps", "3")
    assert "| end of epoch   1 | time:  8.00s | valid loss" in capsys.readouterr().out
    train("word", folder, "--resume", "--max-steps", "5")
    run = train("word", folder, "--resume")
    updates = run.progress.step // 2
    assert f"| end of epoch   1 | time: {2 * updates + 2:5.2f}s | valid" in capsys.readouterr().out


# --------------------------------------------------------------------------- not a number
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_validation_loss_that_is_not_finite_ends_the_run(folder, monkeypatch, capsys, value):
    """As a training loss does: exit code 1, one line, and no model is called the best."""
    monkeypatch.setattr(training, "evaluate", lambda *_: float(value))
    with pytest.raises(SystemExit) as stop:
        train("word", folder)
    assert stop.value.code == 1
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith(f"word_ptb.py: the validation loss is {value} at epoch 1, step ")
    assert not (folder / "m.pt").exists()


def test_the_loss_falls(trained):
    for name in (*LANGUAGE_MODELS, "seq"):
        losses = curve(trained(name)[1], "train_loss")
        assert losses[-1] < losses[0]
