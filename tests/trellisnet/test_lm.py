"""The language model: its dropouts (section 5 of the original's specification), its softmaxes, its
loss, and how it reads a text (section 6)."""

import math

import pytest
import torch
import torch.nn.functional as F

import common.dropout
from common.splitcross import SplitCrossEntropyLoss
from trellisnet import lm, trellisnet
from trellisnet.lm import Reading, TrainingLoss, TrellisNetLM, batchify, evaluate, reading, segments

V, E, L, N = 19, 6, 10, 5
RATES = {"emb_dropout": 0.2, "dropouti": 0.45, "wdrop": 0.26, "dropouth": 0.28, "dropout": 0.4,
         "dropoutl": 0.35}


def model(seed=0, **changes):
    torch.manual_seed(seed)
    config = {"ntoken": V, "ninp": E, "nhid": 7, "nout": E, "nlevels": 4, "wnorm": False,
              "aux_frequency": 2}
    made = TrellisNetLM(**config | changes).double()
    for p in made.tnet.parameters():  # larger than at the start: every term counts
        p.data.mul_(30)
    return made


def words(rows=L, columns=N, seed=1):
    return torch.randint(V, (rows, columns), generator=torch.Generator().manual_seed(seed))


def loss_of(net, splits=(), **weights):
    return TrainingLoss(net, SplitCrossEntropyLoss(net.encoder.embedding_dim, splits).double(),
                        **weights)


# ------------------------------------------------------------------------------------ dropouts
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
    1 where it is shared (time), and the size of the tensor where it is not (columns, taps)."""
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


def test_output_masks_are_shared_over_time_but_not_over_taps():
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


# ----------------------------------------------------------------------------- reading a text
PTB = {"train": 929_589, "valid": 73_760, "test": 82_430}  # tokens, <eos> included
DEFAULT = {"seq_len": 110, "horizon": 58, "repack": False}


def scored(rows, how):
    """Input rows whose outputs count, in order."""
    return [row for i, length in segments(rows, how) for row in range(i + how.start, i + length)]


@pytest.mark.parametrize(("split", "rows", "rows_scored", "tokens"), [
    ("valid", 6146, 6087, 73_044), ("test", 6869, 6810, 81_720)])
def test_penn_treebank_as_published(split, rows, rows_scored, tokens):
    """Word PTB's protocol: 12 columns, the first 58 outputs of a segment discarded."""
    how = reading(**DEFAULT)
    assert how == Reading(110, 52, 58, False)
    assert batchify(torch.zeros(PTB[split]), 12).shape == (rows, 12)
    assert len(scored(rows, how)) == rows_scored
    assert rows_scored * 12 == tokens


def test_steps_of_an_epoch_of_penn_treebank():
    how = reading(**DEFAULT, always_effective=True)
    assert len(list(segments(PTB["train"] // 16, how))) == 1117


@pytest.mark.parametrize("rows", [8, 9, 14, 15, 16, 50, 75, 164])
@pytest.mark.parametrize(("seq_len", "horizon"), [(14, 6), (7, 6), (20, 3)])
def test_every_row_behind_the_history_is_scored_once(rows, seq_len, horizon):
    how = reading(seq_len, horizon, repack=False)
    assert scored(rows, how) == list(range(horizon, rows - 1))
    assert all(i + length < rows for i, length in segments(rows, how))  # there are targets
    assert all(length > how.start for _, length in segments(rows, how))


@pytest.mark.parametrize("rows", [2, 6, 7, 8, 50])
def test_segments_of_horizon_score_every_row(rows):
    how = reading(0, 6, repack=True)
    assert how == Reading(6, 6, 0, True)
    assert scored(rows, how) == list(range(rows - 1))


@pytest.mark.parametrize(("seq_len", "repack", "evaluation", "training"), [
    (14, False, "E", "E"), (14, True, "R", "E"), (0, True, "R", "R"), (6, False, "R", "E"),
    (5, True, "R", "E")])
def test_which_mode(seq_len, repack, evaluation, training):
    """Word PTB trains in effective-history mode whenever seq_len is given, even with --repack."""
    modes = {"E": Reading(seq_len, seq_len - 6, 6, repack), "R": Reading(6, 6, 0, repack)}
    assert reading(seq_len, 6, repack) == modes[evaluation]
    assert reading(seq_len, 6, repack, always_effective=True) == modes[training]


def test_batchify_cuts_columns():
    """
    a b c d e f g h i j k, 3 columns:   a d g
                                        b e h
                                        c f i
    """
    assert batchify(torch.arange(11), 3).tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    with pytest.raises(ValueError, match="a text of 11 tokens is too short for 6 columns"):
        batchify(torch.arange(11), 6)


@pytest.mark.parametrize("how", [Reading(6, 6, 0, True), Reading(6, 6, 0, False),
                                 Reading(9, 3, 6, False)], ids=["carry", "zero", "effective"])
def test_evaluate(how):
    """The mean over all scored tokens, segment by segment, with the dropout off."""
    net, source, checks = model(**RATES), words(40), []
    loss = loss_of(net, aux=0.5, alpha=2).train()
    ours = evaluate(loss, source, how, lambda: checks.append(1))
    assert loss.training
    assert net.training
    loss.eval()
    hidden, costs = net.init_hidden(N), []
    for i, length in segments(40, how):
        out = net(source[i:i + length], hidden)
        logits = net.decode(out.dropped[how.start:]).flatten(0, 1)
        targets = source[i + 1 + how.start:i + 1 + length].flatten()
        costs.append(F.cross_entropy(logits, targets, reduction="none"))
        hidden = out.hidden if how.carry else hidden
    assert ours == pytest.approx(torch.cat(costs).mean().item(), abs=1e-12)
    assert len(checks) == len(costs)


def test_carrying_in_one_segment_or_several_is_the_same_only_with_a_deep_enough_history():
    """Effective history: with as many discarded rows as levels, the segments do not matter."""
    net, source = model(), words(60)
    deep = [evaluate(loss_of(net), source, Reading(start + n, n, start, False))
            for start in (4,) for n in (1, 5, 56)]
    assert deep[0] == pytest.approx(deep[1], abs=1e-12)
    assert deep[0] == pytest.approx(deep[2], abs=1e-12)


def test_nothing_to_score():
    assert math.isnan(evaluate(loss_of(model()), words(5), Reading(9, 3, 6, False)))
