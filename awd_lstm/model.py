"""AWD-LSTM: a stack of LSTM, GRU or QRNN layers with five dropouts and a tied decoder.

Merity, Keskar, Socher 2017 (arXiv 1708.02182). Parameter names, initialisation and the order in
which random numbers are drawn are the original's.

Notation: T time, B batch, V vocabulary, E embedding size, H hidden size of a layer, L layers.
"""

import torch
from torch import Tensor, nn

from awd_lstm import MODELS
from awd_lstm.qrnn import QRNNLayer
from common.dropout import WeightDrop, check_rate, embedding_dropout, locked_dropout
from kernels.cudnn import GRU
from kernels.lstm import LSTM
from loading.weights import bare_names

Hidden = list  # per layer: (h, c) for LSTM, h for GRU, c for QRNN; each tensor (1, B, H)


class RNNModel(nn.Module):
    """Embedding, L recurrent layers, decoder.

    Args:
        rnn_type: "LSTM", "QRNN" or "GRU".
        ntoken, ninp, nhid, nlayers: V, E, H and L. With tied weights the last layer has size E.
        dropout: locked dropout on the last layer's output.
        dropouth: locked dropout between layers.
        dropouti: locked dropout on the embedded input.
        dropoute: whole-word dropout in the embedding.
        wdrop: weight drop on the recurrent matrices (QRNN: on each layer's whole linear map).
        tie_weights: decoder.weight is encoder.weight (Inan et al. 2016; Press & Wolf 2016).
        last_word_padding: parity switch; the original's lookup took the last word for padding, so
            its vector got no gradient from the input side.

    The decoder is not applied by forward: the loss needs its weight and bias, not V logits a token.
    """

    def __init__(self, rnn_type: str, ntoken: int, ninp: int, nhid: int, nlayers: int,
                 dropout: float = 0.5, dropouth: float = 0.5, dropouti: float = 0.5,
                 dropoute: float = 0.1, wdrop: float = 0, tie_weights: bool = False,
                 last_word_padding: bool = False):
        super().__init__()
        if rnn_type not in MODELS:
            raise ValueError(f"unknown model {rnn_type!r}; choose from {', '.join(MODELS)}")
        rates = {"dropout": dropout, "dropouth": dropouth, "dropouti": dropouti,
                 "dropoute": dropoute, "wdrop": wdrop}
        for name, rate in rates.items():
            check_rate(name, rate)
        self.rnn_type, self.ntoken, self.ninp = rnn_type, ntoken, ninp
        self.nhid, self.nlayers, self.tie_weights = nhid, nlayers, tie_weights
        self.dropout, self.dropouth, self.dropouti = dropout, dropouth, dropouti
        self.dropoute, self.wdrop = dropoute, wdrop
        self.padding_idx = ntoken - 1 if last_word_padding else None

        self.encoder = nn.Embedding(ntoken, ninp)
        self.sizes = [nhid] * (nlayers - 1) + [ninp if tie_weights else nhid]
        inputs = [ninp] + self.sizes[:-1]
        self.rnns = nn.ModuleList(
            self._layer(i, size_in, size) for i, (size_in, size)
            in enumerate(zip(inputs, self.sizes, strict=True)))
        # Drawn even when tied, as in the original: it moves the random stream.
        self.decoder = nn.Linear(nhid, ntoken)
        if tie_weights:
            self.decoder.weight = self.encoder.weight
        self.init_weights()

    def _layer(self, index: int, size_in: int, size: int) -> nn.Module:
        if self.rnn_type == "QRNN":
            # Only the first layer looks at two words at a time. Its weights are wrapped even at
            # wdrop 0, so that all QRNN checkpoints have the original's key names.
            qrnn = QRNNLayer(size_in, size, save_prev_x=True, window=2 if index == 0 else 1)
            qrnn.linear = WeightDrop(qrnn.linear, ["weight"], dropout=self.wdrop)
            return qrnn
        layer = (LSTM if self.rnn_type == "LSTM" else GRU)(size_in, size)
        return WeightDrop(layer, ["weight_hh_l0"], self.wdrop) if self.wdrop else layer

    def config(self) -> dict:
        """The constructor's arguments, as plain values: RNNModel(**model.config()) is alike."""
        names = ("rnn_type", "ntoken", "ninp", "nhid", "nlayers", "dropout", "dropouth",
                 "dropouti", "dropoute", "wdrop", "tie_weights")
        return {name: getattr(self, name) for name in names} | {
            "last_word_padding": self.padding_idx is not None}

    def init_weights(self) -> None:
        """Uniform(-0.1, 0.1) for both matrices (the tied one is drawn twice), zero decoder bias."""
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)

    def reset(self) -> None:
        """Forgets the QRNN layers' last input frames (start of a text)."""
        if self.rnn_type == "QRNN":
            for layer in self.rnns:
                layer.reset()

    def init_hidden(self, batch_size: int) -> Hidden:
        """Zero states, with the parameters' dtype and device."""
        def zeros(size: int) -> Tensor:
            return self.encoder.weight.new_zeros(1, batch_size, size)
        if self.rnn_type == "LSTM":
            return [(zeros(size), zeros(size)) for size in self.sizes]
        return [zeros(size) for size in self.sizes]

    def set_dropout(self, dropout: float, dropouth: float, dropouti: float, dropoute: float,
                    wdrop: float) -> None:
        """Changes all five rates of a built model. ValueError if weight drop is asked of plain
        recurrent layers (a model built with wdrop 0 has no place for it)."""
        wrapped = [m for m in self.modules() if isinstance(m, WeightDrop)]
        if wdrop and not wrapped:
            raise ValueError("this model was built with --wdrop 0 and cannot take --wdrop now")
        self.dropout, self.dropouth, self.dropouti = dropout, dropouth, dropouti
        self.dropoute, self.wdrop = dropoute, wdrop
        for module in wrapped:
            module.dropout = wdrop

    def forward(self, words: Tensor, hidden: Hidden, return_h: bool = False):
        """words (T, B) int64, hidden as from init_hidden.

        Returns result (T*B, H_last) after the output dropout and the new hidden; with return_h also
        the layers' raw outputs and their dropped outputs, lists of L tensors (T, B, H). Raises
        ValueError for no time step.
        """
        if words.shape[0] == 0:
            raise ValueError(f"RNNModel takes words (T, B), T at least 1, not {tuple(words.shape)}")
        # Masks are drawn in the original's order: word mask, input mask, then each layer's weight
        # mask and its output mask. So a seeded run on the CPU repeats the original's numbers.
        x = embedding_dropout(self.encoder, words, self.dropoute, self.training, self.padding_idx)
        x = locked_dropout(x, self.dropouti, self.training)
        new_hidden, raw_outputs, outputs = [], [], []
        for i, rnn in enumerate(self.rnns):
            raw, h = rnn(x, hidden[i])
            rate = self.dropout if i == self.nlayers - 1 else self.dropouth
            x = locked_dropout(raw, rate, self.training)
            new_hidden.append(h)
            raw_outputs.append(raw)
            outputs.append(x)
        result = x.reshape(-1, x.shape[-1])                 # (T*B, H_last)
        if return_h:
            return result, new_hidden, raw_outputs, outputs
        return result, new_hidden


