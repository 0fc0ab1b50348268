"""LSTM / GRU / QRNN language-model toolkit (Merity, Keskar, Socher 2017 and 2018).

    from awd_lstm import RNNModel, QRNN, QRNNLayer

The three are looked up when they are first asked for: `import awd_lstm` imports no torch, so that
the scripts answer -h at once.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from awd_lstm.model import RNNModel
    from awd_lstm.qrnn import QRNN, QRNNLayer

__all__ = ["QRNN", "QRNNLayer", "RNNModel"]

MODELS = ("LSTM", "QRNN", "GRU")  # what --model and RNNModel's rnn_type take

_FILES = {"RNNModel": "awd_lstm.model", "QRNN": "awd_lstm.qrnn", "QRNNLayer": "awd_lstm.qrnn"}


def __getattr__(name: str):
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_FILES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
