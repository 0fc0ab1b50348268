"""The QRNN layer against its equations, its memory of the last frame, and the stack."""

import pytest
import torch
from torch import nn

from awd_lstm.qrnn import QRNN, QRNNLayer
from kernels import library
from kernels.forget_mult import forget_mult_plain


@pytest.fixture(params=["compiled", "loop"])
def backend(request, monkeypatch):
    if request.param == "loop":
        monkeypatch.setenv("KERNELS", "0")
    elif library.loaded() is None:
        pytest.skip("no compiler here")
    return request.param


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Tensors from torch.empty start as NaN, so that anything left unwritten shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def layer_plain(layer, X, hidden, keep=1.0):
    """1611.01576, section 2, line by line; keep is the factor of the forget gate."""
    if layer.window == 2:
        first = torch.zeros_like(X[:1]) if layer.prevX is None else layer.prevX
        X = torch.cat([X, torch.cat([first, X[:-1]])], dim=2)
    z, f, *o = layer.linear(X).split(layer.hidden_size, dim=2)
    c = forget_mult_plain(f.sigmoid() * keep, z.tanh(), hidden)
    return (o[0].sigmoid() * c if o else c), c[-1:]


def assert_same_gradients(actual, expected, leaves, tolerance=2e-6):
    """Of a loss on both the output and the last cell state, which may be used alone or together."""
    torch.manual_seed(9)
    weights = [torch.randn_like(t) for t in expected]
    for used in ([0], [1], [0, 1]):
        grads = []
        for result in (actual, expected):
            loss = sum((result[i] * weights[i]).sum() for i in used)
            grads.append(torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True))
        for a, e in zip(*grads, strict=True):
            scale = max(1, e.abs().max().item())  # a weight's gradient sums over T and B
            torch.testing.assert_close(a / scale, e / scale, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("hidden", ["none", "BH", "1BH"])
@pytest.mark.parametrize("output_gate", [True, False], ids=["fo", "f"])
@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("size", [(1, 3, 7), (2, 1, 1), (63, 2, 130)], ids=str)
def test_layer_equals_its_equations(backend, size, window, output_gate, hidden):
    torch.manual_seed(0)
    T, B, H = size
    layer = QRNNLayer(5, H, window=window, output_gate=output_gate)
    X = torch.randn(T, B, 5, requires_grad=True)
    c0 = {"none": None, "BH": torch.randn(B, H), "1BH": torch.randn(1, B, H)}[hidden]
    leaves = [X, *layer.parameters()] + ([] if c0 is None else [c0.requires_grad_()])
    actual, expected = layer(X, c0), layer_plain(layer, X, c0)
    assert actual[0].shape == (T, B, H)
    assert actual[1].shape == (1, B, H)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=2e-6, atol=2e-6)
    assert_same_gradients(actual, expected, leaves)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("output_gate", [True, False], ids=["fo", "f"])
def test_zoneout(backend, output_gate, training):
    torch.manual_seed(0)
    layer = QRNNLayer(5, 33, zoneout=0.3, output_gate=output_gate).train(training)
    X, c0 = torch.randn(9, 3, 5, requires_grad=True), torch.randn(1, 3, 33, requires_grad=True)
    torch.manual_seed(4)
    keep = torch.empty(9, 3, 33).bernoulli_(0.7) if training else 0.7
    torch.manual_seed(4)
    actual, expected = layer(X, c0), layer_plain(layer, X, c0, keep)
    torch.testing.assert_close(actual, expected, rtol=2e-6, atol=2e-6)
    assert_same_gradients(actual, expected, [X, c0, *layer.parameters()])


