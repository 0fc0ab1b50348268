"""The language model: its sizes, its softmaxes, its loss."""

import pytest
import torch
import torch.nn.functional as F

from tests.trellisnet.small_lm import E, L, N, V, loss_of, model, words
from trellisnet import lm


# --------------------------------------------------------------------------------------- sizes
@pytest.mark.parametrize("nhid", [7, E])
def test_untied_with_any_sizes(nhid):
    """The original's untied decoder took nhid inputs, so it crashed unless nhid == nout."""
    net = model(tie_weights=False, nhid=nhid, nout=4)
    assert net.decoder.weight.shape == (V, 4)
    assert net.decode(net(words()).dropped).shape == (L, N, V)


@pytest.mark.parametrize("tied", [True, False])
def test_mixture_frees_the_output_size(tied):
    net = model(n_experts=2, nout=3, tie_weights=tied)
    p = net.decode(net(words()).dropped).exp()
    torch.testing.assert_close(p.sum(-1), torch.ones(L, N, dtype=torch.float64) * (1 + V * 1e-8))


def test_tied_shares_one_matrix():
    net = model()
    assert net.decoder.weight is net.encoder.weight
    assert sum(p is net.encoder.weight for p in net.parameters()) == 1


@pytest.mark.parametrize(("bad", "says"), [
    ({"nout": 4}, "a tied decoder needs nout = emsize .here 4 and 6."),
    ({"dropout": 1.0}, "dropout must be"), ({"emb_dropout": -1}, "emb_dropout must be"),
    ({"dropoutl": 2}, "dropoutl must be"), ({"nlevels": 0}, "nlevels")], ids=str)
def test_refuses_sizes_that_do_not_fit(bad, says):
    with pytest.raises(ValueError, match=says) as caught:
        model(**bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tied", [True, False])
def test_last_word_learns_from_the_decoder_alone(tied):
    """The original's lookups pass padding index -1; --no-last-word-padding mends that."""
    text = words()
    text[0] = V - 1
    grads = {}
    for padding in (True, False):
        net = model(tie_weights=tied, last_word_padding=padding)
        loss = loss_of(net)
        loss(text[:-1], text[1:], net.init_hidden(N)).total.backward()
        grads[padding] = net.encoder.weight.grad
    torch.testing.assert_close(grads[True][:-1], grads[False][:-1])
    assert not torch.allclose(grads[True][-1], grads[False][-1])
    assert grads[True][-1].any() == tied
    assert torch.equal(model()(text).raw, model(last_word_padding=False)(text).raw)


def test_fewer_levels_than_the_aux_frequency():
    """No auxiliary outputs, no auxiliary loss; the original crashed."""
    net = model(aux_frequency=9)
    loss, text = loss_of(net, aux=0.5), words(L + 1)
    assert net(text).aux.shape == (0, L + 1, N, E)
    result = loss(text[:-1], text[1:], net.init_hidden(N))
    assert result.aux == 0
    assert torch.equal(result.total, result.raw)


# ---------------------------------------------------------------------- mixture of softmaxes
@pytest.mark.parametrize("rows", [1, 7, 10_000])
@pytest.mark.parametrize("masked", [False, True])
def test_mixture_loss_is_the_gathered_log_probability(monkeypatch, rows, masked):
    """Value and every gradient, however many rows at a time."""
    monkeypatch.setattr(lm, "LOGITS_AT_ONCE", rows * 3 * V)
    net = model(n_experts=3, nout=4, dropoutl=0.4).train(masked)
    output = torch.randn(L, N, 4, dtype=torch.float64, requires_grad=True)
    targets, mask = words(), net.latent_mask(output)
    inputs = [output, *net.mixsoft.parameters(), net.decoder.weight, net.decoder.bias]
    log_prob = net.mixsoft.log_prob(output, net.decoder, mask)
    expected = -log_prob.gather(-1, targets.unsqueeze(-1)).mean()
    ours = net.mixsoft.nll(output, targets, net.decoder, mask)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(expected, inputs),
                    strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_one_expert_is_a_softmax():
    net = model(n_experts=1)
    output = torch.randn(L, N, E, dtype=torch.float64)
    logits = net.decoder(net.mixsoft.latent(output).tanh())
    torch.testing.assert_close(net.decode(output), logits.log_softmax(-1), rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------- loss
@pytest.mark.parametrize("experts", [0, 2])
@pytest.mark.parametrize("start", [0, 4])
def test_the_parts_of_the_loss(start, experts):
    """Cross entropy of the top level, the same of each tap, and the two regularisers, all of the
    scored rows alone."""
    net = model(n_experts=experts).eval()
    text = words(L + 1)
    targets = text[1 + start:]
    out = net(text[:-1])
    raw, dropped, aux = out.raw[start:], out.dropped[start:], out.aux[:, start:]

    def cross_entropy(output):
        return F.cross_entropy(net.decode(output).flatten(0, 1), targets.flatten())

    result = loss_of(net, aux=0.3, alpha=2, beta=1)(text[:-1], text[1:], net.init_hidden(N), start)
    by_hand = {"raw": cross_entropy(dropped), "aux": 0.3 * sum(map(cross_entropy, aux))}
    by_hand["total"] = (sum(by_hand.values()) + 2 * dropped.pow(2).mean()
                        + (raw[1:] - raw[:-1]).pow(2).mean())
    for name, value in by_hand.items():
        torch.testing.assert_close(getattr(result, name), value, rtol=0, atol=1e-6)


def test_activation_is_regularised_dropped_and_slowness_is_not():
    net = model(dropout=0.5).train()
    text = words(L + 1)
    parts = {}
    for name in ("alpha", "beta"):
        torch.manual_seed(1)
        result = loss_of(net, **{name: 1})(text[:-1], text[1:], net.init_hidden(N))
        parts[name] = result.total - result.raw
    torch.manual_seed(1)
    out = net(text[:-1])
    torch.testing.assert_close(parts["alpha"], out.dropped.pow(2).mean())
    torch.testing.assert_close(parts["beta"], (out.raw[1:] - out.raw[:-1]).pow(2).mean())


def test_one_step_has_no_slowness():
    net, text = model(), words(2)
    total = loss_of(net, beta=1)(text[:1], text[1:], net.init_hidden(N)).total
    assert total.isfinite()
