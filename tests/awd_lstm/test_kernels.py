"""The compiled kernels: how they are built, life without a compiler, and what they promise."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from awd_lstm import kernels, lstm
from awd_lstm.qrnn import _Gates, forget_mult, forget_mult_plain

ROOT = Path(__file__).resolve().parents[2]
LOAD = "from awd_lstm import kernels; assert kernels.library() is not None; print('loaded')"


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache folder, and no library loaded yet."""
    monkeypatch.setenv("AWD_LSTM_CACHE", str(tmp_path / "cache"))
    kernels.library.cache_clear()
    yield tmp_path / "cache"
    kernels.library.cache_clear()


@pytest.fixture
def compiled():
    if kernels.library() is None:
        pytest.skip("no compiler here")


@pytest.fixture
def threads():
    """Set the number of threads; the old one comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def sample():
    torch.manual_seed(0)
    return torch.rand(5, 2, 9), torch.randn(5, 2, 9), torch.randn(2, 9)


def assert_right():
    torch.testing.assert_close(
        forget_mult(*sample()), forget_mult_plain(*sample()), rtol=2e-6, atol=2e-6
    )


def test_built_once_and_then_loaded(compiled, fresh, monkeypatch):
    assert kernels.library() is not None
    assert [p.suffix for p in fresh.iterdir()] == [".so"]  # and nothing temporary is left
    kernels.library.cache_clear()
    monkeypatch.setattr(kernels, "_build", None)  # a second build would fail
    assert kernels.library() is not None
    assert_right()


def test_two_processes_build_at_once(compiled, fresh):
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", LOAD]
    runs = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE) for _ in range(2)]
    assert [run.communicate()[0] for run in runs] == [b"loaded\n"] * 2
    assert [p.suffix for p in fresh.iterdir()] == [".so"]


def test_cache_folder_that_cannot_be_written(compiled, fresh, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AWD_LSTM_CACHE", str(tmp_path / "file" / "cache"))
    assert kernels.library() is not None
    assert_right()


def test_damaged_library_is_built_again(compiled, fresh):
    fresh.mkdir()
    damaged = fresh / f"kernels-{kernels._key(kernels._compiler())}.so"
    damaged.write_bytes(b"not a library")
    assert kernels.library() is not None
    assert damaged.stat().st_size > 10000


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_without_compiler_one_warning_and_the_same_results(fresh, monkeypatch, compiler):
    monkeypatch.setenv("CXX", compiler)
    with pytest.warns(UserWarning, match=f"no compiled CPU kernels.*{compiler}") as record:
        assert_right()
    assert len(record) == 1
    assert "\n" not in str(record[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_right()


def test_switched_off_by_the_environment(fresh, monkeypatch):
    monkeypatch.setenv("AWD_LSTM_KERNELS", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not kernels.available(torch.zeros(1))
        assert_right()
    assert not fresh.exists()


def test_available_only_for_one_known_type_on_the_cpu(compiled):
    single, double = torch.zeros(1), torch.zeros(1, dtype=torch.float64)
    assert kernels.available(single, single)
    assert kernels.available(double)
    assert not kernels.available(single, double)
    assert not kernels.available(single.bfloat16())
    assert not kernels.available(single.to("meta"))


def activations(values):
    """(tanh, sigmoid) of values as the gate kernel computes them: c = sigmoid(f) tanh(z)."""
    large = torch.full_like(values, 50)
    tanh = _Gates.apply(torch.cat([values, large])[None, None], None, None, 1.0, 2)[0]
    sigmoid = _Gates.apply(torch.cat([large, values])[None, None], None, None, 1.0, 2)[0]
    return tanh.flatten(), sigmoid.flatten()


@pytest.mark.parametrize(("dtype", "ulps"), [(torch.float32, 4), (torch.float64, 4)], ids=str)
def test_accuracy_of_the_activations(compiled, dtype, ulps):
    small = 10 ** torch.linspace(-30, 0, 5001, dtype=dtype)
    values = torch.cat([small, -small, torch.linspace(-85, 85, 50001, dtype=dtype)])
    wide = values.double()
    tolerance = ulps * torch.finfo(dtype).eps
    for actual, expected in zip(activations(values), (wide.tanh(), wide.sigmoid()), strict=True):
        error = ((actual.double() - expected) / expected).abs().nan_to_num(0).max().item()
        assert error < tolerance, f"relative error {error}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_activations_at_the_ends(compiled, dtype):
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
    "gates": (lambda y, c: _Gates.apply(y, c, None, 1.0, 3)[0], [(9, 7, 3 * 333), (7, 333)]),
}


@pytest.mark.parametrize("name", RECURRENCES)
def test_number_of_threads_does_not_change_a_bit(compiled, threads, name):
    run, shapes = RECURRENCES[name]
    threads(1)
    one = outputs_and_gradients(run, *shapes)
    for n in (2, 3):
        threads(n)
        for a, b in zip(one, outputs_and_gradients(run, *shapes), strict=True):
            assert torch.equal(a, b)


def test_number_of_threads_does_not_change_a_bit_of_the_lstm_recurrence(compiled, threads):
    torch.manual_seed(2)
    T, B, H = 5, 13, 75
    gates, w_hh, d_out = torch.randn(T * B, 4 * H), torch.randn(4 * H, H), torch.randn(T, B, H)
    h0, c0, dh, dc = torch.randn(4, B, H)

    def run():
        g, out, cells = gates.clone(), torch.empty(T, B, H), torch.empty(T, B, H)
        packed, grads = lstm._packing_buffer(w_hh), [torch.empty_like(g), dh.clone(), dc.clone()]
        kernels.call("lstm_forward", T, B, H, g, w_hh, packed, h0, c0, out, cells, B * H)
        kernels.call("lstm_backward", T, B, H, g, w_hh, packed, c0, cells, d_out, *grads)
        return [g, out, cells, *grads]

    threads(1)
    one = run()
    for n in (2, 3):
        threads(n)
        for a, b in zip(one, run(), strict=True):
            assert torch.equal(a, b)


def test_denormals_are_flushed_in_every_thread_if_the_caller_says_so(compiled, threads):
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
