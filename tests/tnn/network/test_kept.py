"""Coefficients are computed once, and never used when the weights have changed."""

import copy
import pickle

import pytest
import torch
from torch.testing import assert_close

from tnn import TnnModel, Tno
from tnn.im.model import TnnVit
from tnn.lra.toeplitz import Toeplitz


def tno():
    return Tno(2, 3, 8, causal=True, use_decay=True, gamma=0.9, layers=2)


def lra():
    return Toeplitz(2, 7, 3, 6, use_pad=True, use_decay=True, gamma=0.9)


def vit():
    return TnnVit(patch_size=4, embed_dim=8, rpe_embdding=8, num_heads=2, glu_dim=8, depth=2,
                  num_classes=5, use_decay=True, gamma=0.9, rpe_layers=1, use_pos=False)


MODELS = {"tno": (tno, (1, 2, 9, 3)), "lra": (lra, (1, 2, 9, 3)), "vit": (vit, (2, 3, 16, 16))}
FUSED = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
    "for each": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
    "one by one": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=False),
}


def made(name):
    torch.manual_seed(0)
    build, shape = MODELS[name]
    return build().eval(), torch.randn(shape)


def fresh(module, x):
    """Without gradients being off nothing is kept."""
    return module(x).detach()


def evaluated(module, x):
    with torch.no_grad():
        return module(x)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("optimizer", FUSED)
@pytest.mark.parametrize("mode", ["trained and evaluated in turn", "trained in evaluation mode"])
def test_steps_of_an_optimizer_are_seen(name, optimizer, mode):
    """torch's fused optimisers write to weights without raising their version."""
    module, x = made(name)
    step = FUSED[optimizer]([p for p in module.parameters() if p.requires_grad])
    seen = [evaluated(module, x)]
    for _ in range(2):
        module.train(mode.startswith("trained and"))
        module(x).square().sum().backward()
        step.step()
        step.zero_grad()
        module.eval() if mode.startswith("trained and") else None
        seen.append(evaluated(module, x))
        assert_close(seen[-1], fresh(module, x), atol=1e-5, rtol=1e-4)
        assert (seen[-1] - seen[-2]).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_steps_without_any_call_between(name):
    """Gradients first, then optimizer.step() alone between two evaluations."""
    module, x = made(name)
    step = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.1,
                             fused=True)
    module(x).square().sum().backward()
    before = evaluated(module, x)
    step.step()
    after = evaluated(module, x)
    assert (after - before).abs().max() > 1e-3
    assert_close(after, fresh(module, x), atol=1e-5, rtol=1e-4)


def averages_put_in_place(module):
    """As libraries for averages of the weights do it."""
    for p in module.parameters():
        p.data.copy_(p.data.mul(0.9).add(0.1))


def values_reordered(module):
    """No sum of them changes."""
    for p in module.parameters():
        p.data.copy_(p.data.flatten().flip(0).view_as(p))


def written_through_numpy(module):
    for p in module.parameters():
        p.detach().numpy()[...] *= 0.5


def data_exchanged(module):
    for p in module.parameters():
        p.data = p.data * 0.5


WRITES = [averages_put_in_place, values_reordered, data_exchanged]


@pytest.mark.parametrize(("write", "dtype"), [
    (written_through_numpy, torch.float32),  # it has no bfloat16
    *((write, dtype) for write in WRITES for dtype in (torch.float32, torch.bfloat16))])
