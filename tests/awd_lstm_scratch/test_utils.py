"""NT-ASGD, the averages, the cache, the lines."""

import math

import pytest
import torch

from awd_lstm.pointer import Cache
from awd_lstm.scratch.pointer import cache_probability
from awd_lstm.scratch.utils import ASGD, NT_ASGD, epoch_metrics, stringify
from common.asgd import averaged, non_monotone


def schedule(n=3, **switches):
    return NT_ASGD([torch.ones(2, requires_grad=True)], 1.0, 0.0, n, **switches)


def answers(losses, **switches):
    s = schedule(**switches)
    found = []
    for loss in losses:
        s.get_optimizer(loss)
        found.append(s.triggered)
    return found


def test_published_trigger():
    """The value n evaluations ago is better than all since: at the fifth, and never back."""
    assert answers([3, 2, 3, 3, 4, 2, 3, 3, 4], late_trigger=True) == [False] * 4 + [True] * 5


def test_authors_trigger():
    losses = [5, 4, 3, 3.5, 3.2, 3.1, 3.05, 2.9]
    expected = [non_monotone(losses[:k], 3, loss) for k, loss in enumerate(losses)]
    first = expected.index(True)
    assert answers(losses) == [k >= first for k in range(len(losses))]


def test_the_loss_before_the_first_epoch_does_not_trigger():
    assert not any(answers([1e20, 5, 4, 3, 2, 1]))


def test_one_asgd_from_the_trigger_on():
    s = schedule(n=1)
    assert isinstance(s.get_optimizer(1), torch.optim.SGD)
    s.get_optimizer(2)
    optimizer = s.get_optimizer(3)
    assert isinstance(optimizer, ASGD)
    assert s.get_optimizer(4) is optimizer


def test_published_asgd_starts_over_every_epoch():
    s = schedule(n=1, average=False, late_trigger=True)
    for loss in (1, 2, 3):
        optimizer = s.get_optimizer(loss)
    assert isinstance(optimizer, torch.optim.ASGD)
    assert s.get_optimizer(4) is not optimizer


def test_asgd_keeps_the_mean_of_its_iterates():
    w = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer, seen = ASGD([w], lr=0.1, weight_decay=0.5), []
    for step in range(6):
        w.grad = torch.tensor([float(step), 1.0])
        before = w.detach().clone()
        optimizer.step()
        torch.testing.assert_close(w.detach(), before - 0.1 * (w.grad + 0.5 * before))
        seen.append(w.detach().clone())
    own = w.detach().clone()
    with averaged(optimizer):
        torch.testing.assert_close(w.detach(), torch.stack(seen).mean(0))
    assert torch.equal(w, own)


def test_cache_is_the_toolkits():
    torch.manual_seed(0)
    states, words = torch.randn(40, 6), torch.randint(5, (40,))
    expected, active = Cache(window=7, theta=0.8, exact=True)(states, words)
    for t in range(1, 40):
        found = cache_probability(states, words, t, window=7, theta=0.8)
        torch.testing.assert_close(found, expected[t])
    assert active[1:].all()


def test_epoch_line():
    found = epoch_metrics(1, 392.0, math.log(671.1), math.log(673.8), False, torch.device("cpu"))
    assert stringify(found) == (
        "epoch: 1.00| time: 392.00| train_loss: 6.51| val_loss: 6.51| train_ppl: 671.10| "
        "val_ppl: 673.80| val_bpc: 9.40| train_bpc: 9.39| asgd_triggered: 0.00")


def test_a_diverged_run_still_has_a_line():
    found = epoch_metrics(1, 1.0, 1e5, math.nan, True, torch.device("cpu"))
    assert "train_ppl: inf" in stringify(found)
    assert found["val_ppl"] is not None
    assert math.isnan(found["val_ppl"])


@pytest.mark.parametrize("average", [True, False])
def test_start_averaging(average):
    """Fine-tuning: NT-ASGD with T = 0."""
    s = schedule(average=average)
    s.start_averaging()
    assert s.triggered
    assert isinstance(s.optimizer, ASGD) is average
