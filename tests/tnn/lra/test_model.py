"""The Long Range Arena network: operators against the dense equation, units, norms, the whole."""

import argparse
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tnn.lra import recipes
from tnn.lra.baselines import MIXERS, Transformer
from tnn.lra.model import GluBlock, LraModel, pooled
from tnn.lra.norms import NORMS, Norm
from tnn.lra.recipes import model_arguments, published_arch, settings_of
from tnn.lra.tasks import TASKS
from tnn.lra.toeplitz import Toeplitz
from tnn.lra.token_mixers import TNO, TNO2d
from tnn.lra.utils import counts
from tnn.network import fused, grid


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(1)


def gradients(y, *inputs):
    w = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(3))
    return torch.autograd.grad((y * w).sum(), inputs)


def assert_same(ours, theirs, atol=1e-10, what=""):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=0, msg=lambda m: f"{what}: {m}")


# ------------------------------------------------------------------------------- the operator
OPTIONS = [
    dict(), dict(use_pad=True), dict(use_decay=True, gamma=0.3), dict(causal=True, use_pad=True),
    dict(use_decay=True, gamma=0.9, use_pad=True, act_type="1+elu"),
    dict(use_multi_decay=True, gamma=0.8, residual=True), dict(use_exp=True, use_pad=True),
    dict(use_exp=True, use_neg_exp=True, use_pad=True, use_decay=True, gamma=0.9),
    dict(causal=True, use_exp=True, use_pad=True), dict(dpb_type=8, layers=2, bias=False),
    dict(par_type=2, act_type="sin", use_pad=True), dict(par_type=3, causal=True),
    dict(act_type="exp", use_pad=True, h=2), dict(act_type="cos", causal=True, use_pad=True),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_operator_is_the_dense_one(options, n):
    h = options.get("h", 1)
    operator = Toeplitz(**{"h": h, "n": 7, "dim": 3, "dpb_dim": 5, **options}).double()
    x = torch.randn(2, 3 * h, n, dtype=torch.float64, requires_grad=True)
    weights = [p for p in operator.parameters() if p.requires_grad]
    fast, dense = operator.mix(x), operator.plain(x)
    assert_same([fast, *gradients(fast, x, *weights)], [dense, *gradients(dense, x, *weights)])
    operator.eval()
    with torch.no_grad():
        for _ in range(2):
            assert_same([operator.mix(x)], [dense])
        weights[0] += 1  # what is kept from the last call must not be used again
        assert_same([operator.mix(x)], [operator.plain(x)])


def test_lags_beyond_max_l_are_not_seen():
    x = torch.zeros(1, 1, 20, 1)
    x[0, 0, 10] = 1
    y = Toeplitz(1, 4, 1, 8, use_pad=True)(x)[0, 0, :, 0].abs()
    assert (y[7:14] > 1e-4).all()
    assert y[:7].max() < 1e-6
    assert y[14:].max() < 1e-6


@pytest.mark.parametrize("causal", [True, False])
def test_what_stands_beyond_max_l(causal):
    """act(0) = 1 in the middle of the list, between positive and negative lags."""
    operator = Toeplitz(1, 3, 2, 4, causal=causal, use_pad=True, use_decay=True, gamma=0.5,
                        act_type="1+elu").double()
    t, near = operator.kernel(6), operator.kernel(3)
    assert torch.equal(t[:, :3], near[:, :3])
    assert (t[:, 3:6] == 1).all()
    if not causal:
        assert (t[:, 6:9] == 1).all()
        assert torch.equal(t[:, 9:], near[:, 3:])


def test_vanished_lags_are_left_out():
    """0.6^62 < 2^-46; and gamma is read from the weights, not from the arguments."""
    operator = Toeplitz(1, 1024, 2, 4, use_decay=True, use_pad=True, gamma=0.6)
    assert operator.lags_that_count(1000, torch.float32) < 70
    with torch.no_grad():
        operator.gamma.fill_(1.0)
    assert operator.lags_that_count(1000, torch.float32) == 1000
    assert operator.lags_that_count(2000, torch.float32) == 1024  # max_l


def test_par_type_3_needs_causal():
    with pytest.raises(ValueError, match="par_type"):
        Toeplitz(1, 4, 1, 8, par_type=3)


# ---------------------------------------------------------------------------------- the units
def unit(kind, **kw):
    return kind(8, 2, dpb_embedding=6, tno_max_l=5, use_decay=True, gamma=0.9, **kw).double()


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (3, 4)])
def test_two_dimensions_both_orders_and_forms(shape):
    """2 C R v = C R v + R C v, by dense matrices and by transforms."""
    h, w = shape
    module = unit(TNO2d, tno_type=4)
    v = torch.randn(16, h, 2, w, dtype=torch.float64)
    rows, columns = module.toep1, module.toep2
    both = (grid.along_columns(grid.along_rows(v, rows), columns)
            + grid.along_rows(grid.along_columns(v, columns), rows))
    assert_same([module._mix(v)], [both])
    by_transforms = grid.along_columns(grid.along_rows(v, rows, dense_up_to=0), columns,
                                       dense_up_to=0)
    assert_same([2 * by_transforms], [both])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("side", [1, 4])
