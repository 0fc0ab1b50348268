"""The science that the papers share: split cross entropy, (NT-)ASGD, dropouts. Nothing else.

    from common import SplitCrossEntropyLoss, WeightDrop, LockedDropout, embedded_dropout, ASGD
"""

from typing import TYPE_CHECKING

from loading.names import lazily

if TYPE_CHECKING:
    from common.asgd import ASGD, averaged, non_monotone
    from common.dropout import (
        LockedDropout,
        WeightDrop,
        embedded_dropout,
        embedding_dropout,
        locked_dropout,
    )
    from common.splitcross import SplitCrossEntropyLoss, perplexity

__all__ = ["ASGD", "LockedDropout", "SplitCrossEntropyLoss", "WeightDrop", "averaged",
           "embedded_dropout", "embedding_dropout", "locked_dropout", "non_monotone", "perplexity"]

__getattr__, __dir__ = lazily(__name__, {
    "asgd": ("ASGD", "averaged", "non_monotone"),
    "dropout": ("LockedDropout", "WeightDrop", "embedded_dropout", "embedding_dropout",
                "locked_dropout"),
    "splitcross": ("SplitCrossEntropyLoss", "perplexity")})
