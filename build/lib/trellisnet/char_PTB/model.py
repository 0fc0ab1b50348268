"""The model of character PTB."""

from argparse import Namespace

from common.splitcross import SplitCrossEntropyLoss
from trellisnet.lm import TrainingLoss, TrellisNetLM, sizes_and_rates


def build(args: Namespace, ntoken: int) -> TrainingLoss:
    """The model for `ntoken` characters and its loss. Raises ValueError for sizes that do not
    fit."""
    model = TrellisNetLM(ntoken, **sizes_and_rates(args))
    return TrainingLoss(model, SplitCrossEntropyLoss(args.emsize), args.aux)
