"""The fast level recursion is the recursion: outputs, final state and every gradient."""

import itertools

import pytest
import torch

from tests.products import products_by
from trellisnet import dilated_products
from trellisnet.gates import compiled_gates, gates_backward, gates_forward
from trellisnet.levels import trellis_levels
from trellisnet.levels_plain import trellis_plain

E, H, NOUT = 3, 4, 2


def levels_by_the_equations(x, weight1, weight2, bias, h0, c0, mask, dilations, nout, start=0,
                            aux_levels=()):
    """Level by level, position by position."""
    length, kernel = len(x), weight2.shape[2]
    zero_x, zero_h = torch.zeros_like(x[0]), torch.zeros_like(h0)
    mask = torch.ones_like(h0) if mask is None else mask
    hs, cs, outputs = [zero_h] * length, [zero_h] * length, []
    for d in dilations:
        below_h, below_c, hs, cs = hs, cs, [], []
        for t in range(length):
            a = bias
            for j in range(kernel):
                past = t - (kernel - 1 - j) * d
                a = a + (x[past] if past >= 0 else zero_x) @ weight1[:, :, j].t()
                a = a + (mask * (below_h[past] if past >= 0 else h0)) @ weight2[:, :, j].t()
            i, o, g, f = a.chunk(4, dim=1)
            c = f.sigmoid() * (below_c[t - d] if t >= d else c0) + i.sigmoid() * g.tanh()
            cs.append(c)
            hs.append(o.sigmoid() * c.tanh())
        outputs.append(torch.stack(hs)[start:, :, h0.shape[1] - nout:])
    aux = torch.stack([outputs[level] for level in aux_levels]) if aux_levels \
        else outputs[-1][None][:0]
    return outputs[-1], aux, hs[-1], cs[-1]


def make_inputs(kernel, length=13, batch=3, dtype=torch.float64, tap_major=True, h=H, seed=0):
    gen = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64).to(dtype)

    def weight(width):
        if tap_major:  # the strides that the network's parameters have
            return (0.5 * randn(kernel, 4 * h, width)).permute(1, 2, 0)
        return 0.5 * randn(4 * h, width, kernel)

    inputs = [randn(length, batch, E), weight(E), weight(h), randn(4 * h), randn(batch, h),
              randn(batch, h)]
    mask = (torch.rand(batch, h, generator=gen) < 0.7).to(dtype) / 0.7
    return [t.detach().requires_grad_() for t in inputs], mask


def results(run, inputs, *args, create_graph=False, **kwargs):
    """The four outputs, and the gradients under random cotangents on all of them."""
    outputs = run(*inputs, *args, **kwargs)
    gen = torch.Generator().manual_seed(5)
    cotangents = [torch.randn(o.shape, generator=gen, dtype=torch.float64).to(o.dtype)
                  for o in outputs]
    return [*outputs, *torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True,
                                          create_graph=create_graph)]


NAMES = ["out", "aux", "h", "c", "dx", "dweight1", "dweight2", "dbias", "dh0", "dc0"]


