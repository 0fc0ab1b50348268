"""Weight drop: that it really acts, on exactly the entries it drops, and that nothing else changes.

Notation: T time, B batch, H features.
"""

import copy
import io

import pytest
import torch
from torch import nn

from awd_lstm.model import LSTM
from awd_lstm.qrnn import QRNNLayer
from common.dropout import WeightDrop, dropout_mask
from tests.common.chance import P, assert_draws_nothing, assert_rate

pytestmark = pytest.mark.usefixtures("seeded")

T, B, INPUTS, H = 5, 2, 7, 11


class QRNNLinear(nn.Module):
    """A QRNN layer with weight drop on its linear map, as RNNModel builds it, seen as a WeightDrop
    whose module is run by the layer."""

    def __init__(self, p, variational=False):
        super().__init__()
        self.layer = QRNNLayer(INPUTS, H)
        self.layer.linear = WeightDrop(self.layer.linear, ["weight"], p, variational)

    def forward(self, x):
        return self.layer(x)


def wrapped(kind, p, variational=False):
    """The module to run, which contains exactly one WeightDrop."""
    if kind == "QRNN":
        return QRNNLinear(p, variational)
    layer = {"nn.LSTM": nn.LSTM, "nn.GRU": nn.GRU, "LSTM": LSTM}[kind](INPUTS, H)
    return WeightDrop(layer, ["weight_hh_l0"], p, variational)


def drop_of(module) -> WeightDrop:
    return next(m for m in module.modules() if isinstance(m, WeightDrop))


def raw_of(module) -> nn.Parameter:
    return next(p for name, p in module.named_parameters() if name.endswith("_raw"))


def output(module, x):
    if isinstance(module, WeightDrop) and isinstance(module.module, LSTM):
        zeros = x.new_zeros(1, x.shape[1], H)
        return module(x, (zeros, zeros))[0]
    return module(x)[0]


def undropped(kind, module):
    """The same layer, never wrapped, with the raw weights."""
    plain = QRNNLayer(INPUTS, H) if kind == "QRNN" else (
        nn.GRU if kind == "nn.GRU" else nn.LSTM)(INPUTS, H)
    plain.load_state_dict({
        name.removeprefix("layer.").replace("module.", "").removesuffix("_raw"): tensor
        for name, tensor in module.state_dict().items()})
    return plain.to(raw_of(module).dtype)


def through_a_file(module):
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    fresh = copy.deepcopy(module)
    for p in fresh.parameters():
        nn.init.zeros_(p)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


def used(module, steps):
    """After forward passes in the given modes, each with its backward pass if training."""
    for training in steps:
        module.train(training)
        out = output(module, torch.randn(T, B, INPUTS, dtype=raw_of(module).dtype))
        if training:
            out.sum().backward()
    module.zero_grad()
    return module.train()


HISTORIES = {
    "fresh": lambda m: m,
    "to": lambda m: used(m, [True]).to("cpu"),
    "double": lambda m: used(m, [True]).double(),
    "save-load": lambda m: through_a_file(used(m, [True, False])),
    "deepcopy": lambda m: copy.deepcopy(used(m, [True])),
    "train-eval-train": lambda m: used(m, [True, False, True]),
}
KINDS = ["nn.LSTM", "nn.GRU", "LSTM", "QRNN"]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_history = pytest.mark.parametrize("history", HISTORIES)
both_forms = pytest.mark.parametrize("variational", [False, True], ids=["entries", "rows"])


@every_kind
@every_history
def test_weight_drop_changes_the_recurrence(kind, history):
    """S2: in training the dropped matrix is really in use. The recurrent matrix does not touch the
    first step (its state is zero), and changes every later one."""
    module = HISTORIES[history](wrapped(kind, 0.9)).train()
    x = torch.randn(T, B, INPUTS, dtype=raw_of(module).dtype)
    first, second = output(module, x), output(module, x)
    if kind == "QRNN":  # there the whole linear map is dropped
        assert (first != second).flatten(1).any(1).all()
    else:
        torch.testing.assert_close(first[0], second[0])
        changed = (first[1:] - second[1:]).abs().flatten(1).max(1).values
        assert (changed > 1e-4).all(), changed


@every_kind
@every_history
@both_forms
def test_weight_drop_off_in_eval(kind, history, variational):
    """S2, S12: evaluation uses the raw weights, and draws no random number."""
    module = HISTORIES[history](wrapped(kind, 0.9, variational)).eval()
    x = torch.randn(T, B, INPUTS, dtype=raw_of(module).dtype)
    out = output(module, x)
    torch.testing.assert_close(out, undropped(kind, module)(x)[0])
    assert torch.equal(out, output(module, x))
    assert_draws_nothing(lambda: output(module, x))


