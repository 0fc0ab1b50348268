"""Properties of every part of the model, and that the whole is awd_lstm's (nn.LSTM)."""

import pytest
import torch
from torch import nn

from awd_lstm.model import RNNModel
from awd_lstm.scratch import model as scratch
from awd_lstm.scratch.model import AWD_LSTM, LSTMCell, VariationalDropout, WeightDropout
from awd_lstm.scratch.utils import config_of_state, from_nn_lstm

NO_DROPOUT = dict.fromkeys(
    ("dropout_wts", "dropout_emb", "dropout_inp", "dropout_hid", "dropout_out"), 0)


def words(T=7, B=3, V=20, seed=0):
    return torch.randint(V, (T, B), generator=torch.Generator().manual_seed(seed))


# ----------------------------------------------------------------------------------------- cell
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_cell_is_torchs(bias):
    """After the last two quarters of the gates have changed places."""
    ours, theirs = LSTMCell(5, 4, bias), nn.LSTMCell(5, 4, bias)
    for mine, name in ((ours.i2h, "ih"), (ours.h2h, "hh")):
        for kind in ("weight", "bias") if bias else ("weight",):
            i, f, o, c = getattr(mine, kind).data.chunk(4)
            getattr(theirs, f"{kind}_{name}").data = torch.cat([i, f, c, o])
    x, h, c = torch.randn(3, 5), torch.randn(3, 4), torch.randn(3, 4)
    for mine, other in zip(ours(x, h, c), theirs(x, (h, c)), strict=True):
        torch.testing.assert_close(mine, other)


def test_cell_starts_within_its_bound():
    cell = LSTMCell(6, 16)
    for parameter in cell.parameters():
        assert 0.2 < parameter.abs().max() <= 0.25  # 1/sqrt(16)


# -------------------------------------------------------------------------------- weight dropout
def test_weight_dropout_drops_about_p_and_scales_the_rest():
    layer = WeightDropout(LSTMCell(4, 50), 0.3).train()
    raw, U = layer.cell.h2h.weight, layer()
    kept = U != 0
    assert kept.float().mean() == pytest.approx(0.7, abs=0.02)
    torch.testing.assert_close(U[kept], raw[kept] / 0.7)
    assert not torch.equal(kept, layer() != 0)  # drawn anew each time it is asked


def test_weight_dropout_gives_gradient_only_where_the_mask_kept():
    layer = WeightDropout(LSTMCell(4, 6), 0.5).train()
    U = layer()
    layer.cell(torch.randn(2, 4), torch.randn(2, 6), torch.randn(2, 6), U)[0].sum().backward()
    assert torch.equal(layer.cell.h2h.weight.grad != 0, U != 0)


def test_weight_dropout_is_off_in_evaluation():
    layer = WeightDropout(LSTMCell(4, 6), 0.5).eval()
    assert layer() is layer.cell.h2h.weight


def count_weight_masks(monkeypatch, **switches) -> int:
    drawn = []

    def counted(shape, p, like, own=scratch.dropout_mask):
        drawn.append(tuple(shape))
        return own(shape, p, like)

    monkeypatch.setattr(scratch, "dropout_mask", counted)
    model = AWD_LSTM(20, 4, 6, **switches)
    model(words(), model.init_hiddens(3))
    return drawn.count((24, 6))


def test_one_weight_mask_for_a_whole_pass(monkeypatch):
    assert count_weight_masks(monkeypatch) == 2  # of the two layers with H = 6


def test_published_code_draws_a_weight_mask_per_time_step(monkeypatch):
    assert count_weight_masks(monkeypatch, mask_per_step=True) == 2 * 7


# --------------------------------------------------------------------------- variational dropout
def test_variational_mask_is_constant_over_time():
    drop = VariationalDropout(0.4)
    out = torch.stack([drop(torch.ones(3, 50), t) for t in range(6)])
    assert (out == out[0]).all()
    assert (drop(torch.ones(3, 50), 0) != out[0]).any()  # the next pass has another


def test_variational_masks_differ_between_columns():
    out = VariationalDropout(0.5)(torch.ones(4, 100), 0)
    assert len({tuple(row.tolist()) for row in out}) == 4


def test_variational_dropout_drops_about_p_and_scales_the_rest():
    out = VariationalDropout(0.4)(torch.ones(50, 100), 0)
    assert (out == 0).float().mean() == pytest.approx(0.4, abs=0.03)
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / 0.6))


