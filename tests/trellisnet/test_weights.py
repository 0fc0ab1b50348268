"""The original's weight files load here, ours load there, and what does not fit is refused with
the flag that would make it fit."""

from pathlib import Path

import pytest
import torch

from harness import files
from trellisnet.lm import TrellisNetLM
from trellisnet.seq_MNIST_CIFAR.model import SequenceClassifier
from trellisnet.weights import load_original_state, original_state

RECORDED = Path(__file__).resolve().parents[1] / "golden/cases/trellisnet/e2e"
SIZES = {"ninp": 8, "nhid": 12, "nout": 8, "nlevels": 6, "aux_frequency": 3}
NETWORK = ("bias2", "weight1_raw", "weight2_raw")
NORMED = ("bias2", "weight1_g", "weight2_g", "weight1_v_raw", "weight2_v_raw")


def model(state=None, **changes):
    """A model of the recorded files' sizes; its vocabulary is that of `state`."""
    torch.manual_seed(0)
    ntoken = 50 if state is None else len(state["encoder.weight"])
    return TrellisNetLM(**{"ntoken": ntoken, **SIZES, "wnorm": False} | changes)


def values(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


# --------------------------------------------------------------------------- the original's keys
def keys(network, mixture=False):
    """In the original's order, duplicates included."""
    decoder = ["decoder.weight", "decoder.bias"]
    mixed = ["prior.weight", "prior.bias", "latent.weight", "latent.bias"] + decoder
    return (["encoder.weight", *decoder]
            + [f"tnet.module.full_conv.{name}" for name in network]
            + [f"mixsoft.{name}" for name in mixed if mixture]
            + [f"network.0.module.full_conv.{name}" for name in network]
            + [f"network.1.{name}" for name in mixed if mixture])


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, keys(NETWORK)), ({"wnorm": True}, keys(NORMED)),
    ({"n_experts": 3}, keys(NETWORK, mixture=True)),
    ({"tie_weights": False}, keys(NETWORK))], ids=["plain", "wnorm", "mixture", "untied"])
def test_our_files_have_the_originals_keys(changes, expected):
    assert list(original_state(model(**changes))) == expected


@pytest.mark.parametrize("wnorm", [False, True])
def test_the_classifiers_keys(wnorm):
    state = original_state(SequenceClassifier(1, 5, 10, 3, wnorm=wnorm))
    assert list(state) == [f"network.0.module.full_conv.{name}"
                           for name in (NORMED if wnorm else NETWORK)] + ["linear.weight",
                                                                          "linear.bias"]


@pytest.mark.parametrize("changes", [
    {}, {"wnorm": True}, {"n_experts": 3, "nout": 5}, {"tie_weights": False, "nhid": 30},
    {"kernel_size": 3, "wnorm": True}], ids=str)
def test_round_trip_is_exact(changes):
    ours, other = model(**changes), model(**changes)
    for p in other.parameters():
        torch.nn.init.normal_(p)
    state = original_state(ours)
    assert all(value.is_contiguous() for value in state.values())
    load_original_state(other, state)
    assert same(values(other), values(ours))
    assert same(original_state(other), state)


def test_classifier_round_trip():
    ours, other = (SequenceClassifier(1, 5, 10, 3) for _ in range(2))
    load_original_state(other, original_state(ours))
    assert same(values(other), values(ours))


def test_weights_file_opens_anywhere(tmp_path):
    """By plain torch.load, with weights_only: nothing but tensors under the original's names."""
    files.write(tmp_path / "w.pkl", original_state(model(wnorm=True)))
    state = torch.load(tmp_path / "w.pkl", weights_only=True)
    assert list(state) == keys(NORMED)
    assert state["tnet.module.full_conv.weight1_v_raw"].shape == (80, 8, 2)


# ------------------------------------------------------------------------------ what is accepted
def test_with_and_without_duplicates():
    ours = model(n_experts=3)
    state = original_state(ours)
    once = {name: value for name, value in state.items()
            if not name.startswith(("network.", "mixsoft.decoder."))}
    inner = {name: value for name, value in state.items()
             if not name.startswith(("tnet.", "mixsoft."))}
    without_tied = {name: value for name, value in once.items() if name != "decoder.weight"}
    for part in (once, inner, without_tied, ours.state_dict()):
        other = model(n_experts=3)
        other.decoder.bias.data.fill_(7)
        load_original_state(other, part)
        assert same(values(other), values(ours))


