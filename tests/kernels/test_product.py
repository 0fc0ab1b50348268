"""product and linear against torch's own, by either library: values, first and second gradients."""

import pytest
import torch

from kernels import cpu, library
from kernels import product as module
from kernels.product import (
    add_product,
    add_product_,
    linear,
    linear_plain,
    product,
    product_into,
    product_plain,
    rounded_product,
)
from tests.products import products_by

ONEDNN_IS_FASTER = cpu.onednn_is_faster  # what the fixture replaces
SIZES = [(1, 1, 1), (3, 1, 63), (63, 127, 3), (127, 63, 130), (2, 300, 1)]


@pytest.fixture(autouse=True, params=["onednn", "mkl"])
def chosen(request):
    """oneDNN for products of any size, or for none, whatever the CPU."""
    with products_by(request.param):
        yield request.param


def matrices(M, K, N, dtype=torch.float32):
    generator = torch.Generator().manual_seed(M + K + N)
    return (torch.randn(M, K, generator=generator, dtype=dtype).requires_grad_(),
            torch.randn(K, N, generator=generator, dtype=dtype).requires_grad_())


def assert_same(fast, plain, leaves, tolerance):
    """The value, and each leaf's gradient of a loss that is not linear in it."""
    results = []
    for function in (fast, plain):
        y = function(*leaves)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for a, e in zip(*results, strict=True):
        scale = max(1, e.abs().max().item())  # a sum over many products
        torch.testing.assert_close(a / scale, e / scale, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_product_equals_torch(size):
    assert_same(product, product_plain, matrices(*size), 2e-6)
    assert_same(product, product_plain, matrices(*size, dtype=torch.float64), 1e-13)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_product_of_transposed_matrices(size):
    M, K, N = size
    leaves = [t.detach().clone().requires_grad_() for t in (matrices(K, M, 1)[0],
                                                            matrices(N, K, 1)[0])]
    assert_same(lambda a, b: product(a.t(), b.t()), lambda a, b: a.t() @ b.t(), leaves, 2e-6)


@pytest.mark.parametrize("shape", [(1,), (7, 63), (3, 1, 127), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("outputs", [1, 3, 130])
def test_linear_equals_torch(shape, outputs):
    torch.manual_seed(0)
    leaves = [torch.randn(*shape), torch.randn(outputs, shape[-1]), torch.randn(outputs)]
    leaves = [t.requires_grad_() for t in leaves]
    assert linear(*leaves).shape == (*shape[:-1], outputs)
    assert_same(linear, linear_plain, leaves, 2e-6)


@pytest.mark.parametrize("frozen", range(3))
def test_linear_with_one_frozen_input(frozen):
    torch.manual_seed(0)
    leaves = [torch.randn(5, 3), torch.randn(4, 3), torch.randn(4)]
    for i, t in enumerate(leaves):
        t.requires_grad_(i != frozen)
    linear(*leaves).sum().backward()
    assert [t.grad is not None for t in leaves] == [i != frozen for i in range(3)]


def test_linear_without_rows_and_under_autocast():
    weight, bias = torch.randn(4, 3), torch.randn(4)
    assert linear(torch.empty(0, 2, 3), weight, bias).shape == (0, 2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.randn(2, 3), weight, bias).dtype == torch.bfloat16


def test_linear_without_bias():
    torch.manual_seed(0)
    leaves = [torch.randn(2, 5, 3).requires_grad_(), torch.randn(4, 3).requires_grad_()]
    assert_same(linear, linear_plain, leaves, 2e-6)


@pytest.mark.parametrize("bias_shape", [(1,), (5, 1), (3,), (5, 3)], ids=str)
def test_add_product(bias_shape):
    leaves = [torch.randn(bias_shape).requires_grad_(), *matrices(5, 9, 3)]
    assert_same(add_product, torch.addmm, leaves, 2e-6)


def test_products_into_given_memory():
    a, b = (t.detach() for t in matrices(5, 9, 3))
    start, bias = torch.randn(5, 3), torch.randn(5, 1)
    torch.testing.assert_close(add_product_(start.clone(), a, b), start + a @ b)
    wide = torch.full((5, 7), torch.nan)  # written through a view, the rest left alone
    for given in (None, bias):
        assert product_into(wide[:, 2:5], a, b, given).data_ptr() == wide[:, 2:5].data_ptr()
        torch.testing.assert_close(wide[:, 2:5], a @ b + (0 if given is None else given))
    assert wide[:, [0, 1, 5, 6]].isnan().all()


def test_rounded_product():
    a, b = (t.detach() for t in matrices(5, 900, 3))
    exact = (a.bfloat16().double() @ b.bfloat16().double()).float()
    torch.testing.assert_close(rounded_product(a, b), exact, rtol=2**-8, atol=0)
    assert rounded_product(a, b).dtype == torch.float32


def test_torch_func_gets_torchs_operations():
    layers = [torch.nn.Linear(3, 4) for _ in range(5)]
    weights, biases = (torch.stack([getattr(m, n).detach() for m in layers]) for n in
                       ("weight", "bias"))
    x = torch.randn(2, 3)
    ours = torch.func.vmap(lambda w, b: linear(x, w, b))(weights, biases)
    torch.testing.assert_close(ours, torch.stack([m(x) for m in layers]).detach())


# ------------------------------------------------------------------------------------ the choice
@pytest.fixture
def counted(monkeypatch, chosen):
    """Products that oneDNN computes, in a list."""
    if chosen == "mkl":
        pytest.skip("of the other library")
    seen, own = [], module._onednn
    monkeypatch.setattr(module, "_onednn", lambda x, w, b: seen.append(x.shape) or own(x, w, b))
    return seen


def test_small_products_stay_with_torch(monkeypatch, counted):
    monkeypatch.setattr(module, "LARGE", 4 * 5 * 6)
    product(torch.ones(4, 5), torch.ones(5, 6))
    linear(torch.ones(2, 2, 5), torch.ones(6, 5))
    assert len(counted) == 2
    product(torch.ones(4, 5), torch.ones(5, 5))
    assert len(counted) == 2


def test_torchs_own_where_onednn_has_no_say(monkeypatch, counted):
    a, b = torch.ones(4, 5), torch.ones(5, 6)
    product(a.double(), b.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert product(a, b).dtype == torch.bfloat16
    monkeypatch.setattr(library, "exporting", lambda: True)
    product(a, b)
    assert not counted


def layouts(rows, columns):
    """Matrices of this shape, as windows and transposes of others."""
    def some(rows, columns):
        return [torch.randn(rows, columns), torch.randn(rows, columns + 4)[:, :columns],
                torch.randn(2 * rows, columns)[::2], torch.randn(1, columns).expand(rows, columns)]

    return some(rows, columns) + [a.t() for a in some(columns, rows)]


def test_onednn_gets_no_weights_with_gaps(monkeypatch, chosen):
    """It takes a thousand times as long for them."""
    if chosen == "mkl":
        pytest.skip("of the other library")
    seen, own = [], module._onednn_linear()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_onednn_linear",
                      lambda: lambda x, w, *more: seen.append(w) or own(x, w, *more))
        for a in layouts(7, 12):
            for b in layouts(12, 20):
                out, expected = torch.empty(7, 20), a.double() @ b.double()
                for found in (product(a, b), linear(a, b.t()), product_into(out, a, b),
                              add_product_(torch.zeros(7, 20), a, b)):
                    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert len(seen) == 4 * 8 * 8
    assert all(w.is_contiguous() or w.t().is_contiguous() for w in seen)


def test_bfloat16_is_summed_in_float32():
    a, b = (t.detach().bfloat16() for t in matrices(7, 12, 20))
    exact = a.double() @ b.double()
    c = torch.full((7, 20), 1000.0)
    assert add_product_(c, a, b) is c
    assert (c - 1000 - exact).abs().max() <= 2 ** -8 * exact.abs().max()  # 4 if c were bfloat16
    out, bias = torch.empty(7, 20, dtype=torch.bfloat16), torch.randn(20).bfloat16()
    error = (product_into(out, a, b, bias).double() - exact - bias.double()).abs()
    assert (error <= 2 ** -8 * (exact.abs() + bias.double().abs())).all()


@pytest.mark.parametrize(("vendor", "instructions", "faster"), [
    ("AuthenticAMD", {"avx2", "avx512_f"}, True), ("AuthenticAMD", {"avx2"}, False),
    ("GenuineIntel", {"avx2", "avx512_f", "amx_bf16"}, False)])
def test_the_library_by_cpu(monkeypatch, vendor, instructions, faster):
    monkeypatch.setattr(cpu, "vendor", lambda: vendor)
    monkeypatch.setattr(cpu, "has", lambda *names: bool(instructions & set(names)))
    assert ONEDNN_IS_FASTER() is faster


def test_what_the_cpu_is():
    assert cpu.vendor()
    assert cpu.has("sse2", "no such thing") == torch.cpu.get_capabilities().get("sse2", False)
    assert not cpu.has("no such thing")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    leaves = [t.detach().cuda().requires_grad_() for t in matrices(63, 127, 3, torch.float64)]
    assert_same(product, product_plain, leaves, 1e-12)


@pytest.fixture
def on_amd(monkeypatch, chosen):
    """Counts the products that MKL writes to longer rows."""
    if chosen != "mkl":
        pytest.skip("that is MKL's weakness")
    calls, longer = [], module._in_longer_rows
    monkeypatch.setattr(cpu, "vendor", lambda: "AuthenticAMD")
    monkeypatch.setattr(module, "_in_longer_rows", lambda *args: calls.append(1) or longer(*args))
    return calls


@pytest.mark.parametrize(("M", "K", "N"), [(700, 300, 575), (129, 777, 1001), (1200, 128, 1150)])
@torch.no_grad()
def test_longer_rows_have_the_same_bits(on_amd, M, K, N):
    """Also of transposed matrices and of windows of wider ones."""
    a, b = matrices(M, K, N)
    wide = torch.randn(M, K + 9)[:, 4:-5]
    for x, y in ((a, b), (a.t().contiguous().t(), b.t().contiguous().t()), (wide, b)):
        z = product(x, y)
        assert torch.equal(z, x @ y)
        assert z.is_contiguous()
        into = torch.randn(M, N + 8)[:, 3:N + 3]
        expected = into.clone().addmm_(x, y), x @ y + 1
        assert torch.equal(add_product_(into, x, y), expected[0])
        assert torch.equal(product_into(into, x, y, torch.ones(N)), expected[1])
    assert len(on_amd) == 9


def test_which_products_are_written_to_longer_rows(on_amd, monkeypatch):
    a, b = (t.detach() for t in matrices(200, 800, 999))
    sizes = [(a, b, True), (a, b[:, :992], False), (a[:127], b, False),
             (a[:, :127], b[:127], False), (a.double(), b.double(), False),
             (a, b.clone().requires_grad_(), False)]
    for x, y, longer in sizes:
        on_amd.clear()
        product(x, y)
        assert bool(on_amd) == longer
    on_amd.clear()
    with torch.autocast("cpu"):
        assert not module._misaligned(a, b, 999)
    monkeypatch.setattr(cpu, "vendor", lambda: "GenuineIntel")
    product(a, b)
    assert not on_amd


def test_which_sums_are_in_place(chosen, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 7 * 12 * 20)
    a, b = (t.detach() for t in matrices(7, 12, 20))
    assert module.adds_in_place(a, b) == (chosen == "mkl")
    assert module.adds_in_place(a, b[:, :19])
