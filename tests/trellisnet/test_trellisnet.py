"""The network: the plain form is the equations, the fast form is the plain one; its weights and
their dropouts are as in section 5 of the specification of the original."""

import copy
import math

import pytest
import torch

from trellisnet import trellisnet
from trellisnet.trellisnet import TrellisNet, choose_aux_levels, row_norm, tap_major, trellis_plain

E, N, L = 3, 2, 9


def by_positions(x, weight1, weight2, bias, h0, c0, mask, dilations, nout, start=0, aux_levels=()):
    """Every level, every position, every tap, one at a time."""
    k = weight1.shape[-1]
    zero = torch.zeros_like(h0)
    below = [(zero, zero)] * len(x)
    aux = []
    for level, d in enumerate(dilations):
        here = []
        for t in range(len(x)):
            a = bias
            for j in range(k):
                s = t - (k - 1 - j) * d
                a = a + (weight1[:, :, j] @ x[s].t()).t() if s >= 0 else a
                h = below[s][0] if s >= 0 else h0
                a = a + (weight2[:, :, j] @ (mask * h).t()).t()
            i, o, g, f = a.chunk(4, dim=-1)
            c = f.sigmoid() * (below[t - d][1] if t >= d else c0) + i.sigmoid() * g.tanh()
            here.append((o.sigmoid() * c.tanh(), c))
        below = here
        if level in aux_levels:
            aux.append(torch.stack([h for h, _ in here])[start:, :, -nout:])
    out = torch.stack([h for h, _ in below])[start:, :, -nout:]
    return out, torch.stack(aux) if aux else out.new_zeros(0, *out.shape), *below[-1]


def gradients(outputs, inputs):
    """Under fixed cotangents on all outputs."""
    gen = torch.Generator().manual_seed(3)
    return torch.autograd.grad(
        sum((o * torch.randn(o.shape, generator=gen, dtype=o.dtype)).sum() for o in outputs),
        inputs, allow_unused=True)


def assert_same(ours, theirs, atol):
    for a, b in zip(ours, theirs, strict=True):
        b = torch.zeros_like(a) if b is None else b
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize(("dilations", "aux"), [((1, 1, 1), (0, 2)), ((1, 2, 4), (1,)),
                                                 ((5,), ())], ids=str)
def test_plain_is_the_equations(k, dilations, aux):
    torch.manual_seed(0)
    size = 4
    inputs = [0.7 * torch.randn(*shape, dtype=torch.float64) for shape in (
        (L, N, E), (4 * size, E, k), (4 * size, size, k), (4 * size,), (N, size), (N, size))]
    for value in inputs:
        value.requires_grad_()
    mask = torch.tensor([[0, 2, 0, 2], [2, 2, 0, 0]], dtype=torch.float64)
    rest = (mask, dilations, 3, 2, aux)
    ours, theirs = trellis_plain(*inputs, *rest), by_positions(*inputs, *rest)
    assert_same(ours, theirs, 1e-12)
    assert_same(gradients(ours, inputs), gradients(theirs, inputs), 1e-11)


NETWORKS = {
    "word": {},
    "word-wnorm": {"wnorm": True},
    "dilated-k3": {"kernel_size": 3, "dilation": (1, 2, 4), "wnorm": True},
    "k1": {"kernel_size": 1},
    "no-aux": {"aux_frequency": 0},
    "two-dilations": {"dilation": (2, 1), "nlevels": 5, "aux_frequency": 2.5},
    "one-level": {"nlevels": 1},
}


def network(nlevels=4, dropout=0.4, **changes):
    torch.manual_seed(1)
    config = {"ninp": E, "nhid": 5, "nout": 2, "nlevels": nlevels, "aux_frequency": 2,
              "wnorm": False, "dropouth": dropout, "wdrop": dropout} | changes
    model = TrellisNet(**config).double()
    for p in model.parameters():  # larger than at the start: every term counts
        p.data.mul_(30)
    return model


@pytest.mark.parametrize("start", [0, 4, L - 1])
@pytest.mark.parametrize("name", NETWORKS)
def test_fast_equals_plain(name, start):
    """Outputs and every gradient, with all dropouts on: both draw the same masks."""
    results = []
    for plain in (False, True):
        model = network(**NETWORKS[name]).train()
        model.plain = plain
        torch.manual_seed(2)
        x, h0, c0 = (torch.randn(*s, dtype=torch.float64, requires_grad=True)
                     for s in ((L, N, E), (N, 5), (N, 5)))
        out, aux, hidden = model(x, (h0, c0), start)
        assert out.shape == (L - start, N, 2)
        assert aux.shape == (len(model.aux_levels), L - start, N, 2)
        outputs = (out, aux, *hidden)
        results.append((outputs, gradients(outputs, [x, h0, c0, *model.parameters()])))
    for ours, theirs in zip(*results, strict=True):
        assert_same(ours, theirs, 1e-11)