def test_type_6_is_the_image_models_mixing(side, normalize):
    """Dense, by transforms, and the equation."""
    module = unit(TNO2d, tno_type=6, normalize=normalize)
    v = torch.randn(16, side, 2, 5, dtype=torch.float64)
    T_H, T_W = (operator.matrices(n, normalize)
                for operator, n in ((module.toep2, side), (module.toep1, 5)))
    expected = grid.mixed_plain(v, T_H, T_W)
    assert_same([module._mix(v)], [expected])
    for limit in (0, 4):  # all by transforms; the shorter axis dense
        assert_same([grid.along_both(v, module.toep2, module.toep1, normalize, limit)], [expected])


def test_two_dimensions_refuse_what_crashed():
    with pytest.raises(ValueError, match="no grid"):
        unit(TNO2d, tno_type=4)(torch.randn(1, 7, 8, dtype=torch.float64))
    for kind in (1, 5):
        with pytest.raises(ValueError, match="tno_type"):
            unit(TNO2d, tno_type=kind)


def plain_unit(module, x):
    u, v = F.silu(module.u_proj(x)), F.silu(module.v_proj(x))
    return module.o(u * module.toep.mix(v.transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize("bias", [True, False])
def test_fused_parts_are_the_plain_ones(bias, monkeypatch):
    """Pieces of 32 positions, no dropout: outputs and every gradient."""
    monkeypatch.setattr(fused, "CACHE", 1)
    token, channel = unit(TNO, bias=bias), GluBlock(8, 2.5, bias=bias).double()
    x = torch.randn(2, 70, 8, dtype=torch.float64, requires_grad=True)
    for module, plain in ((token, lambda: plain_unit(token, x)),
                          (channel, lambda: super(GluBlock, channel).forward(x))):
        weights = [p for p in module.parameters() if p.requires_grad]
        assert_same([module(x), *gradients(module(x), x, *weights)],
                    [plain(), *gradients(plain(), x, *weights)])


def test_fused_dropout_is_dropout(monkeypatch):
    """With the masks that it draws, the hand-written gradients are autograd's."""
    monkeypatch.setattr(fused, "CACHE", 1)
    p, x = 0.3, torch.randn(1, 70, 8, dtype=torch.float64, requires_grad=True)
    module = GluBlock(8, 2, dropout=p).double()
    unit_ = unit(TNO2d, tno_type=4)
    m = torch.randn(1, 16, 70, dtype=torch.float64, requires_grad=True)

    def masks(shape):
        torch.manual_seed(5)
        bits = fused.random_bits(torch.Size(shape).numel(), p)
        return fused.keep_mask(bits, p, torch.float64).view(shape)

    torch.manual_seed(5)
    ours = module(x)
    by_hand = module.l3(F.silu(module.l1(x)) * masks((1, 70, 16)) * module.l2(x))
    weights = list(module.parameters())
    assert_same([ours, *gradients(ours, x, *weights)], [by_hand, *gradients(by_hand, x, *weights)])
    torch.manual_seed(5)
    ours = unit_._gated(x, m, p)
    gate = F.silu(unit_.u_proj(x)) * (m * masks(m.shape)).transpose(1, 2)
    by_hand = unit_.o(gate)
    weights = [*unit_.u_proj.parameters(), *unit_.o.parameters()]
    assert_same([ours, *gradients(ours, x, m, *weights)],
                [by_hand, *gradients(by_hand, x, m, *weights)])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_rate_and_mean(p):
    mask = fused.keep_mask(fused.random_bits(400_001, p), p, torch.float32)
    kept = mask > 0
    assert abs(kept.float().mean().item() - (1 - p)) < 0.005
    assert mask[kept].unique().numel() == 1
    assert abs(mask.mean().item() - 1) < 0.02
    x = torch.ones(3, 1000)
    assert torch.equal(fused.dropout(x, 0.0), x)
    assert (fused.add_dropped(x, x, p) - 1).unique().numel() == 2


def test_unused_norms_are_frozen_and_kept():
    module = unit(TNO)
    assert {"pre_norm.weight", "pre_norm.bias"} < set(module.state_dict())
    assert not any(p.requires_grad for p in module.pre_norm.parameters())
    assert all(p.requires_grad for p in unit(TNO2d, tno_type=2).pre_norm.parameters())


def test_initialisation():
    module = TNO(64, 1, dpb_embedding=8, tno_max_l=16)
    for linear in (module.u_proj, module.v_proj, module.o):
        for parameter in linear.parameters():
            assert 0.015 < parameter.std().item() < 0.025


# ---------------------------------------------------------------------------------- the norms
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_masked_norms_see_the_real_positions_alone(name, training):
    """What stands at padded positions and how many they are changes nothing at the real ones."""
    norm = Norm(6, name).double().train(training)
    x, padding = torch.randn(2, 9, 6, dtype=torch.float64), torch.zeros(2, 9, dtype=torch.bool)
    padding[:, 6:] = True
    alone = norm(x[:, :6])
    masked = norm(x, padding)[:, :6]
    if training and name in ("batch", "synbatch"):
        assert norm.norm.num_batches_tracked == 2
    assert_same([masked], [alone])


def test_sequence_rms_norm_is_the_original_slip():
    x = torch.randn(2, 5, 3)
    length = torch.sqrt((x[1, :, 2] ** 2).sum())
    torch.testing.assert_close(Norm(3, "simplerms")(x)[1, :, 2],
                               x[1, :, 2] / (length / 3**0.5 + 1e-2))


def test_unknown_names_are_refused():
    assert tuple(NORMS) == recipes.NORMS  # what the flag offers
    with pytest.raises(ValueError, match="synbatch"):
        Norm(3, "rms")
    for wrong in ({"act_fun": "sillu"}, {"act_type": "coss"}, {"norm_type": "layer"}):
        with pytest.raises(ValueError, match="is not one of"):
            unit(TNO, **wrong)
    with pytest.raises(ValueError, match="'swich' is not one of gelu"):
        GluBlock(4, act_fun="swich")
    for changes, said in (({"arch": "tno3d"}, "token mixer 'tno3d' is not one of tno, tno2d"),
                          ({"norm": "btch"}, "norm 'btch'")):
        with pytest.raises(ValueError, match=said):
            small("listops", **changes)


# ---------------------------------------------------------------------------------- the whole
def published(task, settings="script", **changes):
    values = settings_of(task, settings, changes.get("arch")) | changes
    args = argparse.Namespace(**{"task": task, "n_heads": 1, "position_dropout": 0.1,
                                 "mask_padding": False, **values})
    vocabulary = {"listops": 18, "imdb": 135, "aan": 98}.get(task)
    return LraModel(**model_arguments(args), classes=10 if task in ("listops", "cifar") else 2,
                    vocabulary=vocabulary, d_input=None if vocabulary else 1)


PARAMETERS = {  # script: total, trainable; yaml: total
    "listops": (429_578, 429_066, 1_225_546), "imdb": (641_154, 640_642, 220_738),
    "aan": (89_602, 89_474, 893_186), "cifar": (3_103_754, 3_097_610, 223_882),
    "pathfinder": (461_954, 459_650, 835_074), "pathfinderx": (461_954, 459_650, 835_074)}


@pytest.mark.parametrize("task", TASKS)
def test_parameter_counts_are_the_published_ones(task):
    newer = published_arch(task).replace("tno", "gtu")
    for arch in (published_arch(task), newer):
        total, trainable, _ = counts(published(task, arch=arch))
        assert (total, trainable) == PARAMETERS[task][:2]
        assert counts(published(task, "yaml", arch=arch))[0] == PARAMETERS[task][2]


def small(task, **changes):
    return published(task, **({"d_model": 16, "n_layers": 1, "dpb_dim": 4} | changes))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_and_only_frozen_parameters_have_no_gradient(task):
    model = small(task)
    text = task in ("listops", "imdb", "aan")
    for n in (1, 16):
        x = torch.randint(3, 18, (4, n)) if text else torch.randn(4, n, 1)
        logits = model(x, torch.full((4,), n))
        classes = 10 if task in ("listops", "cifar") else 2
        assert logits.shape == (2 if task == "aan" else 4, classes)
    F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)).backward()
    for name, parameter in model.named_parameters():
        frozen = name.endswith("gamma") or ".pre_norm." in name
        assert (parameter.grad is None) == frozen == (not parameter.requires_grad), name