def test_without_zoneout_no_random_number_is_drawn(backend):
    layer, before = QRNNLayer(3, 4), torch.get_rng_state()
    layer(torch.ones(2, 2, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_inputs_need_not_be_contiguous(backend):
    torch.manual_seed(0)
    layer = QRNNLayer(5, 7, window=2)
    layer.linear = nn.Sequential(layer.linear, Swapped())
    X, c0 = torch.randn(3, 4, 5).transpose(0, 1), torch.randn(7, 3).t()
    torch.testing.assert_close(layer(X, c0), layer_plain(layer, X, c0), rtol=2e-6, atol=2e-6)


class Swapped(nn.Module):
    """The same values, with another layout in memory."""

    def forward(self, y):
        return y.transpose(0, 2).contiguous().transpose(0, 2)


def test_backward_can_run_twice(backend):
    layer = QRNNLayer(5, 7)
    h, _ = layer(torch.randn(3, 2, 5))
    first = torch.autograd.grad(h.sum(), layer.linear.weight, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(h.sum(), layer.linear.weight)[0])


def test_two_pieces_equal_one_run(backend):
    torch.manual_seed(0)
    X = torch.randn(9, 2, 5)
    whole, last = QRNNLayer.forward(layer := QRNNLayer(5, 7, window=2, save_prev_x=True), X)
    layer.reset()
    first, c = layer(X[:4])
    second, c = layer(X[4:], c)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(c, last, rtol=2e-6, atol=2e-6)


def test_previous_frame_is_kept_only_when_asked_and_carries_no_gradient():
    X = torch.randn(4, 2, 5, requires_grad=True)
    for window, save in ((1, True), (2, False)):
        layer = QRNNLayer(5, 7, window=window, save_prev_x=save)
        layer(X)
        assert layer.prevX is None
    layer = QRNNLayer(5, 7, window=2, save_prev_x=True)
    layer(X)
    assert torch.equal(layer.prevX, X[-1:])
    layer(torch.randn(1, 2, 5))[0].sum().backward()
    assert X.grad is None
    assert list(layer.state_dict()) == ["linear.weight", "linear.bias"]
    with pytest.raises(RuntimeError):  # another batch size without reset() is an error, not a guess
        layer(torch.randn(4, 3, 5))
    layer.reset()
    layer(torch.randn(4, 3, 5))


def test_a_wrapped_linear_is_called(backend):
    layer = QRNNLayer(5, 7)
    expected = layer(X := torch.randn(3, 2, 5))
    layer.linear = nn.Sequential(layer.linear)
    assert torch.equal(layer(X)[0], expected[0])


def test_autocast_computes_the_recurrence_in_float32(backend):
    torch.manual_seed(0)
    layer, X = QRNNLayer(5, 7), torch.randn(30, 2, 5)
    with torch.autocast("cpu", torch.bfloat16):
        h, c = layer(X)
        h2, c2 = layer(X[:3], c)
    assert (h.dtype, c.dtype, h2.dtype, c2.dtype) == (torch.bfloat16, torch.float32) * 2
    torch.testing.assert_close(h.float(), layer(X)[0], atol=0.02, rtol=0.02)
    h.float().sum().backward()
    assert layer.linear.weight.grad.isfinite().all()


def test_constructor_checks():
    with pytest.raises(ValueError, match="QRNN"):
        QRNNLayer(5, window=3)
    for wrong in ({"bias": False}, {"batch_first": True}, {"bidirectional": True}):
        with pytest.raises(ValueError, match="QRNN"):
            QRNN(5, 7, **wrong)
    assert QRNNLayer(5).hidden_size == 5
    assert QRNNLayer(5, 7, window=2, output_gate=False).linear.weight.shape == (14, 10)
    with pytest.raises(ValueError, match="batch size 4, not 2"):
        QRNNLayer(5, 7)(torch.randn(3, 2, 5), torch.randn(4, 7))


def test_stack(backend):
    torch.manual_seed(0)
    stack = QRNN(5, 7, num_layers=3, window=2, save_prev_x=True)
    X, hidden = torch.randn(4, 2, 5), torch.randn(3, 2, 7)
    output, last = stack(X, hidden)
    assert last.shape == (3, 2, 7)
    expected = X
    for layer, h in zip(stack.layers, hidden, strict=True):
        layer.reset()
        expected, _ = layer(expected, h)
    assert torch.equal(output, expected)
    assert stack.layers[2].prevX is not None
    stack.reset()
    assert all(layer.prevX is None for layer in stack.layers)
    assert list(stack.state_dict())[:2] == ["layers.0.linear.weight", "layers.0.linear.bias"]


def test_stack_of_given_layers_and_dropout_between():
    torch.manual_seed(0)
    stack = QRNN(5, 7, layers=[QRNNLayer(5, 7), QRNNLayer(7, 7)], dropout=0.5)
    assert stack.num_layers == 2
    X = torch.randn(4, 2, 5)
    assert not torch.equal(stack(X)[0], stack(X)[0])
    stack.eval()
    assert torch.equal(stack(X)[0], stack(X)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("zoneout", [0, 0.3])
def test_layer_on_a_gpu_equals_the_cpu(zoneout):
    torch.manual_seed(0)
    layer = QRNNLayer(5, 130, window=2, zoneout=zoneout).double().eval()
    X, c0 = torch.randn(63, 2, 5).double(), torch.randn(2, 130).double()
    expected = [t.detach() for t in layer(X, c0)]
    actual = layer.cuda()(X.cuda(), c0.cuda())
    torch.testing.assert_close([t.cpu() for t in actual], expected, rtol=1e-10, atol=1e-10)
    with torch.autocast("cuda", torch.bfloat16):
        layer.float()(X.float().cuda(), c0.float().cuda())[0].sum().backward()
    assert layer.linear.weight.grad.isfinite().all()