def test_writes_that_raise_no_version_are_seen_on_a_cpu(write, dtype):
    module, x = made("tno")
    module, x = module.to(dtype), x.to(dtype)
    before = evaluated(module, x)
    write(module)
    after = evaluated(module, x)
    assert_close(after, fresh(module, x), atol=1e-5, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4)
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("change", ["in place", "load", "load into a part", "assign", "to"])
@pytest.mark.parametrize("name", MODELS)
def test_changes_are_seen(name, change):
    module, x = made(name)
    before = evaluated(module, x)
    torch.manual_seed(5)
    other = MODELS[name][0]().eval()
    part = "layers.1.token_mixer.toep2" if name == "vit" else "rpe" if name == "tno" else "dpb"
    if change == "in place":
        with torch.no_grad():
            module.get_submodule(part).pos_proj.bias.add_(1) if name != "vit" else (
                module.get_submodule(part).rpe.pos_proj.bias.add_(1))
    elif change == "load into a part":
        module.get_submodule(part).load_state_dict(other.get_submodule(part).state_dict())
    elif change == "to":
        with torch.no_grad():
            for p in module.parameters():
                p.data.mul_(1.5)  # seen by nobody, but for the next call
        module.to(torch.float32)
    else:
        module.load_state_dict(other.state_dict(), assign=change == "assign")
    after = evaluated(module, x)
    assert_close(after, fresh(module, x), atol=1e-5, rtol=1e-4)
    assert (after - before).abs().max() > 1e-5


def counted(module, monkeypatch):
    calls, compute = [], module.kernel
    monkeypatch.setattr(module, "kernel", lambda n, K: calls.append(n) or compute(n, K))
    return calls


@pytest.mark.parametrize("name", ["tno", "lra"])
def test_computed_once_per_length_and_state(name, monkeypatch):
    module, x = made(name)
    calls = counted(module, monkeypatch)
    with torch.no_grad():
        first = module(x)
        assert torch.equal(module(x), first)
        assert calls == [9]
        module(x[:, :, :5])
        module(x[:, :, :5], normalize=True)
        assert calls == [9, 5]
        module.eval()
        module(x[:, :, :5])
        assert calls == [9, 5, 5]
        module.train()
        module(x)
        module(x)
        assert len(calls) == 5


@pytest.mark.parametrize("name", ["tno", "lra"])
def test_a_frozen_decay_is_looked_at_once_in_training(name, monkeypatch):
    """A training loop that calls train() before each update asks again only after eval()."""
    module, x = made(name)
    module.train()
    calls, compute = [], module.reach
    monkeypatch.setattr(module, "reach", lambda dtype: calls.append(dtype) or compute(dtype))
    for _ in range(3):
        module.train()
        module(x)
    assert len(calls) == 1
    module.eval()
    module.train()
    module(x)
    assert len(calls) == 2


def test_another_models_steps_cost_one_computation(monkeypatch):
    module, x = made("tno")
    calls = counted(module, monkeypatch)
    other = torch.nn.Linear(2, 2)
    other(torch.randn(2)).sum().backward()
    evaluated(module, x)
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    evaluated(module, x)
    evaluated(module, x)
    assert calls == [9, 9]


def test_kept_coefficients_carry_no_graph():
    for quiet in (torch.no_grad, torch.inference_mode):
        module, x = made("tno")
        with quiet():
            expected = module(x)
        assert_close(evaluated(module, x), expected)
        y = module(x.requires_grad_())
        assert_close(y, expected)
        y.sum().backward()
        assert module.rpe.pos_proj.weight.grad is not None


@pytest.mark.parametrize("name", ["tno", "lra"])
def test_a_decay_that_is_thawed_is_trained(name):
    """gamma is frozen by its flag alone."""
    module, x = made(name)
    evaluated(module, x)
    module.gamma.requires_grad_(True)
    optimizer = torch.optim.SGD([module.gamma], lr=1e-3, fused=True)
    for _ in range(2):
        before = module.kernel(9).detach()
        module(x).square().sum().backward()
        optimizer.step()
        assert not torch.equal(module.kernel(9), before)


def test_copies_and_pickles_start_empty():
    model, tokens = TnnModel(7, 8, 1).eval(), torch.arange(6).view(1, 6)
    expected = evaluated(model, tokens)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not twin.operators()[0].kept._values
        assert torch.equal(evaluated(twin, tokens), expected)
