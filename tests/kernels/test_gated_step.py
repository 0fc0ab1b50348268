"""One position of a layer in one call a half, against PyTorch's operations."""

import pytest
import torch
from torch import nn

from kernels.gated_step import (
    Recurrence,
    gated_steps,
    gated_steps_plain,
    has_kernel,
    weights_of,
)

EPS = 1e-8
SIZES = [(1, 1, 1), (2, 7, 13), (3, 64, 192), (5, 100, 33)]  # sequences, width, inner width
pytestmark = pytest.mark.usefixtures("compiled")


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def weights(D, E, bias=True):
    torch.manual_seed(D)
    return weights_of(nn.Linear(D, E, bias), nn.Linear(D, E, bias), nn.Linear(E, D, bias))


def recurrence(b, E, first, i):
    return Recurrence(random(b, 12, E), random(b, 12, E) / 3, random(4, E), first, i)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("first", "i"), [(None, None), (0, 0), (4, 6), (8, 11)])
@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_equals_the_plain_form(poisoned_memory, size, first, i, bias):
    b, D, E = size
    x, halves = random(b, 1, D), (weights(D, E, bias), weights(D, 2 * E, bias))
    pasts = [None if i is None else recurrence(b, E, first, i) for _ in range(2)]
    assert has_kernel(x, halves, pasts[0][:3] if pasts[0] else ())
    kept = x.clone()
    fast, plain = (function(x, EPS, list(zip(halves, (past, None), strict=True)))
                   for function, past in zip((gated_steps, gated_steps_plain), pasts, strict=True))
    torch.testing.assert_close(fast, plain, rtol=2e-5, atol=2e-5)
    assert torch.equal(x, kept)
    if i is not None:
        torch.testing.assert_close(pasts[0].block, pasts[1].block, rtol=2e-5, atol=2e-6)


@torch.no_grad()
def test_threads(threads):
    """Sizes that are divided among them: the same bits."""
    found = []
    for count in (1, 2, 3):
        threads(count)
        half = weights(200, 300), recurrence(2, 300, 4, 6)
        found.append(gated_steps(random(2, 1, 200), EPS, [half]))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@torch.no_grad()
def test_the_zero_vector():
    half, x = (weights(9, 5), None), torch.zeros(1, 1, 9)
    torch.testing.assert_close(gated_steps(x, EPS, [half]), gated_steps_plain(x, EPS, [half]))


def test_what_has_no_kernel():
    half, x = weights(9, 5), torch.zeros(1, 1, 9)
    assert not has_kernel(x, [half])  # gradients
    with torch.no_grad():
        assert has_kernel(x, [half])
        assert not has_kernel(x.double(), [half])
        assert not has_kernel(torch.zeros(1, 2, 9), [half])
        assert not has_kernel(torch.zeros(1, 1, 8), [half])
        assert not has_kernel(x, [(*half[:4], *half[:2])])
        assert not has_kernel(x, [half], [torch.zeros(4, 2).t()])
        with torch.autocast("cpu"):
            assert not has_kernel(x, [half])
