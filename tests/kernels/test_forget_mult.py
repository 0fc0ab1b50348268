"""forget_mult against the loop that is its definition: values and all gradients, awkward sizes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from awd_lstm.qrnn import ForgetMult
from kernels.forget_mult import forget_mult, forget_mult_plain

ROOT = Path(__file__).resolve().parents[2]
SIZES = [(T, B, H) for T in (1, 2, 3, 63) for B, H in ((1, 1), (3, 7), (2, 127), (5, 130))]
pytestmark = pytest.mark.usefixtures("poisoned_memory")


def inputs(T, B, H, hidden, dtype=torch.float32, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).to(device)

    f, x = random(T, B, H).sigmoid(), random(T, B, H)
    c0 = {"none": None, "BH": random(B, H), "1BH": random(1, B, H)}[hidden]
    leaves = [t.requires_grad_() for t in (f, x, c0) if t is not None]
    return f, x, c0, leaves, random(T, B, H)


def check(fast, T, B, H, hidden, tolerance, **kind):
    f, x, c0, leaves, grad = inputs(T, B, H, hidden, **kind)
    expected = forget_mult_plain(f, x, c0)
    expected_grads = torch.autograd.grad(expected, leaves, grad)
    actual = fast(f, x, c0)
    actual_grads = torch.autograd.grad(actual, leaves, grad)
    for a, e in zip((actual, *actual_grads), (expected, *expected_grads), strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("hidden", ["none", "BH", "1BH"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_loop_in_float32(backend, size, hidden):
    check(forget_mult, *size, hidden, tolerance=2e-6)


@pytest.mark.parametrize("hidden", ["none", "BH"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_loop_in_float64(backend, size, hidden):
    check(forget_mult, *size, hidden, tolerance=1e-13, dtype=torch.float64)


@pytest.mark.parametrize("hidden", ["none", "BH"])
def test_gradcheck(backend, hidden):
    f, x, c0, _, _ = inputs(4, 2, 9, hidden, dtype=torch.float64)
    assert torch.autograd.gradcheck(forget_mult, (f, x, c0))


def test_columns_that_do_not_fit_one_block(backend):
    check(forget_mult, 3, 7, 301, "BH", tolerance=2e-6)


def test_inputs_need_not_be_contiguous(backend):
    f, x, c0, _, grad = inputs(5, 3, 7, "BH")
    expected = forget_mult_plain(f, x, c0)
    swapped = [t.detach().transpose(0, 1).contiguous().transpose(0, 1) for t in (f, x, grad)]
    f_s, x_s = (t.requires_grad_() for t in swapped[:2])
    actual = forget_mult(f_s, x_s, c0.detach().t().contiguous().t())
    torch.testing.assert_close(actual, expected, rtol=2e-6, atol=2e-6)
    expected_grads = torch.autograd.grad(expected, (f, x), grad)
    for a, e in zip(
        torch.autograd.grad(actual, (f_s, x_s), swapped[2]), expected_grads, strict=True
    ):
        torch.testing.assert_close(a, e, rtol=2e-6, atol=2e-6)


def test_backward_can_run_twice(backend):
    f, x, c0, leaves, grad = inputs(6, 2, 5, "BH")
    c = forget_mult(f, x, c0)
    first = torch.autograd.grad(c, leaves, grad, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(c, leaves, grad), strict=True):
        assert torch.equal(a, b)


def test_nan_passes_through(backend):
    f, x, c0, _, _ = inputs(3, 1, 40, "BH")
    x.data[1, 0, 5] = torch.nan
    assert forget_mult(f, x, c0).isnan().nonzero().tolist() == [[1, 0, 5], [2, 0, 5]]


def test_half_precision_is_computed_in_float32(backend):
    f, x, c0, _, _ = inputs(20, 2, 9, "BH")
    f, x, c0 = (t.detach().bfloat16() for t in (f, x, c0))
    expected = forget_mult_plain(f.float(), x.float(), c0.float())
    torch.testing.assert_close(forget_mult(f, x, c0), expected, rtol=2e-6, atol=2e-6)


def test_module_and_wrong_shapes():
    f, x, c0, _, _ = inputs(3, 2, 5, "1BH")
    assert torch.equal(ForgetMult()(f, x, c0, use_cuda=False), forget_mult(f, x, c0))
    with pytest.raises(ValueError, match="differ in shape"):
        forget_mult(f, x[:2])
    with pytest.raises(RuntimeError):
        forget_mult(f, x, c0[:, :1])


TRITON = """
import torch
from test_forget_mult import SIZES, check
from kernels import forget_mult, forget_mult_triton
forget_mult._backend = lambda f, x: (forget_mult_triton.forward, forget_mult_triton.backward)
for size in [s for s in SIZES if s[0] < 63] + [(9, 2, 127)]:
    for hidden in ("none", "BH"):
        check(forget_mult.forget_mult, *size, hidden, tolerance=2e-6)
        check(forget_mult.forget_mult, *size, hidden, tolerance=1e-13, dtype=torch.float64)
print("equal")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_kernels_in_the_interpreter():
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    env = dict(os.environ, TRITON_INTERPRET="1", PYTHONPATH=paths)
    run = subprocess.run([sys.executable, "-c", TRITON], capture_output=True, text=True, env=env)
    assert run.stdout == "equal\n", run.stderr[-2000:]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("hidden", ["none", "BH", "1BH"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_loop_on_a_gpu(size, hidden):
    check(forget_mult, *size, hidden, tolerance=2e-6, device="cuda")
    check(forget_mult, *size, hidden, tolerance=1e-13, device="cuda", dtype=torch.float64)
