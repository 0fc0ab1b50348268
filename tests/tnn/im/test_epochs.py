"""What an epoch is made of: every image once, in a new order; the scale of the loss; the best."""

import copy
from contextlib import contextmanager
from itertools import islice

import pytest
import torch
from torch.utils.data import Dataset

from harness import files
from harness.keeper import Keeper
from tests.tnn.im.small import flags, train, write_digits
from tnn.im import main as script

IMAGES = 320


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"), IMAGES)


class Recorded(Dataset):
    """The same pictures; `seen` are the numbers asked for."""

    def __init__(self, pictures, seen):
        self.pictures, self.seen = pictures, seen

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, i):
        self.seen.append(i)
        return self.pictures[i]


@pytest.fixture
def seen(monkeypatch):
    """Numbers of the training images that runs read, in order."""
    numbers, load = [], script.load_sets

    def recorded(args):
        sets = load(args)
        return sets._replace(train=Recorded(sets.train, numbers))
    monkeypatch.setattr(script, "load_sets", recorded)
    monkeypatch.setattr(script, "try_one_picture", lambda *_: None)  # it reads picture 0 at first
    return numbers


def test_every_image_once_an_epoch_in_a_new_order(data, seen):
    train(data, "once", "--no-repeated-aug", "--epochs", "3")
    epochs = [seen[i:i + IMAGES] for i in range(0, len(seen), IMAGES)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(IMAGES))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_repeated_augmentation_shows_a_third_three_times(data, seen):
    train(data, "thrice", "--epochs", "2")
    for epoch in (seen[:256], seen[256:]):  # the whole batches of 320 images, in multiples of 256
        assert len(set(epoch)) == 86
        assert all(epoch.count(i) == 3 for i in set(epoch[:-1]) - {epoch[-1]})
    assert seen[:256] != seen[256:]


@pytest.mark.parametrize("more", [(), ("--accumulate", "2", "--batch-size", "32")],
                         ids=["one-batch", "accumulated"])
def test_resuming_sees_the_images_that_were_left_and_gives_the_same_bits(data, seen, more):
    """In the middle of an epoch."""
    more, name = ["--no-repeated-aug", "--epochs", "2", *more], f"left{len(more)}"
    whole = train(data, f"{name}-whole", *more)
    order = seen.copy()
    seen.clear()
    train(data, name, *more, "--max-steps", "2")
    resumed = train(data, name, *more, "--resume")
    assert seen == order
    for key, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], weight), key


@contextmanager
def begun(data, *more):
    """A run about to make its first update by plain gradient descent with rate 0.5."""
    args = script.parse_args(flags(data, "begun", "--mixup", "0", "--cutmix", "0", *more))
    script.settle(args)
    with Keeper(script.SCRIPT, args, where="output_dir", folder=True) as keeper:
        started = script.build(args, keeper)
        keeper.resume(started)
        for group in started.optimizer.param_groups:
            group["lr"] = 0.5
        yield started


@pytest.mark.parametrize("size", [1, 3])
def test_an_update_is_by_the_mean_over_its_group(data, size, monkeypatch):
    monkeypatch.setattr(script, "make_optimizer",
                        lambda model, *rest: torch.optim.SGD(
                            [p for p in model.parameters() if p.requires_grad], 0.5))
    more = ["--accumulate", str(size), "--batch-size", "4", "--clip-grad", "1e9"]
    with begun(data, *more) as started:
        group = list(islice(started.train, size))
        expected = copy.deepcopy(started.model).train()
        loss = sum(script.loss_of(started.args, expected(x), y) for x, y in group) / size
        loss.backward()
        assert sum(script.one_update(started, group)).item() == pytest.approx(loss.item(), rel=1e-5)
        moved = 0.0
        for p, mine in zip(expected.parameters(), started.model.parameters(), strict=True):
            change = torch.zeros_like(p) if p.grad is None else -0.5 * p.grad
            torch.testing.assert_close(mine - p, change, atol=3e-6, rtol=1e-3)
            moved += change.abs().sum().item()
        assert moved > 0.1


def test_of_equal_epochs_the_first_is_the_best(data, monkeypatch):
    monkeypatch.setattr(script, "evaluate", lambda run, model: {
        "test_loss": 1.0, "test_acc1": 50.0, "test_acc5": 80.0})
    train(data, "equal", "--epochs", "3")
    best = files.read(data / "equal/checkpoint_best.pth")["progress"]
    assert (best["epoch"], best["max_accuracy"]) == (1, 50.0)
