"""The model of WikiText-103: TrellisNet with the split softmax."""

from argparse import Namespace

from common.splitcross import SplitCrossEntropyLoss
from trellisnet.lm import TrainingLoss, TrellisNetLM, sizes_and_rates


def default_splits(ntoken: int) -> list[int]:
    """Where the vocabulary is cut: nowhere up to 75,000 words."""
    return [2800, 20000, 76000] if ntoken > 75_000 else []


def build(args: Namespace, ntoken: int) -> TrainingLoss:
    """The model for `ntoken` words and its loss. Raises ValueError for sizes that do not fit."""
    if args.splits is None:
        args.splits = default_splits(ntoken)
    model = TrellisNetLM(ntoken, **sizes_and_rates(args))
    return TrainingLoss(model, SplitCrossEntropyLoss(args.emsize, args.splits), args.aux)
