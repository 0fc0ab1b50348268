"""The vision model: fast forms against the equations, grids of any size, what is refused and kept.
"""

import pytest
import torch
from torch.testing import assert_close

from tnn.im.architectures import ARCHITECTURES
from tnn.im.model import (
    Block,
    FusedGLU,
    Gtu2d,
    Patches,
    TnnVit,
    build,
    stacked_matrices,
)
from tnn.network import fused
from tnn.network.fused_grid import gated_grid, silu_product
from tnn.network.fused_plain import gated_grid as gated_grid_plain
from tnn.network.glu import GLU
from tnn.network.grid import mixed, mixed_plain, toeplitz_rows
from tnn.network.norms import SimpleRMSNormByHand, rms_normalized
from tnn.network.toeplitz import toeplitz_matrix

SMALL = {"patch_size": 4, "embed_dim": 16, "rpe_embdding": 8, "num_heads": 2, "glu_dim": 16,
         "depth": 3, "num_classes": 5, "use_decay": True, "gamma": 0.9, "rpe_layers": 1,
         "use_pos": False, "prenorm": True}


def small(**options):
    torch.manual_seed(0)
    return TnnVit(**(SMALL | options))


def same(fast, plain, *inputs, atol=1e-5):
    """Outputs and every gradient."""
    results = []
    for function in (fast, plain):
        leaves = [x.clone().requires_grad_() for x in inputs]
        y = function(*leaves)
        torch.manual_seed(1)
        y.backward(torch.randn(y.shape, dtype=y.dtype))
        results.append([y, *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, atol=atol, rtol=1e-4)


@pytest.mark.parametrize(("C", "H", "b", "W"), [(1, 1, 1, 1), (5, 3, 2, 4), (63, 7, 1, 7),
                                                (130, 14, 8, 14), (7, 1, 3, 9)])
@pytest.mark.parametrize("kernels", ["1", "0"])
def test_fast_products_equal_the_equations(C, H, b, W, kernels, monkeypatch):
    monkeypatch.setenv("KERNELS", kernels)
    monkeypatch.setattr(fused, "CACHE", 4000)  # several parts, the last one shorter
    torch.manual_seed(0)
    T_H, T_W = torch.randn(C, H, H), torch.randn(C, W, W)
    same(mixed, mixed_plain, torch.randn(C, H, b, W), T_H, T_W, atol=1e-4)
    same(gated_grid, gated_grid_plain, torch.randn(2, C, H, b, W), T_H, T_W, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 14])
def test_rows_equal_the_matrix(n):
    for lags in {n, 2 * n - 1}:  # causal, bidirectional
        same(lambda t: toeplitz_rows(t, n), lambda t: toeplitz_matrix(t, n),
             torch.randn(3, 2, lags))


@pytest.mark.parametrize("kernels", ["1", "0"])
def test_norm_and_product_equal_the_plain_forms(kernels, monkeypatch):
    monkeypatch.setenv("KERNELS", kernels)
    torch.manual_seed(0)
    x = torch.randn(3, 4, 7)
    x[1, 2] = 0  # the zero vector keeps the plain form's gradient
    same(SimpleRMSNormByHand(), rms_normalized, x)
    same(silu_product, lambda z: torch.nn.functional.silu(z[:6]) * z[6:], torch.randn(12, 5))


def test_norm_in_half_precision():
    x = torch.randn(4, 9).bfloat16()
    assert_close(SimpleRMSNormByHand()(x), rms_normalized(x))
    assert SimpleRMSNormByHand()(x).dtype == torch.bfloat16


@pytest.mark.parametrize("act", ["silu", "gelu"])
def test_fused_glu(act):
    torch.manual_seed(0)
    fused, plain = FusedGLU(6, 9, act), GLU(6, 9, act)
    plain.load_state_dict(fused.state_dict())
    same(fused, plain, torch.randn(2, 3, 4, 6))
    for ours, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad)


def test_stacked_matrices_equal_one_by_one():
    units = [Gtu2d(6, 2, use_multi_decay=True, rpe_embedding=5, rpe_layers=2) for _ in range(3)]
    toeps = [unit.toep1 for unit in units]
    together = stacked_matrices(toeps, 5)
    for i, toep in enumerate(toeps):
        assert_close(together[i], stacked_matrices([toep], 5)[0], atol=1e-6, rtol=1e-5)
    assert_close(together[0][1], toeps[0].matrix(5)[0, :, :, 1])  # channel 1 of head 0


@pytest.mark.parametrize("options", [{}, {"normalize": True, "act_type": "1+elu"},
                                     {"act_fun": "gelu", "causal": True, "use_norm": True},
                                     {"bias": False, "norm_type": "layernorm", "use_norm": True}])
def test_long_lines_by_fft_equal_matrices(options, monkeypatch):
    torch.manual_seed(0)
    unit = Gtu2d(8, 2, rpe_embedding=6, rpe_layers=1, use_decay=True, **options)
    x = torch.randn(2, 6, 9, 8)
    dense = unit(x)
    monkeypatch.setattr("tnn.im.model.DENSE_UP_TO", 5)
    assert_close(unit(x), dense, atol=1e-5, rtol=1e-4)


