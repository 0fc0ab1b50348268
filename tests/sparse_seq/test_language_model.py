"""The language models: mixture of softmaxes, sparseness modes, dropouts, batches."""

import math
import re

import numpy as np
import pytest
import torch

from sparse_seq import SparseLSTM
from sparse_seq.language_modeling import args as flags
from sparse_seq.language_modeling import main as lm
from sparse_seq.language_modeling.model import (
    LanguageModel,
    TrainingLoss,
    reductions,
    target_log_prob,
    target_log_prob_plain,
)
from sparse_seq.language_modeling.utils import batchify, draw_length, evaluate, get_batch
from sparse_seq.weights import load_weights

SMALL = {"ntoken": 40, "emsize": 10, "nhid": 12, "nlayers": 2}


def with_inputs(**settings):
    torch.manual_seed(0)
    model = LanguageModel(**(SMALL | settings))
    return model, torch.randint(40, (5, 3)), model.init_hidden(3)


@pytest.mark.parametrize("experts", [1, 4])
@pytest.mark.parametrize("blocks", [1, 3])
def test_score_is_the_loss_of_the_whole_distribution(experts, blocks):
    """And so are its gradients: only the targets' probabilities are computed."""
    model, words, hidden = with_inputs(n_experts=experts, emblocks=blocks,
                                       emdensity=0.5 if blocks > 1 else 1)
    targets = torch.randint(40, (15,))
    log_p = model(words, hidden)[0].view(15, 40)
    assert torch.allclose(log_p.exp().sum(1), torch.tensor(1 + 40e-8), atol=1e-5)
    plain = -log_p.gather(1, targets[:, None]).mean()
    fast, hits = model.score(model.run_layers(words, hidden).output, targets, count=True)
    torch.testing.assert_close(fast, plain, atol=1e-6, rtol=0)
    assert hits == (log_p.argmax(1) == targets).sum()
    for a, b in zip(torch.autograd.grad(fast, list(model.parameters()), materialize_grads=True),
                    torch.autograd.grad(plain, list(model.parameters()), materialize_grads=True),
                    strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("rows", "words"), [(1, 7), (63, 127), (40, 9000)])
def test_target_log_prob(rows, words):
    logits = torch.randn(rows, words) * 5
    targets, weight = torch.randint(words, (rows,)), torch.randn(rows)
    results = []
    for form in (target_log_prob_plain, target_log_prob):
        leaf = logits.clone().requires_grad_()
        log_p = form(leaf * 1, targets)
        results.append((log_p, torch.autograd.grad((log_p * weight).sum(), leaf)[0]))
        with torch.no_grad():
            assert torch.equal(form(logits.clone(), targets), log_p)
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, atol=3e-6, rtol=1e-5)


def test_loss_has_a_ceiling():
    """log(p + 1e-8): an impossible word costs 18.42, not infinity."""
    model, words, hidden = with_inputs()
    model.encoder.decoder_bias.data[0] = -1e4
    loss, _ = model.score(model.run_layers(words, hidden).output,
                          torch.zeros(15, dtype=torch.long))
    assert loss.item() == pytest.approx(-math.log(1e-8), abs=1e-4)


def test_mixture_is_of_higher_rank():
    """What Yang et al. 2018 wanted: the log-probabilities of many contexts exceed rank E + 1."""
    ranks = []
    for experts in (1, 5):
        torch.manual_seed(0)
        model = LanguageModel(60, emsize=3, nhid=16, nhidlast=16, nlayers=1, n_experts=experts)
        for p in model.parameters():
            torch.nn.init.normal_(p)
        words = torch.randint(60, (20, 5))
        prob = model(words, model.init_hidden(5), return_prob=True)[0].double()
        ranks.append(torch.linalg.matrix_rank(prob.clamp_min(1e-30).log().view(100, 60),
                                              rtol=1e-4))
    assert ranks[0] <= 5 < ranks[1]


