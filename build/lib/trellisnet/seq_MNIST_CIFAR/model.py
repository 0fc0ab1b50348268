"""The classifier: a TrellisNet over the pixels, a linear layer on its output at the last one."""

from argparse import Namespace

import torch.nn.functional as F
from torch import Tensor, nn

from common.dropout import check_rate, dropout_mask
from trellisnet.trellisnet import TrellisNet


class SequenceClassifier(nn.Module):
    """Pixels (N, channels, L) -> log-probabilities of the classes (N, nout).

    Args as TrellisNet's, but nhid does not count the `nout` output channels; `dropouti` acts on
    the pixels and `dropout` on the logits, entry by entry.
    """

    def __init__(self, ninp: int, nhid: int, nout: int, nlevels: int, kernel_size: int = 2,
                 dilation=(1,), dropout: float = 0, dropouti: float = 0, dropouth: float = 0,
                 wdrop: float = 0, temporalwdrop: bool = True, wnorm: bool = True):
        super().__init__()
        check_rate("dropout", dropout)
        check_rate("dropouti", dropouti)
        self.dropout, self.dropouti = dropout, dropouti
        self.tnet = TrellisNet(ninp, nhid + nout, nout, nlevels, kernel_size, dropouth, wnorm,
                               0, dilation, wdrop, temporalwdrop)
        self.linear = nn.Linear(nout, nout)

    def forward(self, pixels: Tensor, dropout_in_eval: bool = False) -> Tensor:
        """dropout_in_eval: the original never turned the dropout of pixels and logits off."""
        dropping = self.training or dropout_in_eval
        if dropping and self.dropouti:
            pixels = pixels * dropout_mask(pixels, tuple(pixels.shape), self.dropouti)
        output, _, _ = self.tnet(pixels.permute(2, 0, 1), start=pixels.shape[2] - 1)
        logits = self.linear(output[-1])
        if dropping and self.dropout:
            logits = logits * dropout_mask(logits, tuple(logits.shape), self.dropout)
        return F.log_softmax(logits, dim=-1)


class Classification(nn.Module):
    """Pixels (N, channels, L) and labels (N,) -> mean negative log-likelihood."""

    def __init__(self, model: SequenceClassifier):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, labels: Tensor) -> Tensor:
        return F.nll_loss(self.model(pixels), labels)


def build(args: Namespace, channels: int) -> Classification:
    """The classifier of ten classes. Raises ValueError for sizes that do not fit."""
    return Classification(SequenceClassifier(
        channels, args.nhid, 10, args.nlevels, args.ksize, args.dilation, args.dropout,
        args.dropouti, args.dropouth, args.wdrop, args.temporalwdrop, args.wnorm))
