"""Properties of the network's parts that the recorded numbers do not show."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tnn import GtuV1, TnnBlock, TnnLayer, TnnModel, Tno
from tnn.network.tno import powers


def operator(**options):
    torch.manual_seed(0)
    return Tno(2, 3, 8, **(dict(use_decay=True, gamma=0.9, layers=2) | options)).eval()


def test_powers():
    g = torch.rand(2, 1, 3, dtype=torch.float64)
    expected = g ** torch.arange(37).unsqueeze(-1)
    torch.testing.assert_close(powers(g, 37), expected, atol=0, rtol=1e-13)
    assert powers(g, 1).shape == (2, 1, 3)


@pytest.mark.parametrize("causal", [True, False])
def test_length_one(causal):
    """The original cannot: one position is multiplied by t(0)."""
    tno, x = operator(causal=causal), torch.randn(2, 2, 1, 3)
    torch.testing.assert_close(tno(x), x * tno.coefficients(1))


def test_causal_model_does_not_look_ahead():
    torch.manual_seed(0)
    model = TnnModel(11, 16, 2).eval()
    tokens = torch.randint(11, (1, 20))
    changed = tokens.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % 11
    a, b = model(tokens), model(changed)
    torch.testing.assert_close(a[:, :12], b[:, :12], atol=1e-5, rtol=0)
    assert (a[:, 12:] - b[:, 12:]).abs().max() > 1e-3


def test_shorter_kernel_is_a_prefix():
    tno = operator(causal=True)
    torch.testing.assert_close(tno.coefficients(50)[:, :20], tno.coefficients(20))


def test_coefficients_are_computed_once_per_length_and_state(monkeypatch):
    tno, x, calls = operator(causal=True), torch.randn(1, 2, 9, 3), []
    compute = tno.coefficients
    monkeypatch.setattr(tno, "coefficients", lambda n: calls.append(n) or compute(n))
    with torch.no_grad():
        first = tno(x)
        assert torch.equal(tno(x), first)
        assert calls == [9]
        tno(x[:, :, :5])
        assert calls == [9, 5]
        tno.rpe.out[2].bias.add_(1)  # in place, unseen by train() and load_state_dict
        assert not torch.allclose(tno(x[:, :, :5]), first[:, :, :5])
        assert calls == [9, 5, 5]
        tno.load_state_dict(operator(causal=True).state_dict())
        assert torch.allclose(tno(x), first)
        tno.train().eval()
        tno(x)
        assert calls == [9, 5, 5, 9, 9]
    tno.train()
    tno(x)
    tno(x)
    assert len(calls) == 7


@pytest.mark.parametrize("causal", [True, False])
def test_vanished_lags_are_left_out(causal):
    """Against a double precision product with all lags: no further off than with all lags in
    single precision, and the position encoder gets the same gradients."""
    n, results = 6000, {}
    torch.manual_seed(0)
    x, w = torch.randn(2, 1, 2, n, 3)
    for name, far, dtype in (("exact", True, torch.float64), ("all", True, torch.float32),
                             ("cut", False, torch.float32)):
        tno = operator(causal=causal, gamma=0.99, far_lags=far).to(dtype)
        tno.gamma.data.fill_(0.99)
        y = tno(x.to(dtype))
        (y * w).sum().backward()
        assert tno._lags(n, dtype) == (2063 if name == "cut" else n)
        with torch.no_grad():
            torch.testing.assert_close(tno(x.to(dtype)), y, atol=1e-5, rtol=0)
        results[name] = [y.detach(), *(p.grad for p in tno.rpe.parameters())]
    for exact, whole, cut in zip(*results.values(), strict=True):
        error = [(value - exact).norm() / exact.norm() for value in (whole, cut)]
        assert error[1] < 1.5 * error[0] + 2e-7


def test_lags_are_kept_where_they_do_not_vanish():
    n = 6000
    assert operator(causal=True, gamma=0.9999)._lags(n, torch.float32) == n
    assert operator(causal=True, use_decay=False)._lags(n, torch.float32) == n
    assert operator(causal=True, use_decay=False, use_multi_decay=True)._lags(n, torch.float32) == n
    assert operator(causal=True, par_type=2)._lags(n, torch.float32) == n
    assert operator(causal=True, act_type="exp_plain")._lags(n, torch.float32) == n
    tno = operator(causal=True, gamma=0.5)
    assert tno._lags(n, torch.float32) == 31  # 0.5^30 < 1e-9
    tno.gamma.data.fill_(0.25)
    tno.load_state_dict(tno.state_dict())
    assert tno._lags(n, torch.float32) == 16


def test_kept_coefficients_carry_no_graph():
    tno, x = operator(causal=True), torch.randn(1, 2, 9, 3)
    with torch.no_grad():
        tno(x)
    tno(x).sum().backward()
    assert tno.rpe.pos_proj.weight.grad is not None


def test_frozen_decay_is_a_parameter():
    tno = operator()
    assert not tno.gamma.requires_grad
    assert "gamma" in tno.state_dict()
    assert tno.gamma in set(tno.parameters())


def test_autocast_keeps_the_operator_in_float32():
    layer = TnnLayer(16, 1, 8, 16, causal=True, use_decay=True, gamma=0.99).eval()
    x = torch.randn(2, 300, 16)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.token_mixer.toep.coefficients(300).dtype == torch.float32
        torch.testing.assert_close(layer(x).float(), exact, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision(dtype):
    """What fairseq's --bf16 and --fp16 make of it: the coefficients are those of single precision
    but for the rounding of the weights, also at lags that half precision cannot tell apart."""
    torch.manual_seed(0)
    layer = TnnLayer(16, 1, 8, 16, causal=True, use_decay=True, gamma=0.99)
    x, half = torch.randn(2, 400, 16), copy.deepcopy(layer).to(dtype)
    toep = half.token_mixer.toep
    assert toep.gamma.dtype == torch.float32
    assert torch.equal(toep.gamma, layer.token_mixer.toep.gamma)
    rounded = copy.deepcopy(half).float().token_mixer.toep
    assert torch.equal(toep.coefficients(400), rounded.coefficients(400))
    y = half(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), layer(x), atol=0.1, rtol=0.05)
    y.sum().backward()
    assert toep.rpe.pos_proj.weight.grad.isfinite().all()
    assert toep.rpe.pos_proj.weight.grad.abs().max() > 0


def test_padding_masked_in_the_bidirectional_block():
    block = TnnBlock(8, causal=False, rpe_embedding=8).eval()
    x, padding = torch.randn(1, 6, 8), torch.tensor([[0, 0, 0, 0, 1, 1]]).bool()
    other = x.clone()
    other[:, 4:] = torch.randn(1, 2, 8)
    seen, masked = [(block(x, p) - block(other, p))[:, :4].abs().max() for p in (None, padding)]
    assert masked < 1e-6 < seen


def test_dropout_is_applied_to_both_mixers():
    block = TnnBlock(8, dropout=1.0, causal=True, rpe_embedding=8)
    x = torch.randn(2, 5, 8)
    assert torch.equal(block(x), x)
    assert not torch.equal(block.eval()(x), x)


def test_copies_and_pickles():
    model, tokens = TnnModel(7, 8, 1).eval(), torch.arange(6).view(1, 6)
    with torch.no_grad():
        expected = model(tokens)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(tokens), expected)


def test_what_is_refused():
    with pytest.raises(ValueError, match="causal=True"):
        Tno(1, 2, 4, par_type=3)
    with pytest.raises(ValueError, match="par_type"):
        Tno(1, 2, 4, par_type=4)
    with pytest.raises(ValueError, match="resi_param"):
        TnnBlock(8, resi_param=True)
    with pytest.raises(ValueError, match="gtu_type"):
        TnnBlock(8, gtu_type=4)
    GtuV1(8, 1, resi_param=True)(torch.randn(1, 3, 8))


def test_import_is_light():
    """from tnn import ... needs neither fairseq nor anything but torch."""
    code = ("import sys, tnn; "
            "assert not {'fairseq', 'omegaconf', 'lightning_fabric'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True,
                   cwd=Path(__file__).resolve().parents[2])
