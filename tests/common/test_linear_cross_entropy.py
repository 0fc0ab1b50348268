"""The fused form against the definition: value and every gradient."""

import pytest
import torch

from common import splitcross


def both(n, h, v, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(n, h, generator=generator), torch.randn(v, h, generator=generator),
              torch.randn(v, generator=generator)]
    targets = torch.randint(v, (n,), generator=generator)
    results = []
    for function in (splitcross.linear_cross_entropy, splitcross.linear_cross_entropy_plain):
        leaves = [t.clone().requires_grad_() for t in inputs]
        loss = function(*leaves, targets)
        (loss / n).backward()
        results.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    return results


@pytest.mark.parametrize(("n", "h", "v"), [(1, 1, 1), (1, 5, 3), (7, 3, 130), (63, 40, 1000),
                                           (300, 16, 5003)], ids=str)
def test_value_and_gradients(n, h, v):
    for ours, plain in zip(*both(n, h, v), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-6, rtol=2e-5)


def test_rows_in_many_cached_blocks(monkeypatch):
    monkeypatch.setattr(splitcross, "CACHED", 256)
    for ours, plain in zip(*both(50, 6, 100), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-6, rtol=2e-5)


def test_large_scores_do_not_overflow():
    weight = torch.tensor([[200.0], [-200.0]])
    loss = splitcross.linear_cross_entropy(torch.ones(1, 1), weight, torch.zeros(2),
                                           torch.tensor([1]))
    assert loss.item() == pytest.approx(400)


def test_without_gradients_nothing_is_kept():
    hiddens, weight, bias = torch.randn(4, 3), torch.randn(9, 3), torch.randn(9)
    targets = torch.tensor([0, 8, 3, 3])
    loss = splitcross.linear_cross_entropy(hiddens, weight, bias, targets)
    assert not loss.requires_grad
    plain = splitcross.linear_cross_entropy_plain(hiddens, weight, bias, targets)
    torch.testing.assert_close(loss, plain)


def test_nan_passes_through():
    hiddens = torch.tensor([[float("nan")]])
    loss = splitcross.linear_cross_entropy(hiddens, torch.ones(2, 1), torch.zeros(2),
                                           torch.tensor([0]))
    assert loss.isnan()


def autocast_both(n, h, v):
    with torch.autocast("cpu", torch.bfloat16):
        return both(n, h, v)


def error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


def test_bfloat16_autocast(monkeypatch):
    """On CPUs with the instructions: rounded operands, float32 loss and gradients."""
    monkeypatch.setattr(splitcross.cpu, "bf16_pays", lambda: True)
    for ours, exact in zip(autocast_both(50, 30, 200)[0], both(50, 30, 200)[0], strict=True):
        assert ours.dtype == torch.float32
        assert 1e-6 < error(ours, exact) < 8e-3


def test_bfloat16_autocast_on_other_cpus_computes_in_float32(monkeypatch):
    monkeypatch.setattr(splitcross.cpu, "bf16_pays", lambda: False)
    for ours, exact in zip(autocast_both(20, 6, 50)[0], both(20, 6, 50)[0], strict=True):
        assert torch.equal(ours, exact)