def test_the_later_duplicate_wins():
    state = original_state(model())
    state["network.0.module.full_conv.bias2"] = torch.full((80,), 7.0)
    net = model()
    load_original_state(net, state)
    assert (net.tnet.bias2 == 7).all()


def test_saved_through_data_parallel():
    """All names begin with `module.`."""
    ours, other = model(wnorm=True), model(wnorm=True)
    other.tnet.bias2.data.fill_(7)
    load_original_state(other, {f"module.{k}": v for k, v in original_state(ours).items()})
    assert same(values(other), values(ours))


RECORDINGS = {"word_plain": {}, "word_plain_cuda_zip": {}, "word_plain_cuda_legacy": {},
              "word_wnorm": {"wnorm": True}, "word_mos": {"n_experts": 3},
              "char_wnorm": {"wnorm": True}}


@pytest.mark.parametrize("name", RECORDINGS)
def test_files_of_the_original(name):
    """Zip and legacy format, saved on CPU and on CUDA."""
    state = files.read(RECORDED / f"{name}.pkl")
    net = model(state, **RECORDINGS[name])
    load_original_state(net, state)
    ours = original_state(net)
    assert list(ours) == list(state)
    assert same(ours, dict(state))
    assert {value.device.type for value in state.values()} == {"cpu"}


def test_the_same_numbers_in_every_format():
    plain, *others = (files.read(RECORDED / f"word_plain{tag}.pkl")
                      for tag in ("", "_cuda_zip", "_cuda_legacy"))
    assert all(same(dict(plain), dict(other)) for other in others)


# -------------------------------------------------------------------------------- what is refused
def refused(net, state, says):
    """One sentence, and the model is as it was."""
    before = values(net)
    with pytest.raises(ValueError, match=says) as caught:
        load_original_state(net, state)
    assert "\n" not in str(caught.value)
    assert same(values(net), before)


@pytest.mark.parametrize(("file", "net", "says"), [
    ({"wnorm": True}, {}, "has tnet.weight1_g: it needs --wnorm"),
    ({}, {"wnorm": True}, "does not have tnet.weight1_g: it must go without --wnorm"),
    ({"n_experts": 2}, {}, "has mixsoft.prior.weight: it needs --n_experts"),
    ({}, {"n_experts": 2}, "does not have .*: it must go without --n_experts"),
    ({"n_experts": 2}, {"n_experts": 3}, r"mixsoft.prior.weight is \(2, 8\) in the file, \(3, 8\)"),
    ({"ntoken": 49}, {}, r"encoder.weight is \(49, 8\) in the file, \(50, 8\) in the model"),
    ({"nhid": 13}, {}, "bias2 is .84,. in the file, .80,. in the model"),
    ({"kernel_size": 3}, {}, r"weight1_raw is \(80, 8, 3\) in the file, \(80, 8, 2\)"),
    ({"tie_weights": False}, {}, "decoder is not its embedding: it needs --no-tied"),
], ids=["wnorm", "no-wnorm", "mixture", "no-mixture", "experts", "words", "nhid", "k3", "untied"])
def test_another_model(file, net, says):
    refused(model(**net), original_state(model(**file)), says)


def test_incomplete_and_foreign_files():
    state = original_state(model())
    refused(model(), {}, "lacks decoder.bias, decoder.weight, encoder.weight, tnet.bias2")
    refused(model(), {k: v for k, v in state.items() if not k.endswith("bias2")},
            "lacks tnet.bias2")
    refused(model(), state | {"other.weight": torch.ones(1)}, "has other.weight, which the model")
    refused(model(), {"format": "trellisnet model 1", "model": state}, "no state_dict")
    refused(model(), {1: torch.ones(1)}, "no state_dict")
    refused(model(), original_state(SequenceClassifier(1, 5, 10, 3)), "has tnet.weight1_g")
