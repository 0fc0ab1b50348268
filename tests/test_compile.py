"""torch.compile takes the pieces whole: one graph, the same numbers and gradients."""

import pytest
import torch

from awd_lstm import QRNNLayer
from common import SplitCrossEntropyLoss
from sparse_seq import SparseLSTM

dynamo = pytest.importorskip("torch._dynamo")


def results(function, inputs):
    """Outputs of the function, and the gradients of all its floating-point inputs."""
    leaves = [t.detach().requires_grad_() if t.is_floating_point() else t for t in inputs]
    outputs = torch.utils._pytree.tree_leaves(function(*leaves))
    wanted = [t for t in leaves if t.requires_grad]
    return outputs + list(torch.autograd.grad(sum(o.sin().sum() for o in outputs), wanted))


def compare(function, *inputs, reset=lambda: None):
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    reset()
    plain = results(function, inputs)
    reset()
    for a, b in zip(plain, results(compiled, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"window": 2, "save_prev_x": True}, pytest.param(
    {"output_gate": False}, marks=pytest.mark.slow)], ids=["fo, window 2", "f"])
def test_qrnn_layer(options):
    torch.manual_seed(2)
    layer = QRNNLayer(8, 12, **options)
    x = torch.randn(5, 3, 8)

    def twice(first, second):
        y, c = layer(first)
        return (y, *layer(second, c))

    compare(twice, x, x.flip(0), reset=layer.reset)


@pytest.mark.slow
@pytest.mark.parametrize("splits", [(), (4, 10, 18)], ids=["one softmax", "an empty part"])
def test_split_cross_entropy(splits):
    torch.manual_seed(3)
    criterion = SplitCrossEntropyLoss(8, splits)
    targets = torch.randint(15, (10,))
    compare(lambda *given: criterion(*given, targets), torch.randn(20, 8), torch.randn(20),
            torch.randn(10, 8))


@pytest.mark.slow
def test_sparse_lstm():
    """nn.LSTM itself is traced only if the user says so."""
    torch.manual_seed(4)
    with dynamo.config.patch(allow_rnn=True):
        compare(SparseLSTM(8, 12, blocks=3, density=0.5, wdrop=0.5).eval(), torch.randn(4, 2, 8))