def test_variational_dropout_gives_gradient_only_where_it_kept():
    x = torch.ones(5, 3, 8, requires_grad=True)
    out = VariationalDropout(0.5)(x, 0)
    out.sum().backward()
    assert torch.equal(x.grad != 0, out != 0)


def test_variational_dropout_is_off_in_evaluation():
    x = torch.randn(3, 8)
    assert VariationalDropout(0.5).eval()(x, 0) is x


def test_shared_masks_are_one_object():
    own, shared = AWD_LSTM(20, 4, 6), AWD_LSTM(20, 4, 6, shared_masks=True)
    assert own.drops[0] is not own.drops[1]
    assert shared.drops[0] is shared.drops[1] is not shared.drops[2]


# ----------------------------------------------------------------------------- embedding dropout
def test_a_dropped_word_is_dropped_everywhere():
    model = AWD_LSTM(20, 4, 6, dropout_emb=0.5)
    text = words(T=40)
    kept = model.embedding_dropout(text).abs().sum(-1) > 0
    for word in range(20):
        assert len(set(kept[text == word].tolist())) == 1
    assert 0.2 < kept.float().mean() < 0.8


def test_embedding_dropout_scales_the_kept_words_and_drops_the_gradient_of_the_others():
    model = AWD_LSTM(20, 4, 6, dropout_emb=0.5)
    text = torch.arange(20)[:, None]
    out = model.embedding_dropout(text)[:, 0]
    kept = out.abs().sum(-1) > 0
    torch.testing.assert_close(out[kept], 2 * model.embedding.weight[kept])
    out.sum().backward()
    assert torch.equal(model.embedding.weight.grad.abs().sum(-1) > 0, kept)


@pytest.mark.parametrize("pad", [False, True])
def test_gradient_of_the_last_word(pad):
    """The published lookup takes it for padding; ours does not."""
    model = AWD_LSTM(20, 4, 6, tied=False, pad_last_word=pad, **NO_DROPOUT)
    output, _, _ = model(torch.full((2, 1), 19), model.init_hiddens(1))
    output.sum().backward()
    assert bool(model.embedding.weight.grad[19].any()) is not pad


# ------------------------------------------------------------------------------------ regularisers
def test_regularisers_as_the_authors_code_has_them():
    x = torch.tensor([3.0, 4.0, 5.0]).repeat(4, 2, 1)
    model = AWD_LSTM(2, 3, 2)
    assert model.activation_reg(x, 2).item() == pytest.approx(2 * 50 / 3)
    steps = torch.arange(4.0)[:, None, None] * torch.tensor([2.0, 3.0, 4.0]).repeat(1, 2, 1)
    assert model.temporal_activation_reg(steps, 3).item() == pytest.approx(3 * 29 / 3)


def test_regularisers_as_the_paper_writes_them():
    x = torch.tensor([3.0, 4.0, 5.0]).repeat(4, 2, 1)
    model = AWD_LSTM(2, 3, 2, norm_regularisers=True)
    assert model.activation_reg(x, 2).item() == pytest.approx(2 * 50**0.5)
    steps = torch.arange(4.0)[:, None, None] * torch.tensor([2.0, 3.0, 4.0]).repeat(1, 2, 1)
    assert model.temporal_activation_reg(steps, 3).item() == pytest.approx(3 * 29**0.5)


def test_one_time_step_has_no_slowness():
    assert AWD_LSTM(2, 3, 2).temporal_activation_reg(torch.ones(1, 2, 3), 1) == 0


@pytest.mark.parametrize("norm", [False, True], ids=["mean-square", "norm"])
@pytest.mark.parametrize("detach", [False, True], ids=["gradient", "detached"])
def test_regularisers_reach_the_weights_unless_detached(norm, detach):
    model = AWD_LSTM(20, 4, 6, norm_regularisers=norm, detach_regularisers=detach)
    output, output_nodrop, _ = model(words(), model.init_hiddens(3))
    loss = model.activation_reg(output, 2) + model.temporal_activation_reg(output_nodrop, 1)
    assert loss > 0
    assert loss.requires_grad is not detach
    if not detach:
        loss.backward()
        assert all(layer.cell.h2h.weight.grad.any() for layer in model.layers)


