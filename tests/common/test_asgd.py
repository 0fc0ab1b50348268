"""NT-ASGD: the numbers are torch's, the averages come and go without a copy."""

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.asgd import ASGD, averaged, non_monotone

SHAPES = {"matrix": (4, 3), "vector": (5,), "unused": (2,), "late": (3, 1)}


def parameters():
    torch.manual_seed(1)
    return {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in SHAPES.items()}


def set_gradients(params, step, late):
    generator = torch.Generator().manual_seed(step)
    for name, p in params.items():
        g = torch.randn(p.shape, generator=generator)
        p.grad = None if name == "unused" or (name == "late" and step < late) else g


@settings(max_examples=15, deadline=None)
@given(lrs=st.lists(st.floats(1e-3, 2.0), min_size=30, max_size=30),
       weight_decay=st.sampled_from([0, 1e-3, 0.1]), late=st.integers(0, 30))
def test_equals_torch(lrs, weight_decay, late):
    """Step for step torch.optim.ASGD(t0=0, lambd=0), for a learning rate that changes at each step
    (as the toolkit's does), a parameter without gradient and one whose gradient comes late."""
    ours, theirs = parameters(), parameters()
    opt = ASGD(ours.values(), lr=lrs[0], weight_decay=weight_decay)
    ref = torch.optim.ASGD(theirs.values(), lr=lrs[0], t0=0, lambd=0, weight_decay=weight_decay)
    for step, lr in enumerate(lrs):
        for optimizer, params in ((opt, ours), (ref, theirs)):
            optimizer.param_groups[0]["lr"] = lr
            set_gradients(params, step, late)
            optimizer.step()
        for name in SHAPES:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
            average = ref.state[theirs[name]].get("ax")
            if average is None:
                assert "ax" not in opt.state.get(ours[name], {})
            else:
                torch.testing.assert_close(opt.state[ours[name]]["ax"], average,
                                           rtol=1e-5, atol=1e-6)


def stepped(steps=4, lr=0.1):
    params = parameters()
    optimizer = ASGD(params.values(), lr=lr)
    history = []
    for step in range(steps):
        set_gradients(params, step, late=0)
        optimizer.step()
        history.append(params["matrix"].detach().clone())
    return params, optimizer, history


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_the_average_leaves_out_the_first_step(steps):
    """Spec section 8: ax_1 = p_1, ax_2 = p_2, then ax_s = mean(p_2 .. p_s)."""
    params, optimizer, history = stepped(steps)
    expected = torch.stack(history[1:] or history).mean(0)
    torch.testing.assert_close(optimizer.state[params["matrix"]]["ax"], expected)


def test_learning_rate_acts_one_step_late():
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer, positions = ASGD([p], lr=1.0), []
    for lr in (1.0, 10.0, 100.0):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = -torch.ones(1)
        optimizer.step()
        positions.append(p.item())
    assert positions == [1.0, 2.0, 12.0]  # steps of 1 (its own), 1, 10


class TestAveraged:
    def test_swaps_in_the_averages_and_back(self):
        params, optimizer, _ = stepped()
        own = {name: p.detach().clone() for name, p in params.items()}
        with averaged(optimizer):
            for name, p in params.items():
                expected = own[name] if name == "unused" else optimizer.state[p]["ax"]
                assert torch.equal(p, expected)
            assert not torch.equal(params["matrix"], own["matrix"])
        for name, p in params.items():
            assert torch.equal(p, own[name])

    def test_copies_nothing(self):
        params, optimizer, _ = stepped()
        before = {name: p.data_ptr() for name, p in params.items()}
        with averaged(optimizer):
            p = params["matrix"]
            assert p.data_ptr() == optimizer.state[p]["ax"].data_ptr()
        assert {name: p.data_ptr() for name, p in params.items()} == before

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_restores_after_an_error(self, error):
        params, optimizer, _ = stepped()
        own = params["matrix"].detach().clone()
        with pytest.raises(error), averaged(optimizer):
            raise error
        assert torch.equal(params["matrix"], own)

    def test_before_the_first_step_and_for_other_optimizers(self):
        for kind in (ASGD, torch.optim.SGD):
            params = parameters()
            own = params["matrix"].detach().clone()
            with averaged(kind(params.values(), lr=0.1)):
                assert torch.equal(params["matrix"], own)

    def test_every_trained_parameter_has_an_average(self):
        """S6: the original's swap died of a KeyError where one was missing."""
        params, optimizer, _ = stepped(1)
        assert {name for name, p in params.items() if "ax" in optimizer.state.get(p, {})} == {
            "matrix", "vector", "late"}


def test_state_dict_round_trip_continues_bit_for_bit():
    params, optimizer, _ = stepped(5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = {name: torch.nn.Parameter(p.detach().clone()) for name, p in params.items()}
    loaded = ASGD(again.values(), lr=123.0)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for step in range(5, 9):
        for p, o in ((params, optimizer), (again, loaded)):
            o.param_groups[0]["lr"] = 0.01 * step
            set_gradients(p, step, late=0)
            o.step()
    for name in SHAPES:
        assert torch.equal(again[name], params[name])
        if name != "unused":
            ours, theirs = (o.state[p[name]] for o, p in ((loaded, again), (optimizer, params)))
            assert torch.equal(ours.pop("ax"), theirs.pop("ax"))
            assert ours == theirs


@pytest.mark.parametrize("bad", [{"lr": 0}, {"lr": -1}, {"lr": 1, "weight_decay": -1}])
def test_refuses_nonsense(bad):
    with pytest.raises(ValueError, match="need lr > 0"):
        ASGD(parameters().values(), **bad)


# ----------------------------------------------------------------------------------- the trigger
def test_trigger_ignores_the_last_n_epochs():
    """With n = 5 the earliest switch is after epoch 7, and it compares with epoch 1 alone."""
    losses = [5.0, 6.0, 6.0, 6.0, 6.0, 6.0]
    assert [non_monotone(losses[:k], 5, 5.5) for k in range(7)] == [False] * 6 + [True]


def test_trigger_compares_with_the_best_not_the_last():
    history = [4.0, 3.0, 5.0, 2.0, 1.0]
    assert non_monotone(history, 2, 3.1)
    assert not non_monotone(history, 2, 3.0)  # as good is not worse
    assert not non_monotone(history, 2, 2.9)


def test_trigger_with_n_zero():
    """The original died here (min of an empty list); ours compares with all epochs so far."""
    assert not non_monotone([], 0, 9.0)
    assert non_monotone([3.0], 0, 3.1)
    assert non_monotone([3.0, 4.0], 0, 3.5)
    assert not non_monotone([3.0, 4.0], 0, 2.0)


@given(st.lists(st.floats(0, 10), max_size=20), st.integers(0, 8), st.floats(0, 10))
def test_trigger_equals_the_originals_expression(history, n, value):
    if n == 0 and not history:
        return
    original = len(history) > n and value > min(history[:-n] if n else history)
    assert non_monotone(history, n, value) == original
