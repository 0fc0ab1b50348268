"""The network: sizes, what is trained, names of the weights, and the originals' weights."""

import shlex

import pytest
import torch

from awd_lstm import main
from awd_lstm.model import RNNModel, config_of_state, default_splits, load_original_state
from awd_lstm.training import TrainingLoss
from common.splitcross import SplitCrossEntropyLoss

KINDS = ["LSTM", "GRU", "QRNN"]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_wdrop = pytest.mark.parametrize("wdrop", [0, 0.5])
V, E, H, L = 13, 6, 9, 3
T, B = 5, 4


def small(kind="LSTM", tied=True, seed=0, **rates):
    torch.manual_seed(seed)
    rates = dict.fromkeys(("dropout", "dropouth", "dropouti", "dropoute", "wdrop"), 0) | rates
    return RNNModel(kind, V, E, H, L, tie_weights=tied, **rates)


def words(seed=0):
    return torch.randint(V, (T, B), generator=torch.Generator().manual_seed(seed))


# Spec 14.1: the README's commands, the vocabulary of the text, parameters counted on the original.
PUBLISHED = {
    "P-LSTM": (10_000, 24_221_600, "--batch_size 20 --data data/penn --dropouti 0.4 "
               "--dropouth 0.25 --seed 141 --epoch 500 --save PTB.pt"),
    "P-QRNN": (10_000, 24_020_150, "--model QRNN --batch_size 20 --clip 0.2 --wdrop 0.1 "
               "--nhid 1550 --nlayers 4 --emsize 400 --dropouth 0.3 --seed 9001 --dropouti 0.4 "
               "--epochs 550 --save PTB.pt"),
    "W-LSTM": (33_278, 33_556_078, "--epochs 750 --data data/wikitext-2 --save WT2.pt "
               "--dropouth 0.2 --seed 1882"),
    "W-QRNN": (33_278, 33_354_628, "--epochs 500 --data data/wikitext-2 --clip 0.25 "
               "--dropouti 0.4 --dropouth 0.2 --nhid 1550 --nlayers 4 --seed 4002 --model QRNN "
               "--wdrop 0.1 --batch_size 40 --save WT2.pt"),
    "PTBC": (50, 13_787_650, "--epochs 500 --nlayers 3 --emsize 200 --nhid 1000 --alpha 0 "
             "--beta 0 --dropoute 0 --dropouth 0.25 --dropouti 0.1 --dropout 0.1 --wdrop 0.5 "
             "--wdecay 1.2e-6 --bptt 150 --batch_size 128 --optimizer adam --lr 2e-3 "
             "--data data/pennchar --save PTBC.pt --when 300 400"),
    "enwik8": (205, 47_270_045, "--epochs 50 --nlayers 3 --emsize 400 --nhid 1840 --alpha 0 "
               "--beta 0 --dropoute 0 --dropouth 0.1 --dropouti 0.1 --dropout 0.4 --wdrop 0.2 "
               "--wdecay 1.2e-6 --bptt 200 --batch_size 128 --optimizer adam --lr 1e-3 "
               "--data data/enwik8 --save ENWIK8.pt --when 25 35"),
    "WT103": (267_735, 153_886_638, "--epochs 14 --nlayers 4 --emsize 400 --nhid 2500 --alpha 0 "
              "--beta 0 --dropoute 0 --dropouth 0.1 --dropouti 0.1 --dropout 0.1 --wdrop 0 "
              "--wdecay 0 --bptt 140 --batch_size 60 --optimizer adam --lr 1e-3 "
              "--data data/wikitext-103 --save WT103.12hr.QRNN.pt --when 12 --model QRNN"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    """Built without memory, on the meta device."""
    ntoken, expected, command = PUBLISHED[name]
    args = main.parse_args(shlex.split(command))
    with torch.device("meta"):
        model = RNNModel(args.model, ntoken, args.emsize, args.nhid, args.nlayers, args.dropout,
                         args.dropouth, args.dropouti, args.dropoute, args.wdrop,
                         tie_weights=True)
        criterion = SplitCrossEntropyLoss(args.emsize, default_splits(ntoken))
    total = sum(p.numel() for p in [*model.parameters(), *criterion.parameters()])
    assert total == expected


@pytest.mark.parametrize(("ntoken", "splits"), [
    (75_000, []), (75_001, [2800, 20000, 76000]), (500_000, [2800, 20000, 76000]),
    (500_001, [4200, 35000, 180000])])
def test_default_splits(ntoken, splits):
    assert default_splits(ntoken) == splits


# ------------------------------------------------------------------------------------- the weights
KEYS = {
    ("LSTM", 0): "weight_ih_l0 weight_hh_l0 bias_ih_l0 bias_hh_l0",
    ("LSTM", 0.5): "module.weight_ih_l0 module.weight_hh_l0_raw module.bias_ih_l0 "
                   "module.bias_hh_l0",
    ("QRNN", 0): "linear.module.weight_raw linear.module.bias",
    ("QRNN", 0.5): "linear.module.weight_raw linear.module.bias",
}


@every_kind
@every_wdrop
def test_names_are_the_originals(kind, wdrop):
    keys = KEYS["LSTM" if kind == "GRU" else kind, wdrop].split()
    expected = {"encoder.weight", "decoder.weight", "decoder.bias"} | {
        f"rnns.{i}.{key}" for i in range(L) for key in keys}
    assert set(small(kind, wdrop=wdrop).state_dict()) == expected


@every_kind
@every_wdrop
def test_names_never_change(kind, wdrop):
    """S3: neither training nor evaluation adds a parameter or an alias."""
    model = small(kind, wdrop=wdrop)
    names = [[n for n, _ in model.named_parameters()], list(model.state_dict())]
    for training in (True, False, True):
        model.train(training)(words(), model.init_hidden(B))
        assert [[n for n, _ in model.named_parameters()], list(model.state_dict())] == names


@every_kind
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_shapes(kind, tied):
    model = small(kind, tied)
    hidden = model.init_hidden(B)
    result, new, raw, dropped = model(words(), hidden, return_h=True)
    sizes = [H, H, E if tied else H]
    assert result.shape == (T * B, sizes[-1])
    assert model.decoder(result).shape == (T * B, V)  # also for the untied GRU
    assert [tuple(r.shape) for r in raw] == [tuple(d.shape) for d in dropped] == [
        (T, B, size) for size in sizes]
    for states, size in zip(new, sizes, strict=True):
        for state in states if kind == "LSTM" else [states]:
            assert state.shape == (1, B, size)
    assert (model.decoder.weight is model.encoder.weight) == tied


@every_kind
def test_initial_weights(kind):
    model = small(kind)
    assert model.encoder.weight.abs().max() <= 0.1
    assert model.encoder.weight.std() > 0.03
    assert not model.decoder.bias.any()


@every_kind
def test_every_weight_is_trained(kind):
    """S1: nothing has dropped out of the graph, in particular no recurrent matrix."""
    model = small(kind, dropout=0.1, dropouth=0.1, dropouti=0.1, dropoute=0.1, wdrop=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    result, _ = model(words(), model.init_hidden(B))
    SplitCrossEntropyLoss(E)(model.decoder.weight, model.decoder.bias, result,
                             words(1).flatten()).backward()
    optimizer.step()
    for name, p in model.named_parameters():
        assert not torch.equal(p, before[name]), name


@pytest.mark.parametrize("padding", [False, True])
def test_last_word_is_trained_by_the_input(padding):
    """S4: the original's lookup took word V-1 for padding; here only on demand."""
    model = RNNModel("LSTM", V, E, H, 1, 0, 0, 0, 0, last_word_padding=padding)
    model(torch.full((T, B), V - 1), model.init_hidden(B))[0].sum().backward()
    assert model.encoder.weight.grad[V - 1].any() == (not padding)


def test_the_two_regularisers_look_at_different_outputs():
    """S13: AR squares the dropped last output, TAR the differences of the undropped one."""
    model, data, targets = small(dropout=0.5), words(), words(1).flatten()
    criterion = SplitCrossEntropyLoss(E)

    def loss(alpha, beta):
        torch.manual_seed(3)
        total, cross_entropy, _ = TrainingLoss(model, criterion, alpha, beta)(
            data, targets, model.init_hidden(B))
        return (total - cross_entropy).item()

    torch.manual_seed(3)
    _, _, raw, dropped = model(data, model.init_hidden(B), return_h=True)
    assert not torch.equal(raw[-1], dropped[-1])
    ar = dropped[-1].pow(2).mean().item()
    tar = (raw[-1][1:] - raw[-1][:-1]).pow(2).mean().item()
    assert loss(0, 0) == 0
    assert loss(2, 0) == pytest.approx(2 * ar, rel=1e-4)
    assert loss(0, 3) == pytest.approx(3 * tar, rel=1e-4)
    assert loss(2, 3) == pytest.approx(2 * ar + 3 * tar, rel=1e-4)


def test_one_time_step_has_no_slowness():
    """The original's TAR of a single step is the mean of nothing: NaN."""
    model = small()
    total, cross_entropy, _ = TrainingLoss(model, SplitCrossEntropyLoss(E), 0, 1)(
        words()[:1], words(1)[0], model.init_hidden(B))
    assert total == cross_entropy


# ----------------------------------------------------------------------------------- the dropouts
RATES = ("dropout", "dropouth", "dropouti", "dropoute", "wdrop")


@every_kind
def test_where_each_dropout_acts(kind):
    def outputs(rate):
        model = small(kind, **{rate: 0.5})
        torch.manual_seed(1)
        _, _, raw, dropped = model(words(), model.init_hidden(B), return_h=True)
        return [*raw, *dropped]

    plain = small(kind)
    _, _, raw, dropped = plain(words(), plain.init_hidden(B), return_h=True)
    same = {rate: [torch.equal(a, b) for a, b in zip(outputs(rate), [*raw, *dropped], strict=True)]
            for rate in RATES}
    #                     raw 0  raw 1  raw 2  out 0  out 1  out 2
    assert same["dropout"] == [True, True, True, True, True, False]
    assert same["dropouth"] == [True, False, False, False, False, False]
    for rate in ("dropouti", "dropoute", "wdrop"):
        assert same[rate] == [False] * 6


@every_kind
def test_locked_masks_are_over_time_not_batch(kind):
    """S7: (1, B, H), not (T, 1, H)."""
    model = small(kind, dropout=0.5)
    _, _, raw, dropped = model(words(), model.init_hidden(B), return_h=True)
    ratio = dropped[-1] / raw[-1]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    assert len(ratio[0].unique(dim=0)) > 1


@every_kind
def test_set_dropout(kind):
    model, hot = small(kind, wdrop=0.5), small(kind, **dict.fromkeys(RATES, 0.4))
    model.set_dropout(0.4, 0.4, 0.4, 0.4, 0.4)
    assert model.config() == hot.config()
    for m in (model, hot):
        torch.manual_seed(2)
        m.result = m(words(), m.init_hidden(B))[0]
    assert torch.equal(model.result, hot.result)
    model.set_dropout(0, 0, 0, 0, 0)
    before = torch.get_rng_state()
    model(words(), model.init_hidden(B))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_set_dropout_cannot_wrap_afterwards(kind):
    model = small(kind, wdrop=0)
    with pytest.raises(ValueError, match="--wdrop 0"):
        model.set_dropout(0, 0, 0, 0, 0.5)
    model.set_dropout(0.1, 0, 0, 0, 0)


@pytest.mark.parametrize("rate", RATES)
def test_bad_rates(rate):
    for value in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rate):
            small(**{rate: value})


def test_unknown_kind():
    with pytest.raises(ValueError, match="LSTM, QRNN, GRU"):
        small("RNN")


def test_qrnn_reset_forgets_the_last_frame():
    model = small("QRNN").eval()
    first, second = (model(words(), model.init_hidden(B))[0] for _ in range(2))
    model.reset()
    third = model(words(), model.init_hidden(B))[0]
    assert not torch.equal(first, second)
    assert torch.equal(first, third)


# --------------------------------------------------------------------------- originals' state_dicts
@every_kind
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@every_wdrop
def test_config_of_state(kind, tied, wdrop):
    model = small(kind, tied, wdrop=wdrop)
    assert config_of_state(model.state_dict()) == {
        "rnn_type": kind, "ntoken": V, "ninp": E, "nhid": H, "nlayers": L, "tie_weights": tied}


@every_kind
@pytest.mark.parametrize("aliases", [False, True], ids=["plain", "aliases"])
@pytest.mark.parametrize("there", [0, 0.5])
@pytest.mark.parametrize("here", [0, 0.5])
def test_weights_load_in_either_form(kind, aliases, there, here):
    """Recent PyTorch put the dropped matrix of an original beside its _raw one; it is ignored."""
    source = small(kind, seed=1, wdrop=there).eval()
    state = dict(source.state_dict())
    if aliases:
        for key in [key for key in state if key.endswith("_raw")]:
            state[key.removesuffix("_raw")] = torch.full_like(state[key], 99)
        state = dict(sorted(state.items(), reverse=True))
    target = small(kind, seed=2, wdrop=here).eval()
    load_original_state(target, state)
    for model in (source, target):
        model.result = model(words(), model.init_hidden(B))[0]
    assert torch.equal(source.result, target.result)
    assert config_of_state(state)["nhid"] == H


def test_tied_state_without_the_alias_of_the_decoder():
    state = small().state_dict()
    assert config_of_state({k: v for k, v in state.items() if k != "decoder.weight"})[
        "tie_weights"]


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.pop("rnns.1.module.bias_hh_l0"), r"lack rnns\.1\.module\.bias_hh_l0"),
    (lambda s: s.update(extra=torch.ones(1)), "hold extra"),
    (lambda s: s.update({"decoder.bias": torch.ones(V + 1)}),
     r"decoder\.bias is \(14,\) in the weights and \(13,\) in this model"),
    (lambda s: s.update({"rnns.0.module.weight_hh_l0_raw": torch.ones(2, 2)}),
     r"rnns\.0\.module\.weight_hh_l0_raw is \(2, 2\)"),
], ids=["missing", "unexpected", "misshapen", "misshapen-raw"])
def test_weights_that_do_not_fit_are_named(change, message):
    model = small(wdrop=0.5)
    state, before = dict(small(seed=1, wdrop=0.5).state_dict()), model.encoder.weight.clone()
    change(state)
    with pytest.raises(ValueError, match=message):
        load_original_state(model, state)
    assert torch.equal(model.encoder.weight, before)


def test_other_weights_are_no_model():
    with pytest.raises(ValueError, match="not the weights of"):
        config_of_state({"weight": torch.ones(2)})
