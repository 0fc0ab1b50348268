"""Models leave as graphs of torch's own operations: torch.export and ONNX, compared by number."""

import io
import warnings

import pytest
import torch
from torch import nn

from awd_lstm import RNNModel
from sparse_seq import SparseLSTM, Tagger
from tnn import TnnModel, TnnVit
from trellisnet import TrellisNetLM

T, B, V = 5, 2, 20


class LanguageModel(nn.Module):
    """An RNNModel with its decoder: words, states -> logits, states."""

    def __init__(self, kind):
        super().__init__()
        self.model = RNNModel(kind, V, 8, 12, 2, tie_weights=True, wdrop=0.5)

    def forward(self, words, hidden):
        self.model.reset()  # exported, a QRNN begins a text at each call
        result, hidden = self.model(words, hidden)
        return self.model.decoder(result), hidden


class Trellis(nn.Module):
    """A TrellisNetLM's logits of the last step, and its states."""

    def __init__(self, **options):
        super().__init__()
        self.model = TrellisNetLM(V, 8, 10, 8, 3, **options)

    def forward(self, words, hidden):
        out = self.model(words, hidden)
        return self.model.decode(out.raw[-1]), out.hidden


def rnn(kind):
    model = LanguageModel(kind)
    return model, (torch.randint(V, (T, B)), model.model.init_hidden(B))


def trellis(**options):
    model = Trellis(**options)
    return model, (torch.randint(V, (T, B)), model.model.init_hidden(B))


def tagger():
    words, lengths = torch.randint(V, (T, B)), torch.tensor([T, T - 2])
    return Tagger(V, 8, 6, 4, emb_blocks=2, emb_density=0.6, wdrop=0.2), (words, lengths)


def vit():
    return TnnVit(16, 4, 3, 5, 16, 8, 2, glu_dim=16, depth=2, use_decay=True), \
        (torch.randn(2, 3, 16, 16),)


MODELS = {
    "LSTM": lambda: rnn("LSTM"), "GRU": lambda: rnn("GRU"), "QRNN": lambda: rnn("QRNN"),
    "TrellisNetLM": trellis,
    "TrellisNetLM, mixture": lambda: trellis(n_experts=2, dilation=(1, 2)),
    "SparseLSTM": lambda: (SparseLSTM(8, 12, blocks=3, density=0.5), (torch.randn(T, B, 8),)),
    "Tagger": tagger,
    "TnnModel": lambda: (TnnModel(V, 16, 2), (torch.randint(V, (B, T)),)),
    "TnnModel, both ways": lambda: (TnnModel(V, 16, 1, causal=False), (torch.randint(V, (B, T)),)),
    "TnnVit": vit,
}


SLOW = ("GRU", "TrellisNetLM, mixture", "SparseLSTM", "TnnModel, both ways")


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
                        for name in MODELS])
def case(request):
    torch.manual_seed(5)
    model, inputs = MODELS[request.param]()
    with torch.no_grad():
        return model.eval(), inputs, flat(model(*inputs))


def flat(result):
    return torch.utils._pytree.tree_leaves(result)


def close(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(torch.as_tensor(a), b, rtol=1e-5, atol=1e-6)


def test_torch_export(case):
    model, inputs, wanted = case
    program = torch.export.export(model, inputs)
    assert not any("sequence_papers" in str(node.target) for node in program.graph.nodes)
    close(flat(program.module()(*inputs)), wanted)
    with torch.no_grad():
        close(flat(model(*inputs)), wanted)  # exporting has left no trace in the model


@pytest.mark.slow
def test_onnx(case):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, inputs, wanted = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, inputs, dynamo=True, verbose=False)
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    given = [t.numpy() for t in flat(inputs)]
    names = [each.name for each in session.get_inputs()]
    close(session.run(None, dict(zip(names, given, strict=True))), wanted)
