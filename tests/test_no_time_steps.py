"""A sequence without a time step is refused by every network in one sentence, not by an operator
somewhere inside it."""

import pytest
import torch

import awd_lstm
import sparse_seq
import tnn
import trellisnet
from awd_lstm.scratch.model import AWD_LSTM

WORDS, TOKENS = torch.zeros(0, 3, dtype=torch.long), torch.zeros(3, 0, dtype=torch.long)
FRAMES, ROWS = torch.zeros(0, 3, 6), torch.zeros(3, 0, 8)


def of_language_model(model):
    """The call with the model's own zero states."""
    return model(WORDS, model.init_hidden(3))


def from_scratch(hoist):
    model = AWD_LSTM(20, 6, 8, 2, hoist=hoist)
    return model(WORDS, model.init_hiddens(3))


CALLS = {
    **{f"RNNModel {kind}": lambda kind=kind: of_language_model(
        awd_lstm.RNNModel(kind, 20, 6, 8, 2)) for kind in awd_lstm.MODELS},
    **{f"AWD_LSTM, hoist {hoist}": lambda hoist=hoist: from_scratch(hoist)
       for hoist in (False, True)},
    **{f"QRNNLayer, window {window}": lambda window=window: awd_lstm.QRNNLayer(
        6, 8, window=window)(FRAMES) for window in (1, 2)},
    "QRNN": lambda: awd_lstm.QRNN(6, 8, 2)(FRAMES, torch.zeros(2, 3, 8)),
    "TrellisNet": lambda: trellisnet.TrellisNet(6, 8, 4, 2)(FRAMES),
    "TrellisNetLM": lambda: trellisnet.TrellisNetLM(20, 6, 8, 6, 2)(WORDS),
    "SequenceClassifier": lambda: trellisnet.SequenceClassifier(1, 8, 4, 2)(torch.zeros(3, 1, 0)),
    "SparseLSTM": lambda: sparse_seq.SparseLSTM(6, 8, blocks=2, density=0.5)(FRAMES),
    "LanguageModel, dense": lambda: of_language_model(
        sparse_seq.LanguageModel(20, 6, 8, nlayers=2)),
    "LanguageModel, sparse": lambda: of_language_model(sparse_seq.LanguageModel(
        20, 6, 8, nlayers=2, sparse_mode="sparse_all", sparse_fract=0.7)),
    "Tagger": lambda: sparse_seq.Tagger(20, 6, 8, 4)(WORDS, torch.zeros(3, dtype=torch.long)),
    **{name: lambda name=name: getattr(tnn, name)(8, 1)(ROWS)
       for name in ("Gtu", "GtuV1", "GtuV3")},
    **{f"TnnLayer, {mode}": lambda mode=mode: tnn.TnnLayer(8, 1, 32, 8, causal=True).train(
        mode == "training")(ROWS) for mode in ("training", "evaluation")},
    "TnnModel": lambda: tnn.TnnModel(20, 8, 1)(TOKENS),
    "TnnBlock": lambda: tnn.TnnBlock(8)(ROWS),
    "LraModel": lambda: tnn.LraModel(
        {"mixer": {"_name_": "gtu", "n_heads": 2, "dpb_embedding": 16, "dpb_type": 8},
         "glu": {"_name_": "glu"}, "d_model": 16, "n_layers": 1, "norm": "layer"},
        {"mode": "pool"}, 5, vocabulary=30)(TOKENS),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_time_step_is_refused(name):
    with torch.no_grad() if "evaluation" in name else torch.enable_grad(), pytest.raises(
            ValueError, match=r"^\w+ takes .*at least (1|one position), (not|got) .*\(.*0.*\)"):
        CALLS[name]()
