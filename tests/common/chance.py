"""What random masks must do, within chance."""

import torch

P = 0.3


def assert_rate(kept: torch.Tensor, p: float) -> None:
    """Of n independent entries about n(1-p) are kept, give or take five standard deviations."""
    n = kept.numel()
    error = abs(kept.float().sum().item() - n * (1 - p))
    assert error <= 5 * (n * p * (1 - p)) ** 0.5


def assert_draws_nothing(function) -> None:
    before = torch.get_rng_state()
    function()
    assert torch.equal(torch.get_rng_state(), before)
