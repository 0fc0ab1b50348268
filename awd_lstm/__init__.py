"""LSTM / GRU / QRNN language-model toolkit (Merity, Keskar, Socher 2017 and 2018).

    from awd_lstm import RNNModel, QRNN, QRNNLayer
"""

from typing import TYPE_CHECKING

from loading.names import lazily

if TYPE_CHECKING:
    from awd_lstm.model import RNNModel, load_original_state
    from awd_lstm.qrnn import QRNN, ForgetMult, QRNNLayer

__all__ = ["QRNN", "ForgetMult", "QRNNLayer", "RNNModel", "load_original_state"]

MODELS = ("LSTM", "QRNN", "GRU")  # what --model and RNNModel's rnn_type take

__getattr__, __dir__ = lazily(__name__, {
    "model": ("RNNModel", "load_original_state"), "qrnn": ("QRNN", "ForgetMult", "QRNNLayer")})