# ------------------------------------------------------------------------- the original's weights
def _plain_key(key: str) -> str:
    """A key's name without weight drop: rnns.0.module.weight_hh_l0_raw -> rnns.0.weight_hh_l0."""
    return key.replace(".module.", ".").removesuffix("_raw")


def _plain_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state under the key names that it would have without weight drop and wrappers."""
    state = bare_names(state)
    # Sorted so that a _raw entry comes after its alias and wins.
    return {_plain_key(key): state[key] for key in sorted(state, key=lambda k: k.endswith("_raw"))}


def load_original_state(model: RNNModel, state: dict[str, Tensor]) -> None:
    """Loads a state_dict under the original's key names, made with or without weight drop.

    Keys of the two forms (`weight_hh_l0`, `module.weight_hh_l0_raw`) are translated to this
    model's; an alias next to a `_raw` key, which recent PyTorch wrote, is ignored.
    Raises ValueError naming the first missing, unexpected or misshapen entry.
    """
    own = model.state_dict()
    plain = _plain_keys(state)
    renamed = {}
    for key, tensor in own.items():
        name = _plain_key(key)
        if name not in plain:
            raise ValueError(f"the weights lack {key}")
        found = plain.pop(name)
        if found.shape != tensor.shape:
            raise ValueError(f"{key} is {tuple(found.shape)} in the weights and "
                             f"{tuple(tensor.shape)} in this model")
        renamed[key] = found
    if plain:
        raise ValueError(f"the weights hold {next(iter(plain))}, which this model does not have")
    model.load_state_dict(renamed)


def config_of_state(state: dict[str, Tensor]) -> dict:
    """Constructor arguments that an original's bare state_dict reveals (all but the dropouts).
    Raises ValueError if it is of no model of this toolkit."""
    keys = _plain_keys(state)
    recurrent = {"rnns.0.bias_hh_l0", "rnns.0.linear.bias"}
    if "encoder.weight" not in keys or not keys.keys() & recurrent:
        raise ValueError("these are not the weights of an LSTM, GRU or QRNN of this toolkit")
    nlayers = 1 + max(int(k.split(".")[1]) for k in keys if k.startswith("rnns."))
    ntoken, ninp = keys["encoder.weight"].shape
    # Tied matrices are saved under both names; nothing else says that they are one.
    tied = torch.equal(keys.get("decoder.weight", keys["encoder.weight"]), keys["encoder.weight"])
    if "rnns.0.linear.bias" in keys:
        kind, size = "QRNN", len(keys["rnns.0.linear.bias"]) // 3
    else:
        rows, size = keys["rnns.0.weight_hh_l0"].shape
        kind = "LSTM" if rows == 4 * size else "GRU"
    # A single tied layer has size E whatever nhid was; E itself rebuilds the same shapes.
    return {"rnn_type": kind, "ntoken": ntoken, "ninp": ninp, "nhid": size, "nlayers": nlayers,
            "tie_weights": tied}


def default_splits(ntoken: int) -> list[int]:
    """Where a vocabulary of `ntoken` words is cut for the split softmax: nowhere up to 75,000."""
    if ntoken > 500_000:
        return [4200, 35000, 180000]   # One Billion Word: head, about 40 %, 40 % of the tokens
    if ntoken > 75_000:
        return [2800, 20000, 76000]    # WikiText-103
    return []
