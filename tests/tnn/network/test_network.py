"""Properties of the network's parts that the recorded numbers do not show."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tnn import GtuV1, TnnBlock, TnnLayer, TnnModel, Tno
from tnn.network.toeplitz_operator import powers


def operator(**options):
    torch.manual_seed(0)
    return Tno(2, 3, 8, **(dict(use_decay=True, gamma=0.9, layers=2) | options)).eval()


def test_powers():
    """Row k = g^k to a rounding, however large k is."""
    for g in (torch.rand(2, 3), torch.tensor([[0.999, 1.0, 0.0]])):
        expected = (g.double().unsqueeze(-2) ** torch.arange(4097).unsqueeze(-1)).float()
        torch.testing.assert_close(powers(g, 4097), expected, atol=1e-38, rtol=1.2e-7)
    assert powers(g, 1).shape == (1, 1, 3)
    g = torch.rand(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: powers(g, 9), (g,))


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
        assert tno.lags_that_count(n, dtype) == (2063 if name == "cut" else n)
        with torch.no_grad():
            torch.testing.assert_close(tno(x.to(dtype)), y, atol=1e-5, rtol=0)
        results[name] = [y.detach(), *(p.grad for p in tno.rpe.parameters())]
    for exact, whole, cut in zip(*results.values(), strict=True):
        error = [(value - exact).norm() / exact.norm() for value in (whole, cut)]
        assert error[1] < 1.5 * error[0] + 2e-7


def test_lags_are_kept_where_they_do_not_vanish():
    def lags(dtype=torch.float32, **options):
        return operator(**({"causal": True} | options)).lags_that_count(6000, dtype)

    assert lags(gamma=0.9999) == 6000
    assert lags(use_decay=False) == 6000
    assert lags(use_decay=False, use_multi_decay=True) == 6000
    assert lags(act_type="exp_plain") == 6000  # exp(0) = 1
    assert lags(dtype=torch.float64) == 6000
    assert lags() == lags(par_type=2) == lags(act_type="silu") == 198  # 0.9^197 < 1e-9
    tno = operator(causal=True, gamma=0.5)
    assert tno.lags_that_count(6000, torch.float32) == 31  # 0.5^30 < 1e-9
    assert tno.lags_that_count(20, torch.float32) == 20
    tno.gamma.data.fill_(0.25)
    tno.load_state_dict(tno.state_dict())
    assert tno.lags_that_count(6000, torch.float32) == 16


@pytest.mark.parametrize("options", [{"par_type": 2}, {"act_type": "silu"}, {"causal": False}])
def test_a_cut_leaves_the_product_as_it_is(options):
    """Also where the encoder sees shares of the length: of all of it, not of what is left."""
    tno, x = operator(**({"causal": True, "gamma": 0.6} | options)), torch.randn(1, 2, 90, 3)
    assert tno.lags_that_count(90, torch.float32) == 42
    torch.testing.assert_close(tno(x), tno.toeplitz_matrix(x), atol=1e-5, rtol=1e-5)


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


def test_what_is_refused():
    with pytest.raises(ValueError, match="causal=True"):
        Tno(1, 2, 4, par_type=3)
    with pytest.raises(ValueError, match="par_type"):
        Tno(1, 2, 4, par_type=4)
    with pytest.raises(ValueError, match="resi_param"):
        TnnBlock(8, resi_param=True)
    with pytest.raises(ValueError, match="gtu_type"):
        TnnBlock(8, gtu_type=4)
    with pytest.raises(ValueError, match="'rmsnrm' is not one of simplermsnorm, rmsnorm"):
        TnnBlock(8, norm_type="rmsnrm")
    for option in ("act_fun", "rpe_act", "act_type", "glu_act", "fina_act"):
        with pytest.raises(ValueError, match="'rleu' is not one of gelu, relu"):
            TnnBlock(8, **{option: "rleu"})
    GtuV1(8, 1, resi_param=True)(torch.randn(1, 3, 8))


ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(("code", "absent"), [
    ("import tnn; dir(tnn)", "torch"),
    ("from tnn import *; TnnLayer, toeplitz_product", "fairseq lightning_fabric torchvision timm"),
    ("import tnn.im.model, tnn.lra.model", "fairseq lightning_fabric torchvision timm harness"),
    ("import tnn.im.architectures", "torch")])
def test_imports_are_light(code, absent):
    """The scripts parse flags before they import torch; a model file imports torch alone."""
    code = f"import sys; {code}; assert not set({absent.split()}) & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_unknown_public_name():
    with pytest.raises(ImportError, match="TnnLayr"):
        from tnn import TnnLayr  # noqa: F401
