"""The language model's dropouts (section 5 of the original's specification)."""

import math

import pytest
import torch

import common.dropout
from tests.trellisnet.small_lm import RATES, E, L, N, V, loss_of, model, words
from trellisnet import lm, trellisnet


@pytest.fixture
def drawn(monkeypatch):
    """Every mask that is drawn from now on."""
    masks = []

    def recording(like, shape, p, own=common.dropout.dropout_mask):
        masks.append(own(like, shape, p))
        return masks[-1]
    for module in (common.dropout, trellisnet, lm):
        monkeypatch.setattr(module, "dropout_mask", recording)
    return masks


# In the order of the draws: rate, shape with N columns.
DRAWN = {
    "embedding": ("emb_dropout", (V, 1)),
    "input": ("dropouti", (1, N, E)),
    "weight1": ("wdrop", (4 * (7 + E), E, 1)),
    "weight2": ("wdrop", (4 * (7 + E), 7 + E, 1)),
    "hidden": ("dropouth", (N, 7 + E)),
    "output": ("dropout", (1, N, E)),
    "aux output": ("dropout", (N, 2, 1, E)),
    "latent": ("dropoutl", (N, 1, 3 * E)),
    "aux latent": ("dropoutl", (N, 2, 1, 3 * E)),
}


def test_every_mask(drawn):
    """Order, shape, share of zeros, scale and mean of what a training step draws: a mask has size
    1 where it is shared (time), and the size of the tensor where it is not (columns, levels)."""
    loss = loss_of(model(n_experts=3, **RATES), aux=0.1).train()
    text, passes = words(L + 1), 60
    with torch.no_grad():
        for _ in range(passes):
            loss(text[:-1], text[1:], loss.model.init_hidden(N))
    assert len(drawn) == passes * len(DRAWN)
    for i, (name, (rate, shape)) in enumerate(DRAWN.items()):
        masks, p = torch.stack(drawn[i::len(DRAWN)]), RATES[rate]
        assert masks.shape == (passes, *shape), name
        zeros = (masks == 0).double()
        sigma = math.sqrt(p * (1 - p) / masks.numel())
        assert abs(zeros.mean() - p) < 4.5 * sigma, name
        assert abs(masks.mean() - 1) < 4.5 * sigma / (1 - p), name
        torch.testing.assert_close(masks[masks > 0].unique(), torch.tensor([1 / (1 - p)]).double())
        assert not torch.equal(masks[0], masks[1]), name


def input_of_the_network(net, text):
    seen = []
    handle = net.tnet.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net(text)
    handle.remove()
    return seen[0]


def test_a_dropped_word_is_dropped_everywhere():
    """Rows are 0 or 1/(1-p) of the vector, alike for all occurrences; the decoder sees no mask."""
    net = model(emb_dropout=0.5).train()
    text = words()
    factor = input_of_the_network(net, text) / net.encoder(text)  # (L, N, E)
    for word in text.unique():
        values = factor[text == word].unique()
        assert len(values.round(decimals=10).unique()) == 1
        assert values[0].item() == pytest.approx(0) or values[0].item() == pytest.approx(2)
    output = torch.randn(3, E, dtype=torch.float64)
    torch.testing.assert_close(net.decode(output),
                               output @ net.encoder.weight.t() + net.decoder.bias)


def test_input_mask_is_shared_over_time():
    net = model(dropouti=0.5).train()
    text = words()
    factor = (input_of_the_network(net, text) / net.encoder(text)).round(decimals=10)
    assert (factor == factor[0]).all()
    assert not (factor[0, 0] == factor[0, 1]).all()
    assert set(factor.unique().tolist()) == {0, 2}


def test_output_masks_are_shared_over_time_but_not_over_levels():
    net, text = model(dropout=0.5, nout=24, ninp=24).train(), words()
    torch.manual_seed(3)
    out = net(text)
    net.dropout = 0
    torch.manual_seed(3)
    whole = net(text)
    assert torch.equal(out.raw, whole.raw)  # the network goes on with what is not dropped
    top, aux = out.dropped / whole.dropped, out.aux / whole.aux
    for factor in (top, *aux):
        factor = factor.round(decimals=10)
        assert (factor == factor[0]).all()
        assert set(factor.unique().tolist()) == {0, 2}
        assert not (factor[0, 0] == factor[0, 1]).all()
    assert not torch.equal(aux[0].round(), aux[1].round())
    assert not torch.equal(aux[1].round(), top.round())


def test_latent_mask_acts_before_the_tanh():
    net = model(n_experts=3, dropoutl=0.5).train()
    out = net(words())
    mask = net.latent_mask(out.dropped)
    assert mask.shape == (1, N, 3 * E)
    mixture = net.mixsoft
    latent = (mixture.latent(out.dropped) * mask).tanh().view(L, N, 3, E)
    p = (mixture.prior(out.dropped).softmax(-1).unsqueeze(-1)
         * net.decoder(latent).softmax(-1)).sum(2)
    torch.testing.assert_close(mixture.log_prob(out.dropped, net.decoder, mask),
                               (p + 1e-8).log(), rtol=0, atol=1e-12)
    assert net.latent_mask(out.aux).shape == (2, 1, N, 3 * E)
    assert net.eval().latent_mask(out.dropped) is None


def test_nothing_is_dropped_in_evaluation():
    """Nor is a random number drawn."""
    loss, without = (loss_of(model(n_experts=3, **rates), aux=0.1) for rates in (RATES, {}))
    text = words(L + 1)
    before = torch.get_rng_state()
    ours, theirs = (one(text[:-1], text[1:], one.model.init_hidden(N))
                    for one in (loss.eval(), without.train()))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(ours.total, theirs.total)


def test_a_seed_gives_the_same_step():
    loss = loss_of(model(n_experts=3, **RATES), aux=0.1).train()
    text, totals = words(L + 1), []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        totals.append(loss(text[:-1], text[1:], loss.model.init_hidden(N)).total.item())
    assert totals[0] == totals[1] != totals[2]