@pytest.mark.parametrize(("norm", "training"),
                         list(itertools.product(["synbatch", "layer", "instance"], [True, False])))
def test_padding_reaches_real_positions_only_as_published(norm, training):
    lengths = torch.tensor([9, 5])
    x = torch.randint(3, 18, (2, 9))
    x[1, 5:] = 0
    wider = F.pad(x, (0, 7))
    for masking in (True, False):
        torch.manual_seed(2)
        model = small("listops", norm=norm, mask_padding=masking, dropout=0.0,
                      position_dropout=0.0).train(training)
        apart = (model(x, lengths) - model(wider, lengths)).abs().max()
        assert (apart < 1e-5) == masking, (masking, apart)


def test_decoder_modes():
    x, lengths = torch.randn(2, 4, 3), torch.tensor([4, 2])
    assert torch.equal(pooled(x, "first", lengths), x[:, 0])
    assert torch.equal(pooled(x, "last", lengths), torch.stack([x[0, 3], x[1, 1]]))
    torch.testing.assert_close(pooled(x, "pool", lengths)[1], x[1, :2].mean(0))
    torch.testing.assert_close(pooled(x, "sum", lengths)[1], x[1, :2].sum(0))
    torch.testing.assert_close(pooled(x, "pool", None), x.mean(1))


def test_odd_width_and_too_long_sequences_are_refused():
    with pytest.raises(ValueError, match="even"):
        small("listops", d_model=15)
    with pytest.raises(ValueError, match="16384"):
        small("pathfinderx")(torch.randn(1, 16385, 1))


def test_watch_gives_mean_squares():
    model = small("cifar").eval()
    model.watch = []
    model(torch.randn(2, 16, 1))
    assert len(model.watch) == 2
    assert all(v > 0 for v in model.watch)


def test_bfloat16_autocast_takes_the_plain_form():
    model = small("imdb", dropout=0.0).eval()
    x, lengths = torch.randint(3, 18, (2, 30)), torch.tensor([30, 20])
    exact = model(x, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(x, lengths)
    torch.testing.assert_close(half.float(), exact, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("mixer", MIXERS)
def test_baselines_see_both_sides(mixer):
    model = Transformer(16, 1, 2, vocabulary=10, mixer=mixer).eval()
    x = torch.randint(10, (1, 12))
    other = x.clone()
    other[0, -1] = (x[0, -1] + 1) % 10
    inner = nn.Sequential(model.encoder, model.blocks)
    assert (inner(x) - inner(other))[0, 0].abs().max() > 1e-7
    assert model(x).shape == (1, 2)
