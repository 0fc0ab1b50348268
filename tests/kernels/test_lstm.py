"""lstm against the loop that is its definition, and against nn.LSTM."""

import pytest
import torch

from kernels import library
from kernels import lstm as module
from kernels.lstm import lstm, lstm_plain

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(autouse=True)
def even_short_sequences(monkeypatch):
    """The kernels are used for any length, so that short sequences test them too."""
    monkeypatch.setattr(module, "SHORT", 0)


def inputs(T, B, I, H, dtype=torch.float32):  # noqa: E741
    """x, h0, c0 and the four weights, with nn.LSTM's initial sizes."""
    generator = torch.Generator().manual_seed(T + H)
    shapes = [(T, B, I), (1, B, H), (1, B, H), (4 * H, I), (4 * H, H), (4 * H,), (4 * H,)]
    scales = [1, 1, 1] + [H**-0.5] * 4
    return [
        (torch.randn(*shape, generator=generator, dtype=dtype) * scale).requires_grad_()
        for shape, scale in zip(shapes, scales, strict=True)
    ]


def flat(result):
    output, (h, c) = result
    return output, h, c


def run(x, h0, c0, *weights):
    return flat(lstm(x, (h0, c0), *weights))


def assert_same(actual, expected, leaves, tolerance):
    torch.manual_seed(9)
    weights = [torch.randn_like(t) for t in expected]
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)
    for used in ([0], [1], [2], [0, 1, 2]):
        grads = []
        for result in (actual, expected):
            loss = sum((result[i] * weights[i]).sum() for i in used)
            grads.append(torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True))
        for a, e in zip(*grads, strict=True):
            scale = max(1, e.abs().max().item())  # a weight's gradient sums over T and B
            torch.testing.assert_close(a / scale, e / scale, rtol=tolerance, atol=tolerance)


SIZES = [
    (1, 1, 3, 1),
    (2, 3, 5, 7),
    (63, 2, 4, 31),
    (5, 13, 20, 127),
    (3, 20, 9, 130),
    (4, 7, 2, 64),
    (127, 1, 3, 63),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_loop_in_float32(backend, size):
    leaves = inputs(*size)
    assert_same(run(*leaves), lstm_plain(*leaves), leaves, tolerance=2e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_loop_in_float64(backend, size):
    leaves = inputs(*size, dtype=torch.float64)
    assert_same(run(*leaves), lstm_plain(*leaves), leaves, tolerance=1e-13)


@pytest.mark.parametrize("B", range(1, 14))
def test_every_number_of_rows_in_a_tile(backend, B):
    leaves = inputs(2, B, 3, 18)
    assert_same(run(*leaves), lstm_plain(*leaves), leaves, tolerance=2e-6)


def test_more_gates_than_one_backward_slice(backend):
    leaves = inputs(3, 5, 2, 290, dtype=torch.float64)  # 4 * 290 > DEPTH in lstm.cpp
    assert_same(run(*leaves), lstm_plain(*leaves), leaves, tolerance=1e-12)


def test_gradcheck(backend):
    assert torch.autograd.gradcheck(run, inputs(3, 2, 2, 3, dtype=torch.float64))


def test_equals_nn_lstm(backend):
    torch.manual_seed(0)
    reference, x = torch.nn.LSTM(6, 9), torch.randn(7, 3, 6)
    hidden = torch.randn(1, 3, 9), torch.randn(1, 3, 9)
    actual = flat(lstm(x, hidden, *reference.parameters()))
    for a, e in zip(actual, flat(reference(x, hidden)), strict=True):
        torch.testing.assert_close(a, e, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("T", [1, 6])
def test_without_gradient_the_same_values(backend, T):
    """Bit for bit by our kernels; torch has another kernel for inference on some CPUs."""
    tolerance = 0 if backend == "compiled" else 1e-6
    leaves = inputs(T, 3, 5, 19)
    expected = run(*leaves)
    with torch.no_grad():
        without = run(*leaves)
    assert not any(t.requires_grad for t in without)
    for values in (without, run(*[t.detach() for t in leaves])):
        for a, e in zip(values, expected, strict=True):
            torch.testing.assert_close(a, e.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("frozen", range(7))
def test_one_input_without_gradient(backend, frozen):
    leaves = inputs(4, 3, 5, 9)
    leaves[frozen].requires_grad_(False)
    rest = [t for t in leaves if t.requires_grad]
    assert_same(run(*leaves), lstm_plain(*leaves), rest, tolerance=2e-6)


def test_inputs_need_not_be_contiguous(backend):
    leaves = inputs(4, 3, 5, 9)
    strided = [
        t.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for t in leaves
    ]
    assert not strided[4].is_contiguous()
    assert_same(run(*strided), lstm_plain(*strided), strided, tolerance=2e-6)


def test_two_pieces_equal_one_run(backend):
    x, h, c, *weights = inputs(9, 3, 5, 9)
    whole = run(x, h, c, *weights)
    first, h, c = run(x[:4], h, c, *weights)
    second, h, c = run(x[4:], h, c, *weights)
    for a, e in zip((torch.cat([first, second]), h, c), whole, strict=True):
        torch.testing.assert_close(a, e, rtol=2e-6, atol=2e-6)


def test_backward_can_run_twice(backend):
    leaves = inputs(4, 3, 5, 9)
    output = run(*leaves)[0].sum()
    first = torch.autograd.grad(output, leaves, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(output, leaves), strict=True):
        assert torch.equal(a, b)


def test_weights_that_are_not_leaves_pass_their_gradient_on(backend):
    """As with weight drop: the raw matrix gets its gradient through the mask, and only there."""
    x, h, c, w_ih, w_hh, b_ih, b_hh = inputs(4, 3, 5, 9)
    mask = torch.empty_like(w_hh).bernoulli_(0.5, generator=torch.Generator().manual_seed(0))
    run(x, h, c, w_ih, w_hh * mask, b_ih, b_hh)[0].sum().backward()
    assert torch.equal(w_hh.grad != 0, mask != 0)


def test_no_time_step(backend):
    x, h, c, *weights = inputs(0, 3, 5, 9)
    output, h_n, c_n = run(x, h, c, *weights)
    assert output.shape == (0, 3, 9)
    assert torch.equal(h_n, h)
    assert torch.equal(c_n, c)


def test_short_sequences_use_torch(monkeypatch):
    monkeypatch.setattr(module, "SHORT", 4)
    monkeypatch.setattr(library, "call", None)  # would fail
    leaves = inputs(3, 2, 3, 5)
    assert_same(run(*leaves), lstm_plain(*leaves), leaves, tolerance=2e-6)


def test_wrong_shapes():
    x, h, c, *weights = inputs(4, 3, 5, 9)
    with pytest.raises(ValueError, match="expected states"):
        lstm(x, (h[0], c[0]), *weights)
    with pytest.raises(ValueError, match="expected states"):
        lstm(x[:, :2], (h, c), *weights)
    with pytest.raises(RuntimeError):
        lstm(x[..., :2], (h, c), *weights)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    leaves = [t.detach().cuda().requires_grad_() for t in inputs(5, 3, 4, 33, torch.float64)]
    assert_same(run(*leaves), lstm_plain(*leaves), leaves, tolerance=1e-10)