def test_the_unit_as_a_loop():
    """Row by row and column by column, with the coefficients of the operator."""
    torch.manual_seed(0)
    unit = Gtu2d(4, 1, rpe_embedding=6, rpe_layers=0, expand_ratio=1)
    x = torch.randn(1, 3, 5, 4)
    u, v = (torch.nn.functional.silu(f(x)) for f in (unit.u_proj, unit.v_proj))
    t2, t1 = unit.toep2.coefficients(3)[0], unit.toep1.coefficients(5)[0]  # (2n - 1, 4)
    m = torch.zeros_like(v)
    for i in range(3):
        for j in range(5):
            for k in range(3):
                m[0, i, j] += t2[i - k] * v[0, k, j]  # index -1 is lag -1
            for k in range(5):
                m[0, i, j] += t1[j - k] * v[0, i, k]
    assert_close(unit(x), unit.o(u * m), atol=1e-5, rtol=1e-4)


def test_any_image_size_and_one_patch():
    model = small()
    for height, width in ((4, 4), (8, 20), (32, 32), (4, 280)):  # 70 patches: by FFT
        assert model(torch.randn(2, 3, height, width)).shape == (2, 5)
    with pytest.raises(ValueError, match="10 x 8 pixels are not made of patches of 4"):
        model(torch.randn(2, 3, 10, 8))


def test_patch_order_is_row_column_channel():
    image = torch.arange(3 * 4 * 6.0).view(1, 3, 4, 6)
    patches = Patches(2)(image)
    assert patches.shape == (1, 2, 3, 12)
    assert patches[0, 1, 2].tolist() == image[0, :, 2:, 4:].permute(1, 2, 0).flatten().tolist()


def test_kept_matrices_follow_the_weights():
    model, x = small().eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = model(x)
        kept = model._matrices(4, 4)
        assert_close(model(x), before, rtol=0, atol=0)
        assert model._matrices(4, 4) is kept
        model.layers[1].token_mixer.toep2.rpe.out[2].bias.add_(1)
        changed = model(x)
        assert not torch.equal(changed, before)
    assert_close(changed, model(x), atol=1e-6, rtol=1e-5)  # with gradients nothing is kept
    with torch.no_grad():
        other = small(gamma=0.5)
        model.load_state_dict(other.state_dict())
        assert_close(model(x), other.eval()(x))


def test_autocast_is_close_and_mixes_in_float32():
    model, x = small(), torch.randn(2, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x)
        half.float().square().sum().backward()
    assert_close(half.float(), model(x), atol=0.03, rtol=0.03)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_float64():
    model = small().double()
    assert model(torch.randn(1, 3, 8, 8).double()).dtype == torch.float64


def test_exp_is_the_plain_exponential():
    """As in the image code; the fork of fairseq subtracts the maximum."""
    unit = Gtu2d(4, 1, rpe_embedding=6, rpe_layers=0, act_type="exp")
    plain = Gtu2d(4, 1, rpe_embedding=6, rpe_layers=0)
    plain.load_state_dict(unit.state_dict())
    assert torch.equal(unit.toep1.coefficients(5), plain.toep1.coefficients(5).exp())
    x = torch.randn(2, 3)
    assert torch.equal(Gtu2d(4, 1, rpe_embedding=6, act_fun="exp").act(x), x.exp())
    assert torch.equal(FusedGLU(3, 3, "exp").act(x), x.exp())


@pytest.mark.parametrize(("options", "said"), [
    ({"act_fun": "sillu"}, "'sillu' is not one of gelu, relu"),
    ({"norm_type": "simplermsnrm", "use_norm": True}, "'simplermsnrm' is not one of simplerms"),
    ({"resi_param": True}, "resi_param"), ({"rpe_act": "tanh"}, "rpe_act is relu or silu"),
    ({"par_type": 3}, "par_type 3 needs causal"), ({"par_type": 4}, "par_type is 1, 2 or 3"),
])
def test_what_crashed_in_the_original_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Gtu2d(8, 1, **options)


def test_reset_classifier():
    model = small().double()
    model.reset_classifier(9)
    assert model(torch.randn(1, 3, 8, 8).double()).shape == (1, 9)
    assert model.num_classes == 9


def test_names():
    for name in ARCHITECTURES:
        with torch.device("meta"):
            both = [build(prefix + name) for prefix in ("tnn_vit_", "tno_vit_")]
        assert both[0].state_dict().keys() == both[1].state_dict().keys()
    with pytest.raises(ValueError, match="no model pvt_small; there are tnn_vit_e3g1_tiny"):
        build("pvt_small")


def test_drop_path_has_no_effect_and_stochastic_depth_has():
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(small(drop_path_rate=0.9).train()(x), small().eval()(x))
    skipping = small(stochastic_depth=0.9)
    assert [block.skip for block in skipping.layers] == pytest.approx([0, 0.45, 0.9])
    assert not torch.equal(skipping.train()(x), small()(x))
    assert torch.equal(skipping.eval()(x), small().eval()(x))


def test_stochastic_depth_skips_its_share_and_keeps_the_mean():
    torch.manual_seed(0)
    block = Block(4, 1, 4, 4, prenorm=True, stochastic_depth=0.25).train()
    x = torch.ones(8000, 1, 1, 4)
    branch = block._residual(x, block.token_norm, torch.ones_like) - x
    assert branch.unique().tolist() == pytest.approx([0, 4 / 3])
    share = (branch[:, 0, 0, 0] == 0).float().mean().item()
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / 8000) ** 0.5
