"""Weights as DataParallel, torch.compile and other programs leave them load everywhere."""

import copy
import pickle

import pytest
import torch
from torch import nn

from awd_lstm import RNNModel, load_original_state
from awd_lstm.model import config_of_state
from harness import files
from loading.weights import bare_names
from sparse_seq import SparseLSTM, Tagger
from sparse_seq.weights import load_weights as load_sparse
from tnn import TnnModel, TnnVit
from tnn.im.run import load_weights as load_images
from trellisnet import TrellisNetLM
from trellisnet import load_original_state as load_trellis

WRAPPED = {
    "bare": lambda model: model.state_dict(),
    "DataParallel": lambda model: nn.DataParallel(model).state_dict(),
    "compiled": lambda model: {f"_orig_mod.{k}": v for k, v in model.state_dict().items()},
    "both": lambda model: {f"module._orig_mod.{k}": v for k, v in model.state_dict().items()},
}
MODELS = {
    "LSTM": (lambda: RNNModel("LSTM", 11, 4, 5, 2, wdrop=0.5, tie_weights=True),
             load_original_state),
    "QRNN": (lambda: RNNModel("QRNN", 11, 4, 5, 2, tie_weights=True), load_original_state),
    "TrellisNetLM": (lambda: TrellisNetLM(11, 4, 5, 4, 2), load_trellis),
    "SparseLSTM": (lambda: SparseLSTM(6, 6, blocks=2, density=0.5, wdrop=0.5), load_sparse),
    "Tagger": (lambda: Tagger(11, 4, 5, 3, wdrop=0.5), load_sparse),
    "TnnVit": (lambda: TnnVit(8, 4, 3, 2, 8, 8, 2, glu_dim=8, depth=1),
               lambda model, state: load_images(model, state, "--resume x")),
}


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("name", MODELS)
def test_wrapped_weights_load(name, wrapper, tmp_path):
    make, load = MODELS[name]
    trained, fresh = make(), make()
    torch.save({"state_dict": WRAPPED[wrapper](trained), "epoch": 3}, tmp_path / "x.pt")
    assert not same(trained, fresh)
    load(fresh, files.read(tmp_path / "x.pt"))
    assert same(trained, fresh)


def test_sizes_are_read_off_wrapped_weights():
    model = RNNModel("LSTM", 11, 4, 5, 2, tie_weights=True)
    assert config_of_state(nn.DataParallel(model).state_dict()) == config_of_state(
        model.state_dict())


def test_a_prefix_of_some_names_alone_stays():
    assert bare_names({"module.a": 1, "b": 2}) == {"module.a": 1, "b": 2}
    assert bare_names({}) == {}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
                         ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", ["LSTM", "QRNN", "TrellisNetLM", "TnnModel"])
def test_models_are_copied_after_a_training_step(name, copied):
    torch.manual_seed(1)
    model = TnnModel(11, 8, 1) if name == "TnnModel" else MODELS[name][0]()
    words = torch.randint(11, (4, 2))
    given = () if name == "TnnModel" else (model.init_hidden(2),)
    torch.utils._pytree.tree_leaves(model(words, *given))[0].sum().backward()
    model.eval()
    twin = copied(model)
    if name == "QRNN":
        model.reset(), twin.reset()
    assert torch.equal(*(torch.utils._pytree.tree_leaves(m(words, *given))[0]
                         for m in (model, twin)))