def check(ours, theirs, tolerance):
    for name, a, b in zip(NAMES, ours, theirs, strict=True):
        b = torch.zeros_like(a) if b is None else b
        assert a.shape == b.shape, name
        error = (a.double() - b.double()).abs().max().item() if a.numel() else 0.0
        scale = max(1.0, b.abs().max().item()) if b.numel() else 1.0
        assert error <= tolerance * scale, f"{name}: error {error:.2e}"


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("dilations", [(1,), (1, 2, 4), (2, 1)], ids=str)
@pytest.mark.parametrize(("length", "batch"), [(1, 1), (2, 3), (13, 3)])
def test_equals_the_equations(kernel, dilations, length, batch):
    inputs, mask = make_inputs(kernel, length, batch)
    starts = sorted({0, length // 2, length - 1})
    aux_levels = tuple(range(len(dilations)))[:2]
    for start, (m, aux) in itertools.product(starts, [(None, ()), (mask, aux_levels)]):
        args = (m, dilations, NOUT, start, aux)
        theirs = results(levels_by_the_equations, inputs, *args)
        for checkpoint in (0, 2):
            check(results(trellis_levels, inputs, *args, checkpoint=checkpoint), theirs, 1e-12)
    untouched, _ = make_inputs(kernel, length, batch)
    assert all(torch.equal(a, b) for a, b in zip(inputs, untouched, strict=True))


@pytest.mark.parametrize("checkpoint", [1, 2, 3, 7])
def test_checkpoints_change_no_bit(checkpoint):
    inputs, mask = make_inputs(2)
    args = (mask, (1, 2, 1, 2, 4), NOUT, 6, (1, 4))
    plain = results(trellis_levels, inputs, *args)
    again = results(trellis_levels, inputs, *args, checkpoint=checkpoint)
    for name, a, b in zip(NAMES, again, plain, strict=True):
        assert torch.equal(a, b), name


@pytest.fixture(params=["onednn", "mkl"])
def products(request, monkeypatch):
    """All products by one library, whatever the CPU; sums of oneDNN's wait for 20 rows."""
    monkeypatch.setattr(dilated_products, "WAITING", 4 * 20)
    with products_by(request.param):
        yield


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("tap_major", [True, False], ids=["tap_major", "contiguous"])
def test_float32_and_strides(kernel, tap_major, products):
    inputs, mask = make_inputs(kernel, dtype=torch.float32, tap_major=tap_major, h=40)
    args = (mask, (1, 1, 2, 1), NOUT, 5, (1,))
    exact = [t.detach().double().requires_grad_() for t in inputs]
    theirs = results(levels_by_the_equations, exact, mask.double(), *args[1:])
    check(results(trellis_levels, inputs, *args), theirs, 1e-5)


def test_many_levels_of_one_dilation():
    """As word PTB: levels enough for every way that the backward pass may group them."""
    inputs, mask = make_inputs(2, length=24, batch=2)
    for start in (0, 12, 21):
        args = (mask, (1,) * 19, NOUT, start, (3, 7, 18))
        check(results(trellis_levels, inputs, *args),
              results(levels_by_the_equations, inputs, *args), 1e-12)


def test_dilation_longer_than_the_segment():
    inputs, mask = make_inputs(3, length=5)
    args = (mask, (8, 1, 16, 2), NOUT, 1, (0,))
    check(results(trellis_levels, inputs, *args),
          results(levels_by_the_equations, inputs, *args), 1e-12)


def test_gradcheck():
    inputs, mask = make_inputs(2, length=4, batch=1)
    torch.autograd.gradcheck(
        lambda *given: trellis_levels(*given, mask, (1, 2), NOUT, 1, (0,)), inputs)


@pytest.mark.parametrize("used", range(4))
def test_gradient_of_one_output_alone(used):
    inputs, mask = make_inputs(2)
    grads = [torch.autograd.grad(run(*inputs, mask, (1, 2, 1), NOUT, 4, (0,))[used].sum(), inputs,
                                 allow_unused=True)
             for run in (trellis_levels, levels_by_the_equations)]
    for ours, theirs in zip(*grads, strict=True):
        assert torch.allclose(ours, torch.zeros_like(ours) if theirs is None else theirs,
                              rtol=0, atol=1e-12)


def test_only_some_inputs_need_gradients():
    inputs, mask = make_inputs(2)
    full = results(trellis_levels, inputs, mask, (1, 2, 1), NOUT)[4:]
    for i, leaf in enumerate(inputs):
        given = [t.detach() for t in inputs]
        given[i] = leaf
        outputs = trellis_levels(*given, mask, (1, 2, 1), NOUT)
        gen = torch.Generator().manual_seed(5)
        cotangents = [torch.randn(o.shape, generator=gen, dtype=o.dtype) for o in outputs]
        grad, = torch.autograd.grad(outputs, leaf, cotangents)
        assert torch.equal(grad, full[i])


def test_backward_twice_and_no_grad():
    inputs, mask = make_inputs(2)
    out, *_ = trellis_levels(*inputs, mask, (1, 2), NOUT)
    first = torch.autograd.grad(out.sum(), inputs, retain_graph=True)
    second = torch.autograd.grad(out.sum(), inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with torch.no_grad():
        assert torch.equal(trellis_levels(*inputs, mask, (1, 2), NOUT)[0], out)


def test_nothing_uninitialised_is_read():
    """In deterministic mode PyTorch fills new memory with NaN."""
    runs = [(2, (1,) * 9, 6, 0), (3, (1, 2, 4), 0, 2), (1, (2, 1), 12, 0), (2, (2, 16, 1), 3, 1)]
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    for kernel, dilations, start, checkpoint in runs:
        for dtype in (torch.float64, torch.float32):
            inputs, mask = make_inputs(kernel, dtype=dtype)
            found = results(trellis_levels, inputs, mask, dilations, NOUT, start, (0,),
                            checkpoint=checkpoint)
            assert all(t.isfinite().all() for t in found)


def test_bfloat16_autocast():
    inputs, mask = make_inputs(2, dtype=torch.float32, h=32)
    args = (mask, (1, 1, 2, 1), NOUT, 5, (1,))
    exact = results(trellis_levels, inputs, *args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = results(trellis_levels, inputs, *args)
    for name, a, b in zip(NAMES, rough, exact, strict=True):
        assert a.dtype == torch.float32, name
        assert (a - b).norm() <= 0.03 * b.norm(), name


def traced_gates():
    """As compiled_gates, but run by autograd's own operations: no minutes in a C++ compiler."""
    return tuple(torch.compile(gates, dynamic=True, backend="aot_eager")
                 for gates in (gates_forward, gates_backward))


@pytest.mark.parametrize("gates", [traced_gates,
                                   pytest.param(compiled_gates, marks=pytest.mark.slow)])
def test_compiled(gates):
    inputs, mask = make_inputs(2, dtype=torch.float32, h=16)
    for m, start in ((mask, 0), (None, 9))[:1 if gates is traced_gates else 2]:
        args = (m, (1, 2, 1, 4), NOUT, start, (1,))
        plain = results(trellis_levels, inputs, *args)
        check(results(trellis_levels, inputs, *args, fuse=gates()), plain, 1e-6)


def test_levels_are_left_out_of_a_compiled_model():
    inputs, mask = make_inputs(2, dtype=torch.float32, h=16)
    args = (mask, (1, 2, 1, 4), NOUT, 0, (1,))
    run = torch.compile(lambda *given: [2 * o for o in trellis_levels(*given)], backend="eager")
    check([o / 2 for o in results(run, inputs, *args)], results(trellis_levels, inputs, *args),
          1e-6)


@pytest.mark.parametrize("dilations", [(1,) * 7, (1, 2, 4), (3, 1)], ids=str)
@pytest.mark.parametrize("length", [1, 2, 12, 13, 40])
def test_fir(dilations, length):
    """Exact but for rounding, also with positions left over from the pairs."""
    inputs, mask = make_inputs(2, length)
    for start in sorted({0, length // 2, length - 1}):
        args = (mask, dilations, NOUT, start, (0,))
        plain = results(trellis_levels, inputs, *args)
        for checkpoint in (0, 2):
            check(results(trellis_levels, inputs, *args, fir=True, checkpoint=checkpoint), plain,
                  1e-12)


def test_fir_float32():
    inputs, mask = make_inputs(2, length=40, dtype=torch.float32, h=64)
    args = (mask, (1,) * 6, NOUT, 12, (1,))
    check(results(trellis_levels, inputs, *args, fir=True),
          results(trellis_levels, inputs, *args), 1e-5)


def test_fir_needs_two_taps():
    inputs, _ = make_inputs(3)
    with pytest.raises(ValueError, match="2 taps"):
        trellis_levels(*inputs, None, (1,), NOUT, fir=True)


def test_second_derivatives_are_those_of_the_plain_form():
    """A gradient penalty; no part of it is lost in silence."""
    inputs, mask = make_inputs(2, length=6, batch=2)
    args = (mask, (1, 2, 1), NOUT, 2, (0,))
    found = []
    for run in (trellis_levels, trellis_plain):
        first = results(run, inputs, *args, create_graph=True)[4:]
        penalty = sum(grad.pow(2).sum() for grad in first)
        assert penalty.requires_grad
        found.append(torch.autograd.grad(penalty, inputs))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    inputs, mask = make_inputs(2, length=3, batch=1, h=2)
    torch.autograd.gradgradcheck(
        lambda *given: trellis_levels(*given, mask, (1, 2), NOUT, 1, (0,)), inputs)
