"""The recurrence with rounded operands, step by step against its definition.

The loops are the same on every CPU; what differs is how bf16.h multiplies. With AVX-512 BF16 these
tests run the instructions, elsewhere what stands in for them, and there in AVX-512's shapes too
(16 numbers a register, 6 rows a tile). The definition works on each step's own inputs: two forms of
a whole sequence drift apart where a sum lies between two bfloat16 numbers.
"""

import ctypes
import shutil
import subprocess

import pytest
import torch

from kernels import build, library
from kernels import lstm as module
from kernels import product as product_module
from kernels.lstm import lstm, lstm_plain

SIZES = [(1, 1, 1), (2, 3, 7), (9, 2, 31), (4, 13, 127), (3, 7, 64), (2, 6, 33)]
VARIANT = "-DVARIANTS=EXPORT(lstm_bf16, float, Bf16, f32)"


def compiled(target, *flags):
    """The rounded kernel of cpp/lstm.cpp alone, or a skipped test."""
    try:
        compiler = build._compiler()
    except build.BuildError as error:
        pytest.skip(str(error))
    command = [*compiler, "-std=c++17", "-O1", "-fopenmp", *flags, VARIANT,
               str(build.FOLDER / "lstm.cpp"), "-o", str(target)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def wide_library(tmp_path_factory):
    """In AVX-512's shapes, which the compiler makes of smaller registers."""
    path = tmp_path_factory.mktemp("shapes") / "lstm.so"
    result = compiled(path, "-shared", "-fPIC", "-march=native", "-DSHAPED_LIKE_AVX512")
    assert result.returncode == 0, result.stderr
    return library.declared(ctypes.CDLL(str(path)), ["lstm_bf16_room", "lstm_bf16_forward",
                                                     "lstm_bf16_backward"])


@pytest.fixture(params=["this CPU", "AVX-512's shapes"])
def shapes(request, monkeypatch):
    if library.loaded() is None:
        pytest.skip("no compiler here")
    if request.param != "this CPU":
        wide = request.getfixturevalue("wide_library")
        monkeypatch.setattr(library, "loaded", lambda: wide)


def recurrence(T, B, H):
    """Everything that forward and backward read and write, after both."""
    generator = torch.Generator().manual_seed(T + H)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    given = normal(T, B, 4 * H)
    w, h0, c0, d_out, dh, dc = (normal(4 * H, H) * H**-0.5, normal(1, B, H), normal(1, B, H),
                                normal(T, B, H), normal(1, B, H), normal(1, B, H))
    gates, out, cells = given.clone(), torch.full((T, B, H), torch.nan), torch.empty(T, B, H)
    room = module._room("lstm_bf16", w, B).fill_(torch.nan)
    d_gates = torch.full_like(given, torch.nan)
    library.call("lstm_bf16_forward", T, B, H, gates, w, room, h0, c0, out, cells, B * H)
    first = dh.clone(), dc.clone()
    room.fill_(torch.nan)
    library.call("lstm_bf16_backward", T, B, H, gates, w, room, c0, cells, d_out, d_gates, *first)
    return given, w, h0, c0, gates, out, cells, d_out, dh, dc, d_gates, first


def rounded(x):
    return x.bfloat16().float()


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=4e-6, atol=4e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_each_step_forward(shapes, size):
    given, w, h0, c0, gates, out, cells, *_ = recurrence(*size)
    before = torch.cat([h0, out[:-1]]), torch.cat([c0, cells[:-1]])
    i, f, g, o = (given + rounded(before[0]) @ rounded(w).t()).chunk(4, -1)
    activated = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    assert_close(gates, torch.cat(activated, -1))
    i, f, g, o = gates.chunk(4, -1)
    assert_close(cells, f * before[1] + i * g)
    assert_close(out, o * cells.tanh())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_each_step_backward(shapes, size):
    _, w, _, c0, gates, _, cells, d_out, dh, dc, d_gates, first = recurrence(*size)
    before = torch.cat([c0, cells[:-1]])
    i, f, g, o = gates.chunk(4, -1)
    for t in reversed(range(len(d_out))):
        whole, tanh_c = dh + d_out[t], cells[t].tanh()
        dc = dc + whole * o[t] * (1 - tanh_c**2)
        expected = (dc * g[t] * i[t] * (1 - i[t]), dc * before[t] * f[t] * (1 - f[t]),
                    dc * i[t] * (1 - g[t]**2), whole * tanh_c * o[t] * (1 - o[t]))
        assert_close(d_gates[t], torch.cat(expected, -1)[0])
        dh, dc = (rounded(d_gates[t]) @ rounded(w))[None], dc * f[t]
    assert_close(first[0], dh)
    assert_close(first[1], dc)


def test_rounding_to_the_nearest_and_the_even_one(shapes):
    """h0 meets the unit matrix, so the gates are what it is rounded to. Denormals are left out: the
    instructions take them for zero."""
    exact, powers = torch.tensor([1.0, -1.0, 0.0, 1.0e-38]), 10 ** torch.linspace(-30, 30, 53)
    between = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20, 1 - 2**-9])
    values = torch.cat([exact, between, powers, -powers])
    H = len(values)
    for given in (values, torch.full((H,), torch.nan)):
        gates, room = torch.zeros(1, 1, 4 * H), module._room("lstm_bf16", torch.empty(4 * H, H), 1)
        w = torch.cat([torch.eye(H)] * 4)
        given = given.clamp(max=1e30)
        states = given[None].clone(), torch.zeros(1, H), torch.empty(1, H), torch.empty(1, H)
        library.call("lstm_bf16_forward", 1, 1, H, gates, w, room, *states, 0)
        assert torch.equal(gates[0, 0, 2 * H:3 * H].isnan(), given.isnan())
        torch.testing.assert_close(gates[0, 0, :H], rounded(given).sigmoid(), equal_nan=True)