@every_kind
def test_weight_drop_zero_is_the_plain_layer(kind):
    module = wrapped(kind, 0).train()
    x = torch.randn(T, B, INPUTS)
    torch.testing.assert_close(output(module, x), undropped(kind, module)(x)[0])
    assert_draws_nothing(lambda: output(module, x))


@every_kind
@both_forms
def test_weight_drop_equals_the_masked_matrix(kind, variational):
    """S8: the output is that of a layer whose matrix is raw * mask, the mask drawn in one go."""
    module = wrapped(kind, 0.5, variational).train()
    x, raw = torch.randn(T, B, INPUTS), raw_of(module)
    plain = undropped(kind, module)
    torch.manual_seed(3)
    out = output(module, x)
    torch.manual_seed(3)
    shape = (len(raw), 1) if variational else tuple(raw.shape)
    matrix = plain.linear.weight if kind == "QRNN" else plain.weight_hh_l0
    with torch.no_grad():
        matrix.mul_(dropout_mask(raw, shape, 0.5))
    torch.testing.assert_close(out, plain(x)[0], rtol=1e-5, atol=1e-6)


@every_kind
@every_history
@both_forms
def test_weight_drop_gradient_exactly_where_kept(kind, history, variational):
    """S1: the raw weight is trained through the mask; an entry that was dropped gets nothing."""
    module = HISTORIES[history](wrapped(kind, 0.5, variational)).train()
    raw = raw_of(module)
    torch.manual_seed(5)
    out = output(module, torch.randn(T, B, INPUTS, dtype=raw.dtype))
    (out * torch.randn_like(out)).sum().backward()
    torch.manual_seed(5)
    torch.randn(T, B, INPUTS, dtype=raw.dtype)
    shape = (len(raw), 1) if variational else tuple(raw.shape)
    kept = (dropout_mask(raw, shape, 0.5) != 0).expand_as(raw)
    assert torch.equal(raw.grad != 0, kept)
    before = raw.detach().clone()
    torch.optim.SGD(module.parameters(), 0.1).step()
    assert torch.equal(raw != before, kept)


@every_kind
def test_weight_drop_rate_and_rows(kind):
    """Seen through the gradient: 1-p of the entries, or whole rows with variational=True."""
    for variational in (False, True):
        module = wrapped(kind, P, variational).train()
        raw, kept = raw_of(module), []
        for _ in range(20):
            module.zero_grad()
            out = output(module, torch.randn(T, B, INPUTS))
            (out * torch.randn_like(out)).sum().backward()
            kept.append(raw.grad != 0)
        if variational:
            assert all((k.all(1) == k.any(1)).all() for k in kept)
            kept = [k[:, 0] for k in kept]
        assert_rate(torch.stack(kept), P)


@every_kind
@pytest.mark.parametrize("p", [0, 0.5])
def test_weight_drop_names_never_change(kind, p):
    """S3: a forward pass registers nothing; an optimiser made later sees the same parameters."""
    module = wrapped(kind, p)

    def names():
        return ([(name, id(value)) for name, value in module.named_parameters()],
                list(module.state_dict()), [name for name, _ in module.named_buffers()])

    at_first = names()
    assert sum(name.endswith("_raw") for name in at_first[1]) == 1
    for steps in ([True], [False], [True, False, True]):
        used(module, steps)
        assert names() == at_first


@every_kind
def test_weight_drop_rate_may_change(kind):
    module, x = wrapped(kind, 0.9).train(), torch.randn(T, B, INPUTS)
    drop_of(module).dropout = 0
    assert torch.equal(output(module, x), output(module, x))


def test_weight_drop_survives_an_error_inside():
    """A failed forward pass leaves no stale matrix behind."""
    module = wrapped("nn.LSTM", 0.5)
    with pytest.raises(RuntimeError):
        module(torch.randn(T, B, INPUTS + 1))
    assert module.module.weight_hh_l0 is None
    copy.deepcopy(module)


@pytest.mark.parametrize("p", [-0.1, 1, 1.5, float("nan")])
def test_weight_drop_refuses_a_rate(p):
    with pytest.raises(ValueError, match="dropout must be in"):
        WeightDrop(nn.LSTM(2, 2), ["weight_hh_l0"], p)
