"""A language model small enough to check by hand, in double precision.

V words, E embedding size, L rows, N columns.
"""

import torch

from common.splitcross import SplitCrossEntropyLoss
from trellisnet.lm import TrainingLoss, TrellisNetLM

V, E, L, N = 19, 6, 10, 5
RATES = {"emb_dropout": 0.2, "dropouti": 0.45, "wdrop": 0.26, "dropouth": 0.28, "dropout": 0.4,
         "dropoutl": 0.35}


def model(seed=0, **changes):
    torch.manual_seed(seed)
    config = {"ntoken": V, "ninp": E, "nhid": 7, "nout": E, "nlevels": 4, "wnorm": False,
              "aux_frequency": 2}
    made = TrellisNetLM(**config | changes).double()
    for p in made.tnet.parameters():  # larger than at the start: every term counts
        p.data.mul_(30)
    return made


def words(rows=L, columns=N, seed=1):
    return torch.randint(V, (rows, columns), generator=torch.Generator().manual_seed(seed))


def loss_of(net, splits=(), **weights):
    return TrainingLoss(net, SplitCrossEntropyLoss(net.encoder.embedding_dim, splits).double(),
                        **weights)
