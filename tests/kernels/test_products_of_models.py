"""Where oneDNN is the faster library, it computes every large product of every model, forward and
backward, and the numbers are MKL's to rounding."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from awd_lstm import RNNModel
from awd_lstm.scratch.model import AWD_LSTM, TrainingLoss
from common.splitcross import SplitCrossEntropyLoss
from kernels import cpu
from kernels import product as module
from sparse_seq.language_modeling.model import LanguageModel
from sparse_seq.language_modeling.model import TrainingLoss as SparseLoss
from tnn import TnnLayer
from tnn.im.model import TnnVit
from tnn.lra.model import LraModel
from trellisnet import TrellisNet

LARGE = 3000  # multiplications


class Products(TorchDispatchMode):
    """Counts the large products of either library."""

    def __init__(self):
        super().__init__()
        self.torchs, self.onednns = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        self.onednns += name == "_linear_pointwise"
        if name in ("mm", "addmm", "addmm_"):
            a, b = args[-2:] if name == "mm" else args[1:3]
            if a.numel() * b.shape[1] >= LARGE:
                self.torchs.append((name, tuple(a.shape), tuple(b.shape)))
        return function(*args, **(kwargs or {}))


def words(*shape):
    return torch.randint(30, shape, generator=torch.Generator().manual_seed(1))


def awd(kind):
    model = RNNModel(kind, 30, 16, 24, 2, tie_weights=True, wdrop=0.5)
    criterion = SplitCrossEntropyLoss(16, [])
    return model, lambda: criterion(model.decoder.weight, model.decoder.bias,
                                    model(words(9, 4), model.init_hidden(4))[0], words(9, 4))


def scratch():
    model = AWD_LSTM(30, 16, 24, 2, hoist=True)
    loss = TrainingLoss(model, None, 2, 1)
    return model, lambda: loss(words(9, 12), words(9, 12), model.init_hiddens(12))[0]


def sparse():
    model = LanguageModel(30, 16, 24, nlayers=2, emblocks=2, emdensity=0.7,
                          sparse_mode="sparse_all", sparse_fract=0.8)
    loss = SparseLoss(model, 2, 1)
    return model, lambda: loss(words(9, 20), words(180), model.init_hidden(20))[0]


def trellis():
    model = TrellisNet(16, 24, 16, 3, 2, dropouth=0.2)
    x = torch.randn(9, 6, 16)
    return model, lambda: model(x)[0].square().sum()


def language():
    layer, x = TnnLayer(16, 2, 16, 32), torch.randn(3, 140, 16)
    return layer, lambda: layer(x).square().sum()


def arena():
    backbone = {"mixer": {"_name_": "gtu", "n_heads": 2, "dpb_embedding": 16, "dpb_type": 8},
                "glu": {"_name_": "glu"}, "d_model": 16, "n_layers": 1, "norm": "layer"}
    model = LraModel(backbone, {"mode": "pool"}, 5, vocabulary=30)
    return model, lambda: model(words(4, 64)).square().sum()


def images():
    model = TnnVit(img_size=32, patch_size=4, embed_dim=24, glu_dim=32, depth=2, num_heads=2,
                   rpe_embdding=16, num_classes=10)
    x = torch.randn(3, 3, 32, 32)
    return model, lambda: model(x).square().sum()


MODELS = {"lstm": lambda: awd("LSTM"), "qrnn": lambda: awd("QRNN"), "scratch": scratch,
          "sparse": sparse, "trellis": trellis, "tnn": language, "lra": arena,
          "images": images}


def step(make, faster, monkeypatch):
    monkeypatch.setattr(cpu, "onednn_is_faster", lambda: faster)
    module._onednn_linear.cache_clear()
    torch.manual_seed(0)
    model, loss = make()
    torch.manual_seed(2)  # the dropout masks
    with Products() as seen:
        value = loss()
        value.backward()
    return seen, [value.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", MODELS)
def test_every_large_product_is_onednns(monkeypatch, name):
    monkeypatch.setattr(module, "LARGE", LARGE)
    try:
        fast, ours = step(MODELS[name], True, monkeypatch)
        slow, theirs = step(MODELS[name], False, monkeypatch)
    finally:
        module._onednn_linear.cache_clear()
    assert not fast.torchs
    assert fast.onednns >= len(slow.torchs) > 0 == slow.onednns
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * max(1, b.abs().max().item()))