def test_priors_learn():
    """A few steps on one batch: every parameter moves, experts and their weights included."""
    model, words, hidden = with_inputs(n_experts=3, nhidlast=9)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    loss_of = TrainingLoss(model, alpha=0, beta=0)
    optimizer, losses = torch.optim.SGD(model.parameters(), 1.0), []
    for _ in range(10):
        optimizer.zero_grad()
        loss = loss_of(words, torch.arange(15), hidden)[0]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(not torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(("mode", "layers", "expected"), [
    ("sparse_hidden", 3, [(1, .5), (.5, .5), (.5, 1)]), ("sparse_hidden", 1, [(1, 1)]),
    ("sparse_emb", 3, [(.5, 1), (1, 1), (1, .5)]), ("sparse_all", 4, [(.5, .5)] * 4)])
def test_reductions(mode, layers, expected):
    assert reductions(mode, 0.5, layers) == expected


def test_modes():
    with pytest.raises(ValueError, match="needs at least 2 layers"):
        reductions("sparse_all", 0.5, 1)
    direct = LanguageModel(**SMALL, sparse_blocks=3, sparse_density=0.5)  # ignored originally
    assert all(isinstance(layer, SparseLSTM) for layer in direct.rnns)
    assert [layer.composition.blocks for layer in direct.rnns] == [3, 3]


def test_dropouts_act_and_evaluation_is_exact():
    model, words, hidden = with_inputs(dropout=.3, dropouth=.3, dropouti=.3, dropoute=.2, wdrop=.4,
                                       sparse_mode="sparse_all", sparse_fract=0.7)
    a, b = (model.run_layers(words, hidden) for _ in range(2))
    assert not torch.equal(a.output, b.output)
    zero = a.dropped[0] == 0
    assert torch.equal(zero, zero[:1].expand_as(zero))  # one mask for all time steps
    model.eval()
    assert torch.equal(model(words, hidden)[0], model(words, hidden)[0])


def test_weights_of_other_forms_load():
    """With and without weight drop; other sizes are refused by name."""
    dropped, plain = (LanguageModel(**SMALL, wdrop=p, sparse_mode="sparse_all", sparse_fract=0.7)
                      for p in (0.5, 0))
    load_weights(plain, dropped.state_dict())
    load_weights(dropped, plain.state_dict())
    for name, value in plain.state_dict().items():
        other = re.sub(r"LSTMs\.(\d+)\.", r"LSTMs.\1.module.", name)
        assert torch.equal(value, dropped.state_dict()[
            other.replace("weight_hh_l0", "weight_hh_l0_raw")])
    with pytest.raises(ValueError, match=r"encoder\.decoder_bias should be"):
        load_weights(LanguageModel(**(SMALL | {"ntoken": 41})), plain.state_dict())
    with pytest.raises(ValueError, match=r"prior\.bias is not in this model"):
        load_weights(plain, plain.state_dict() | {"prior.bias": torch.zeros(1)})


def test_batches():
    text = torch.arange(11, dtype=torch.int32)
    source = batchify(text, 3)
    assert source.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    data, targets = get_batch(source, 1, 5)
    assert (data.tolist(), targets.tolist()) == ([[1, 4, 7]], [2, 5, 8])
    with pytest.raises(ValueError, match=r"11 words .* too few for 6 columns of at least 2"):
        batchify(text, 6)


def test_lengths():
    rng = np.random.RandomState(0)
    lengths = [draw_length(rng, 70, 75) for _ in range(2000)]
    assert max(lengths) == 75
    assert 0.02 < np.mean(np.array(lengths) < 50) < 0.08


def test_evaluation_divides_by_rows():
    model = LanguageModel(**SMALL)
    source = torch.randint(40, (21, 2))
    low, true = (evaluate(model, source, 6, exact) for exact in (False, True))
    assert low == pytest.approx(true * 20 / 21)


@pytest.mark.parametrize(("argv", "message"), [
    (["--small_batch_size", "3"], "does not divide --batch_size 20"),
    (["--dropouth", "1"], r"--dropouth must be in \[0, 1\)"),
    (["--lr", "-1"], "--lr must be positive"), (["--devices", "3"], "cannot share 20 columns"),
    (["--log-interval", "0"], "--log-interval must be at least 1")])
def test_flags_refused(argv, message, capsys):
    with pytest.raises(SystemExit) as end:
        lm.parse_args(argv)
    assert end.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_defaults_are_the_originals():
    args = vars(lm.parse_args([]))
    published = {
        "emsize": 400, "nhid": 1150, "nhidlast": 400, "nlayers": 3, "lr": 30, "clip": 0.25,
        "epochs": 500, "batch_size": 20, "bptt": 70, "dropout": 0.4, "dropouth": 0.25,
        "dropouti": 0.4, "dropoute": 0.1, "wdrop": 0.5, "seed": 141, "nonmono": 5,
        "log_interval": 250, "save": "dev_runs", "alpha": 2, "beta": 1, "wdecay": 1.2e-6,
        "continue_train": False, "small_batch_size": 20, "max_seq_len_delta": 40,
        "multi_gpu": False, "dropoutl": 0.25, "n_experts": 1, "emdensity": 1.0, "emblocks": 1,
        "ordering": "up", "sparse_mode": "direct", "sparse_blocks": 1, "sparse_density": 1.0,
        "sparse_fract": 1.0}
    assert {name: args[name] for name in published} == published
    assert set(flags.RATES) <= set(args)
