"""Several position encoders computed as one: the same numbers and gradients as each for itself."""

import pytest
import torch

from tnn.network.tno import Tno
from tnn.network.together import encoded, encoders_together


def operators(count=3, **options):
    torch.manual_seed(5)
    return [Tno(1, 6, 8, layers=2, **options) for _ in range(count)]


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_equals_each_encoder(residual, bias):
    units = operators(residual=residual, bias=bias)
    positions = torch.arange(-4.0, 5.0).unsqueeze(1)
    parameters = [p for unit in units for p in unit.rpe.parameters()]
    expected = torch.stack([unit.rpe(positions) for unit in units])
    found = encoded([unit.rpe for unit in units], positions)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    grad = torch.randn_like(expected)
    for a, b in zip(torch.autograd.grad(found, parameters, grad),
                    torch.autograd.grad(expected, parameters, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_on_a_cpu_each_is_computed_for_itself():
    units = operators(causal=True)
    with encoders_together(units, 7):
        assert all(unit.given is None for unit in units)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both-ways"])
def test_what_is_given_is_used_where_it_fits(causal):
    unit, = operators(1, causal=causal)
    unit.given = torch.ones(7 if causal else 13, 6)
    assert torch.equal(unit.kernel(7), unit.given.t())
    assert unit.kernel(5).shape[1] == (5 if causal else 9)
