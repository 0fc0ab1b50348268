"""The model of word PTB: TrellisNet with one softmax or a mixture of them."""

from argparse import Namespace

from common.splitcross import SplitCrossEntropyLoss
from trellisnet.lm import TrainingLoss, TrellisNetLM, sizes_and_rates


def build(args: Namespace, ntoken: int) -> TrainingLoss:
    """The model for `ntoken` words and its loss. Raises ValueError for sizes that do not fit."""
    model = TrellisNetLM(ntoken, **sizes_and_rates(args), dropoutl=args.dropoutl)
    return TrainingLoss(model, SplitCrossEntropyLoss(args.emsize), args.aux, args.alpha, args.beta)
