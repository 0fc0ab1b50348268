"""One update's gradients and one scored chunk, as functions of tensors: what harness.graphs can
record. Between two calls a model keeps its hidden states, and QRNN layers the last input frame.

Notation: T time steps, B batch columns.
"""

from lightning_fabric import Fabric
from torch import Tensor, nn

from awd_lstm.model import Hidden, RNNModel
from awd_lstm.qrnn import QRNNLayer
from awd_lstm.utils import repackage_hidden
from common.splitcross import SplitCrossEntropyLoss
from harness import machine
from harness.graphs import Graphed


class Steps:
    """loss: the model's loss, `loss.model`, `loss.criterion`; step_loss: the same, compiled and
    shared by all processes; graphs: replay what has come before (harness.graphs)."""

    def __init__(self, loss: nn.Module, step_loss: nn.Module, fabric: Fabric, graphs: bool):
        self.model: RNNModel = loss.model
        self.criterion: SplitCrossEntropyLoss = loss.criterion
        self.step_loss, self.fabric = step_loss, fabric
        self._learn = Graphed(self._learned, loss, graphs, trains=True)
        self._score = Graphed(self._scored, loss, graphs)

    def gradients(self, data: Tensor, targets: Tensor, hidden: Hidden, weight: float,
                  rows_of_parts: tuple[Tensor, ...] = ()) -> tuple[Tensor, Tensor, Hidden]:
        """Forward and backward. data (T, B), targets (T*B,) -> loss and cross entropy, numbers in
        the loss's type, and the new hidden, all without a history. rows_of_parts: of the targets,
        see SplitCrossEntropyLoss.

        weight: columns of this process relative to the mean share: processes average their
        gradients as if all had the same."""
        loss, cross_entropy, *carried = self._learn(data, targets, weight, rows_of_parts,
                                                    *self._carried(hidden))
        return loss, cross_entropy, self._put_back(carried)

    def score(self, data: Tensor, targets: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """data (T, B), targets (T*B,) -> mean cross entropy, new hidden."""
        loss, *carried = self._score(data, targets, *self._carried(hidden))
        return loss, self._put_back(carried)

    # --------------------------------------------------------------------------- on tensors alone
    def _learned(self, data: Tensor, targets: Tensor, weight: float,
                 rows_of_parts: tuple[Tensor, ...], *carried) -> tuple:
        loss, cross_entropy, hidden = self.step_loss(data, targets, self._put_back(carried),
                                                     rows_of_parts)
        self.fabric.backward(machine.weighted(loss, weight))
        return loss.detach(), cross_entropy.detach(), *self._carried(repackage_hidden(hidden))

    def _scored(self, data: Tensor, targets: Tensor, *carried) -> tuple:
        output, hidden = self.model(data, self._put_back(carried))
        decoder = self.model.decoder
        loss = self.criterion(decoder.weight, decoder.bias, output, targets)
        return loss, *self._carried(hidden)

    def _frames(self) -> list[QRNNLayer]:
        """The layers that look at the input before."""
        return [rnn for rnn in self.model.rnns if isinstance(rnn, QRNNLayer) and rnn.window > 1]

    def _carried(self, hidden: Hidden) -> list[Tensor]:
        """What the next call goes on from: each layer's states, then the frames: zeros at the
        start of a text."""
        states = [x for h in hidden for x in (h if isinstance(h, tuple) else (h,))]
        columns = states[0].shape[1]
        return [*states, *(
            states[0].new_zeros(1, columns, layer.input_size) if layer.prevX is None
            else layer.prevX for layer in self._frames())]

    def _put_back(self, carried) -> Hidden:
        """Gives the frames to their layers; returns the states as the model takes them."""
        layers, states = self._frames(), list(carried)
        for layer in reversed(layers):
            layer.prevX = states.pop()
        if self.model.rnn_type == "LSTM":
            return list(zip(states[::2], states[1::2], strict=True))
        return states