# --------------------------------------------------------------------------------- the whole layer
@pytest.fixture
def as_if_native(monkeypatch):
    """The rounded kernel is chosen under autocast, whatever the CPU."""
    if library.loaded() is None:
        pytest.skip("no compiler here")
    monkeypatch.setattr(library, "has_bf16_instructions", lambda: True)
    monkeypatch.setattr(product_module, "WORTH_ROUNDING", 0)


def test_few_multiplications_stay_in_float32(as_if_native, monkeypatch):
    monkeypatch.setattr(product_module, "WORTH_ROUNDING", 6 * 3 * 4 * 9 * (5 + 9))
    x, h0, c0, *weights = layer(6, 3, 5, 9)
    exact = lstm(x, (h0, c0), *weights)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(lstm(x, (h0, c0), *weights)[0], exact)
        assert torch.equal(lstm(x[:5], (h0, c0), *weights)[0], exact[:5])


def layer(T, B, I, H):  # noqa: E741
    generator = torch.Generator().manual_seed(5)
    shapes = [(T, B, I), (1, B, H), (1, B, H), (4 * H, I), (4 * H, H), (4 * H,), (4 * H,)]
    scales = [1, 0.5, 0.5] + [H**-0.5] * 4
    return [(torch.randn(*shape, generator=generator) * scale).requires_grad_()
            for shape, scale in zip(shapes, scales, strict=True)]


def results(function, leaves, **autocast):
    x, h0, c0, *weights = leaves
    with torch.autocast("cpu", torch.bfloat16, **autocast):
        output, (h, c) = function(x, (h0, c0), *weights)
        assert output.dtype == h.dtype == c.dtype == torch.float32
    return [output, h, c, *torch.autograd.grad((output**2).sum() + c.sum(), leaves)]


def error(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_error_of_a_layer(as_if_native):
    leaves = layer(20, 8, 40, 48)
    exact = results(lstm, leaves, enabled=False)
    errors = [error(a, e) for a, e in zip(results(lstm, leaves), exact, strict=True)]
    assert min(errors) > 1e-4  # it does round
    assert max(errors) < 5e-3, errors


def test_half_precision_inputs_and_evaluation(as_if_native):
    x, h0, c0, *weights = layer(6, 3, 5, 9)
    with torch.autocast("cpu", torch.bfloat16):
        trained = lstm(x.bfloat16(), (h0, c0), *weights)[0]
        with torch.no_grad():
            assert torch.equal(lstm(x.bfloat16(), (h0, c0), *weights)[0], trained)


def test_second_derivatives_are_the_loops(as_if_native):
    leaves = layer(5, 2, 3, 4)

    def penalty(function):
        x, h0, c0, *weights = leaves
        with torch.autocast("cpu", torch.bfloat16):
            y = function(x, (h0, c0), *weights)[0]
        gradient, = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), leaves[3])[0]

    def plain(x, hidden, *weights):
        with torch.autocast("cpu", enabled=False):
            return lstm_plain(x, *hidden, *weights)

    assert error(penalty(lstm), penalty(plain)) < 2e-2


@pytest.mark.parametrize("T", [2, 6])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_other_cpus_and_types_compute_in_float32(monkeypatch, T, dtype):
    """torch's own LSTM ends in an error there."""
    monkeypatch.setattr(library, "has_bf16_instructions", lambda: dtype == torch.float16)
    x, h0, c0, *weights = layer(T, 3, 5, 9)
    with torch.autocast("cpu", dtype):
        mixed = lstm(x, (h0, c0), *weights)
        mixed[0].sum().backward()
    assert torch.equal(mixed[0], lstm(x, (h0, c0), *weights)[0])


# ------------------------------------------------------------------------------ the instructions
def test_the_dot_product_instruction_is_used(tmp_path):
    """Compiled for a CPU that has it; that needs none."""
    result = compiled(tmp_path / "lstm.s", "-S", "-mavx512f", "-mavx512bw", "-mavx512vl",
                      "-mavx512dq", "-mavx512bf16")
    if "unrecognized" in result.stderr or "unknown argument" in result.stderr:
        pytest.skip("this compiler does not know AVX-512 BF16")
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "lstm.s").read_text()
    assert "vdpbf16ps" in text
    assert "vcvtneps2bf16" in text


def test_the_instructions_on_this_cpu():
    if not torch.cpu.get_capabilities().get("avx512_bf16", False):
        pytest.skip("this CPU has no AVX-512 BF16: the tests above ran what stands in for it")
    if shutil.which("g++") is None:
        pytest.skip("no g++ here")
    assert library.has_bf16_instructions()