# ------------------------------------------------------------------------------- the whole model
def pair(V=20, E=5, H=8, layers=3, **rates):
    """awd_lstm's model and ours with the same weights."""
    toolkit = RNNModel("LSTM", V, E, H, layers, *[rates.get(n, 0) for n in (
        "dropout", "dropouth", "dropouti", "dropoute")], wdrop=0, tie_weights=True)
    ours = AWD_LSTM(V, E, H, layers, dropout_wts=0, dropout_emb=rates.get("dropoute", 0),
                    dropout_inp=rates.get("dropouti", 0), dropout_hid=rates.get("dropouth", 0),
                    dropout_out=rates.get("dropout", 0))
    ours.load_state_dict(from_nn_lstm(toolkit.state_dict()))
    return toolkit, ours


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


RATES = {"no-dropout": {}, "dropout": {"dropout": 0.4, "dropouth": 0.25, "dropouti": 0.4,
                                       "dropoute": 0.1}}


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES.keys())
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 3, 2), (13, 5, 3)], ids=str)
def test_same_as_nn_lstm(shape, rates):
    """Output, state and every gradient, of two chunks in a row; with the same seed the masks are
    the same too."""
    T, B, layers = shape
    toolkit, ours = pair(layers=layers, **rates)
    theirs_h, (h, c) = toolkit.init_hidden(B), ours.init_hiddens(B)
    for chunk in range(2):
        text = words(T, B, seed=chunk)
        torch.manual_seed(chunk)
        result, theirs_h, raw, _ = toolkit(text, theirs_h, return_h=True)
        torch.manual_seed(chunk)
        output, output_nodrop, (h, c) = ours(text, (h, c))
        close(output.flatten(0, 1), result)
        close(output_nodrop, raw[-1])
        for k in range(layers):
            close(h[k], theirs_h[k][0][0])
            close(c[k], theirs_h[k][1][0])
    result.pow(2).sum().backward()
    output.pow(2).sum().backward()
    gradients = {name: p.grad for name, p in toolkit.named_parameters() if p.grad is not None}
    expected = from_nn_lstm(gradients)
    for name, p in ours.named_parameters():
        if p.grad is not None:
            close(p.grad, expected[name])


@pytest.mark.parametrize("shape", [(1, 1), (9, 4)], ids=str)
def test_hoisted_is_the_loop(shape):
    """All dropouts on: same masks from the same seed, same numbers, same gradients."""
    found = []
    for hoist in (False, True):
        torch.manual_seed(3)
        model = AWD_LSTM(20, 5, 8, hoist=hoist)
        output, output_nodrop, (h, c) = model(words(*shape), model.init_hiddens(shape[1]))
        (output.pow(2).sum() + output_nodrop.sum()).backward()
        found.append([output, output_nodrop, *h, *c, *(p.grad for p in model.parameters()
                                                       if p.grad is not None)])
    for plain, hoisted in zip(*found, strict=True):
        torch.testing.assert_close(hoisted, plain)


def test_state_is_carried():
    """Two halves of a text give what the whole gives."""
    model = AWD_LSTM(20, 5, 8).eval()
    text = words(T=10)
    whole, _, _ = model(text, model.init_hiddens(3))
    first, _, hidden = model(text[:4], model.init_hiddens(3))
    second, _, _ = model(text[4:], hidden)
    torch.testing.assert_close(torch.cat([first, second]), whole)


COUNTS = {"published": ({"tied": False}, 1550, 42_468_000),
          "paper, untied": ({"tied": False}, 1150, 28_221_600),
          "paper": ({}, 1150, 24_221_600)}


@pytest.mark.parametrize(("switches", "nhid", "count"), COUNTS.values(), ids=COUNTS.keys())
def test_parameters(switches, nhid, count):
    """The README's "?M" was 42.5M; the paper's model has 24.2M."""
    with torch.device("meta"):
        model = AWD_LSTM(10_000, 400, nhid, **switches)
    assert sum(p.numel() for p in model.parameters()) == count


def test_initial_weights():
    tied, published = AWD_LSTM(500, 40, 8), AWD_LSTM(500, 40, 8, tied=False, normal_init=True)
    assert tied.decoder.weight is tied.embedding.weight
    assert tied.embedding.weight.abs().max() <= 0.1
    assert not tied.decoder.bias.any()
    assert published.embedding.weight.std().item() == pytest.approx(1, abs=0.05)
    assert 0.15 < published.decoder.bias.abs().max() <= 40**-0.5


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_sizes_can_be_read_off_the_weights(tied, bias):
    model = AWD_LSTM(20, 5, 8, 2, bias, tied=tied)
    config = config_of_state(model.state_dict())
    assert config == {key: model.config[key] for key in config}
