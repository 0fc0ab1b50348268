"""What all compiled kernels promise: accurate activations, results that do not depend on the number
of threads, the caller's treatment of denormals."""

import pytest
import torch

from kernels import library, lstm
from kernels.forget_mult import forget_mult
from kernels.qrnn_gates import qrnn_gates

pytestmark = pytest.mark.usefixtures("compiled")


def activations(values):
    """(tanh, sigmoid) of values as the gate kernel computes them: c = sigmoid(f) tanh(z)."""
    large = torch.full_like(values, 50)
    tanh = qrnn_gates(torch.cat([values, large])[None, None], None, None, 1.0, 2)[0]
    sigmoid = qrnn_gates(torch.cat([large, values])[None, None], None, None, 1.0, 2)[0]
    return tanh.flatten(), sigmoid.flatten()


@pytest.mark.parametrize(("dtype", "ulps"), [(torch.float32, 4), (torch.float64, 4)], ids=str)
def test_accuracy_of_the_activations(dtype, ulps):
    small = 10 ** torch.linspace(-30, 0, 5001, dtype=dtype)
    values = torch.cat([small, -small, torch.linspace(-85, 85, 50001, dtype=dtype)])
    wide = values.double()
    tolerance = ulps * torch.finfo(dtype).eps
    for actual, expected in zip(activations(values), (wide.tanh(), wide.sigmoid()), strict=True):
        error = ((actual.double() - expected) / expected).abs().nan_to_num(0).max().item()
        assert error < tolerance, f"relative error {error}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_activations_at_the_ends(dtype):
    tanh, sigmoid = activations(torch.tensor([-torch.inf, -1e4, 0, 1e4, torch.inf], dtype=dtype))
    assert tanh.tolist() == [-1, -1, 0, 1, 1]
    assert sigmoid[2:].tolist() == [0.5, 1, 1]
    assert (sigmoid[:2] < 1e-37).all()
    assert torch.stack(activations(torch.full((20,), torch.nan, dtype=dtype))).isnan().all()


def outputs_and_gradients(run, *shapes):
    generator = torch.Generator().manual_seed(1)
    leaves = [torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes]
    result = run(*leaves)
    return [result, *torch.autograd.grad(result.square().sum(), leaves)]


RECURRENCES = {
    "forget_mult": (forget_mult, [(9, 7, 333), (9, 7, 333), (7, 333)]),
    "gates": (lambda y, c: qrnn_gates(y, c, None, 1.0, 3)[0], [(9, 7, 3 * 333), (7, 333)]),
}


@pytest.mark.parametrize("name", RECURRENCES)
def test_number_of_threads_does_not_change_a_bit(threads, name):
    run, shapes = RECURRENCES[name]
    threads(1)
    one = outputs_and_gradients(run, *shapes)
    for n in (2, 3):
        threads(n)
        for a, b in zip(one, outputs_and_gradients(run, *shapes), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("kernel", ["lstm", "lstm_bf16"])
def test_number_of_threads_does_not_change_a_bit_of_the_lstm_recurrence(threads, kernel):
    torch.manual_seed(2)
    T, B, H = 5, 13, 75
    gates, w_hh, d_out = torch.randn(T * B, 4 * H), torch.randn(4 * H, H), torch.randn(T, B, H)
    h0, c0, dh, dc = torch.randn(4, B, H)

    def run():
        g, out, cells = gates.clone(), torch.empty(T, B, H), torch.empty(T, B, H)
        room, grads = lstm._room(kernel, w_hh, B), [torch.empty_like(g), dh.clone(), dc.clone()]
        library.call(f"{kernel}_forward", T, B, H, g, w_hh, room, h0, c0, out, cells, B * H)
        library.call(f"{kernel}_backward", T, B, H, g, w_hh, room, c0, cells, d_out, *grads)
        return [g, out, cells, *grads]

    threads(1)
    one = run()
    for n in (2, 3):
        threads(n)
        for a, b in zip(one, run(), strict=True):
            assert torch.equal(a, b)


def test_denormals_are_flushed_in_every_thread_if_the_caller_says_so(threads):
    threads(2)
    f, x = torch.ones(3, 8, 1024), torch.full((3, 8, 1024), 1e-40)
    try:
        if not torch.set_flush_denormal(True):
            pytest.skip("this CPU cannot flush denormals")
        flushed = forget_mult(f, x)
    finally:
        torch.set_flush_denormal(False)
    assert flushed.count_nonzero() == 0
    assert torch.equal(forget_mult(f, x), x)
