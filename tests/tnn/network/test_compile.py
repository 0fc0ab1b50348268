"""torch.compile takes the network whole: no graph breaks, the same numbers."""

import pytest
import torch

from tnn import TnnBlock, TnnModel


def outputs_and_gradients(module, call, x):
    module.zero_grad()
    y = call(x)
    y.square().sum().backward()
    return [y.detach(), *(p.grad for p in module.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kind", [
    "causal", *(pytest.param(kind, marks=pytest.mark.slow)
                for kind in ("model", "bidirectional", "long"))])
def test_without_graph_breaks(kind):
    """fullgraph=True raises at the first graph break. "long": where far lags are cut."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    if kind == "model":
        module, x = TnnModel(50, 16, 2, rpe_embedding=8), torch.randint(50, (2, 33))
    else:
        n = 3000 if kind == "long" else 33
        module = TnnBlock(8, causal=kind != "bidirectional", use_decay=True, rpe_embedding=8,
                          rpe_layers=1)
        x = torch.randn(2, n, 8)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    expected = outputs_and_gradients(module, module, x)
    for a, b in zip(expected, outputs_and_gradients(module, compiled, x), strict=True):
        torch.testing.assert_close(b, a, atol=2e-4, rtol=1e-4)
    module.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), expected[0], atol=2e-4, rtol=1e-4)