def test_without_hidden_it_starts_from_zeros():
    model = network().eval()
    x = torch.randn(L, N, E, dtype=torch.float64)
    given, default = model(x, model.init_hidden(N)), model(x)
    assert torch.equal(given[0], default[0])


def test_carried_state_enters_at_every_level():
    """The top level's last state, and nothing else, is left of the next segment."""
    model = network(dropout=0).eval()
    x = torch.randn(L, N, E, dtype=torch.float64)
    _, _, (h, c) = model(x[:4])
    expected = by_positions(x[4:], model.weight1_raw, model.weight2_raw, model.bias2, h, c, 1,
                            model.dilations, 2)[0]
    torch.testing.assert_close(model(x[4:], (h, c))[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("nlevels", "frequency", "expected"), [
    (58, 12, (11, 23, 35, 47)), (75, 25, (24, 49, 74)), (140, 80, (79,)),  # the published models
    (58, 12.0, (11, 23, 35, 47)), (11, 1e4, ()), (5, 2.5, (4,)), (3, 1, (0, 1, 2)), (4, 0, ()),
    (4, -1, ()), (11, 12, ()), (12, 12, (11,))])
def test_aux_levels(nlevels, frequency, expected):
    """Level l, counted from 0, if l mod frequency = frequency - 1; the frequency is a float."""
    assert choose_aux_levels(nlevels, frequency) == expected


def test_receptive_field():
    """With k = 2, d = 1 the output sees nlevels steps back, and no further."""
    model = network(nlevels=3, dropout=0)
    x = torch.randn(8, 1, E, dtype=torch.float64, requires_grad=True)
    model(x, start=7)[0].sum().backward()
    seen = x.grad.abs().sum((1, 2)) > 0
    assert seen.tolist() == [False] * 4 + [True] * 4


@pytest.mark.parametrize("bad", [{"nout": 6}, {"nout": 0}, {"nlevels": 0}, {"kernel_size": 0},
                                 {"dilation": ()}, {"dilation": (1, 0)}, {"wdrop": 1.0},
                                 {"dropouth": -0.1}], ids=str)
def test_refuses_nonsense(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        network(**bad)


# -------------------------------------------------------------------------------- the weights
def wide(p, **changes):
    """40 x 600 entries in each tap of weight2's rows: enough to count."""
    torch.manual_seed(0)
    return TrellisNet(30, 30, 10, 1, wdrop=p, **({"wnorm": False} | changes)).train()


def draws(model, count=40, name="weight2"):
    with torch.no_grad():
        return torch.stack([model.effective_weight(name) for _ in range(count)])


def assert_rate(zeros, p):
    """The share of dropped entries within 4.5 standard deviations."""
    sigma = math.sqrt(p * (1 - p) / zeros.numel())
    assert abs(zeros.double().mean().item() - p) < 4.5 * sigma


@pytest.mark.parametrize("name", ["weight1", "weight2"])
@pytest.mark.parametrize("p", [0.26, 0.5])
@pytest.mark.parametrize(("k", "temporal", "dropped_taps"), [
    (2, True, [0]), (3, True, [0, 1]), (2, False, [0, 1]), (1, True, [0]), (1, False, [0])],
    ids=["k2", "k3", "k2-all", "k1", "k1-all"])
def test_weight_drop(k, temporal, dropped_taps, p, name):
    """A dropped tap's entries are 0 or 1/(1-p) of the weight; the present step's tap is untouched
    unless all are dropped, or there is no other."""
    model = wide(p, kernel_size=k, temporalwdrop=temporal)
    raw = getattr(model, f"{name}_raw").detach()
    every = draws(model, name=name)
    for tap in range(k):
        now, weight = every[..., tap], raw[..., tap]
        if tap not in dropped_taps:
            assert (now == weight).all()
            continue
        zero = now == 0
        assert_rate(zero, p)
        torch.testing.assert_close(now[~zero], (weight / (1 - p)).expand_as(now)[~zero])
        factor = (now.mean(0) * weight).sum() / weight.pow(2).sum()
        spread = math.sqrt(p / (1 - p) * weight.pow(4).sum() / len(now)) / weight.pow(2).sum()
        assert abs(factor - 1) < 4.5 * spread


def test_weight_drop_draws_anew():
    model = wide(0.5)
    first, second = draws(model, 2)
    assert not torch.equal(first, second)
    one, two = model.effective_weight("weight1"), model.effective_weight("weight2")
    assert not torch.equal(one[..., 0] == 0, two[..., 0] == 0)


@pytest.mark.parametrize("temporal", [True, False])
@pytest.mark.parametrize("k", [1, 2])
def test_rows_have_the_norm_g_in_every_draw(k, temporal):
    """Weight dropout acts on the direction, before the normalisation."""
    model = wide(0.5, wnorm=True, kernel_size=k, temporalwdrop=temporal).double()
    for name in ("weight1", "weight2"):
        g = getattr(model, f"{name}_g").data
        g.uniform_(0.5, 2)
        for weight in draws(model, 10, name):
            torch.testing.assert_close(row_norm(weight), g, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("temporal", "expected"), [(False, [math.sqrt(0.5)] * 2),
                                                    (True, [math.sqrt(2 / 3)] * 2)])
def test_normalised_weights_shrink_on_average(temporal, expected):
    """The mean over draws is not the evaluation's weight: sqrt(1-p) of it if all taps are dropped,
    about sqrt(2 / (1/(1-p) + 1)) if one of two is."""
    model = wide(0.5, wnorm=True, temporalwdrop=temporal)
    model.weight2_v_raw.data.normal_()
    every = draws(model, 100)
    model.eval()
    whole = model.effective_weight("weight2").detach()
    for tap in (0, 1):
        factor = (every[..., tap].mean(0) * whole[..., tap]).sum() / whole[..., tap].pow(2).sum()
        assert factor.item() == pytest.approx(expected[tap], abs=0.02)


def test_a_row_that_is_dropped_whole_is_zero():
    """Where a row has one entry (one channel, k = 1) the original divided zero by zero."""
    torch.manual_seed(0)
    model = TrellisNet(1, 5, 2, 3, kernel_size=1, wdrop=0.5).train()
    out, _, _ = model(torch.randn(L, N, 1))
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    dropped = model.effective_weight("weight1").flatten() == 0
    assert 0 < dropped.sum() < len(dropped)


def test_weight_norm_starts_at_the_weights():
    """g is the row's norm: normalised or not, a seed gives the same network."""
    nets = []
    for wnorm in (True, False):
        torch.manual_seed(4)
        nets.append(TrellisNet(E, 5, 2, 3, wnorm=wnorm))
    for name in ("weight1", "weight2"):
        a, b = (net.effective_weight(name) for net in nets)
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


def test_weights_lie_tap_by_tap():
    """In memory as k matrices, which the products take without a copy; nothing that is done to a
    model changes that."""
    def assert_tap_major(model):
        for name in ("weight1", "weight2"):
            for weight in (getattr(model, f"{name}_v_raw"), model.effective_weight(name)):
                assert weight.permute(2, 0, 1).is_contiguous()

    model = TrellisNet(E, 5, 2, 3, wdrop=0.3, wnorm=True)
    assert_tap_major(model)
    assert_tap_major(copy.deepcopy(model))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(L, N, E))[0].sum().backward()
    optimizer.step()
    assert_tap_major(model)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    assert_tap_major(model.double())
    weight = torch.randn(4, 3, 2)
    assert torch.equal(tap_major(weight), weight)


# ------------------------------------------------------------------------------------- masks
def record_masks(monkeypatch):
    """Every mask that the network draws from now on."""
    drawn = []

    def recording(like, shape, p, own=trellisnet.dropout_mask):
        drawn.append(own(like, shape, p))
        return drawn[-1]
    monkeypatch.setattr(trellisnet, "dropout_mask", recording)
    return drawn


def test_one_hidden_mask_for_all_levels_and_times(monkeypatch):
    """One draw of (N, H), also on the initial state left of time 0; the cell is not dropped."""
    model = network(wdrop=0).train()
    drawn = record_masks(monkeypatch)
    x, h0, c0 = (torch.randn(*s, dtype=torch.float64) for s in ((L, N, E), (N, 5), (N, 5)))
    out, _, hidden = model(x, (h0, c0))
    mask, = drawn
    assert mask.shape == (N, 5)
    expected = by_positions(x, model.weight1_raw, model.weight2_raw, model.bias2, h0, c0, mask,
                            model.dilations, 2)
    torch.testing.assert_close(out, expected[0], rtol=0, atol=1e-12)
    assert_same(hidden, expected[2:], 1e-12)
    model(x)
    assert not torch.equal(drawn[0], drawn[1])


def test_order_of_the_draws(monkeypatch):
    """weight1, weight2, hidden: each once a pass, whatever the number of levels."""
    drawn = record_masks(monkeypatch)
    network(nlevels=6).train()(torch.randn(L, N, E, dtype=torch.float64))
    assert [tuple(mask.shape) for mask in drawn] == [(20, E, 1), (20, 5, 1), (N, 5)]


def test_hidden_mask_rate():
    model = TrellisNet(E, 500, 2, 1, dropouth=0.28)
    masks = torch.stack([model.hidden_mask(torch.zeros(1, 30, E)) for _ in range(4)])
    assert_rate(masks == 0, 0.28)
    assert masks.max().item() == pytest.approx(1 / 0.72)


def test_nothing_is_dropped_in_evaluation():
    """Nor is a random number drawn."""
    x = torch.randn(L, N, E, dtype=torch.float64)
    model, without = network().eval(), network(dropout=0).train()
    before = torch.get_rng_state()
    assert torch.equal(model(x)[0], without(x)[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_gives_the_same_pass():
    model, x = network().train(), torch.randn(L, N, E, dtype=torch.float64)
    outputs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        outputs.append(model(x)[0])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
