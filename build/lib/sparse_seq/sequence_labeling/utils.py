"""What a run of the tagger consists of: loss, optimizers, accuracy, and what its files hold."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from harness import machine
from harness.endings import BadInput, bad_input
from harness.keeper import Keeper
from harness.keeper import Progress as Steps
from sparse_seq.sequence_labeling.data import Batch, TaggedCorpus, batches_in_order
from sparse_seq.sequence_labeling.model import Tagger, packed
from sparse_seq.vocabulary import digest
from sparse_seq.weights import FORMAT, load_weights


@dataclass
class Progress(Steps):
    """Where a run stands."""

    batch: int = 0                              # updates in this epoch
    losses: list = field(default_factory=list)  # of this epoch's batches
    best_valid: float = -1.0
    best_epoch: int = 0


class BatchLoss(nn.Module):
    """Cross entropy of a batch; the mean over its tokens, or over `tokens`."""

    def __init__(self, model: Tagger):
        super().__init__()
        self.model = model

    def forward(self, words: Tensor, tags: Tensor, lengths: Tensor, tokens: int = 0) -> Tensor:
        """words, tags (T, B), lengths (B) -> scalar."""
        scores = self.model(words, lengths)
        loss = F.cross_entropy(scores, packed(tags, lengths), reduction="sum")
        return loss / (tokens or len(scores))


@dataclass
class Run:
    """A tagger in training. harness.keeper asks for progress, inputs, state, own and restore."""

    args: Namespace
    keeper: Keeper
    corpus: TaggedCorpus
    model: Tagger
    loss: nn.Module                     # its BatchLoss, compiled and distributed as the flags say
    optimizer: torch.optim.Optimizer
    orders: np.random.RandomState       # draws every epoch's order
    inputs: dict[str, str]
    order: np.ndarray | None = None     # this epoch's batches; None: it has not begun
    progress: Progress = field(default_factory=Progress)

    def state(self) -> dict:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "order": None if self.order is None else torch.from_numpy(self.order),
                "vocabulary": digest(self.corpus.words)}

    def own(self) -> dict:
        return {"generator": machine.generator_state(self.orders)}

    def restore(self, state: dict, own: dict) -> None:
        if state["vocabulary"] != digest(self.corpus.words):
            raise BadInput(f"--resume: the words in {self.args.data} are not those of the run")
        with bad_input("--resume: "):
            load_weights(self.model, state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        self.order = None if state["order"] is None else state["order"].numpy()
        machine.set_generator_state(self.orders, own["generator"])


def model_content(run: Run, valid: float) -> dict:
    """A model file: the weights as they are now, and what is needed to use them."""
    return {"format": FORMAT, "script": "main.py", "model": run.model.state_dict(),
            "words": run.corpus.words, "tags": run.corpus.tags, "epoch": run.progress.epoch,
            "valid_acc": valid}


def make_optimizer(args: Namespace, model: nn.Module, device: torch.device
                   ) -> torch.optim.Optimizer:
    """Adam or SGD with weight decay; no clipping, no schedule."""
    fused = device.type in ("cpu", "cuda")  # one pass over the weights
    if args.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), args.lr, weight_decay=args.l2, fused=fused)
    return torch.optim.SGD(model.parameters(), args.lr, args.momentum, weight_decay=args.l2,
                           fused=fused)


@torch.no_grad()
def accuracy(model: Tagger, sentences: list, batch_size: int, device: torch.device | str = "cpu",
             check: Callable[[], None] = lambda: None) -> float:
    """Correct tokens / all tokens, whatever they are (punctuation and traces included). check is
    called before every batch."""
    was_training = model.training
    model.eval()
    correct, total = [], 0
    for batch in batches_in_order(sentences, batch_size, device):
        check()
        found = model(batch.words, batch.lengths).argmax(-1)
        correct.append((found == packed(batch.tags, batch.lengths)).sum())
        total += len(found)
    model.train(was_training)
    return torch.stack(correct).sum().item() / total


def share_of(fabric: Fabric, batch: Batch) -> Batch:
    """The sentences of this process: every n-th, still by falling length."""
    if fabric.world_size == 1:
        return batch
    own = slice(fabric.global_rank, None, fabric.world_size)
    lengths = batch.lengths[own]
    longest = int(lengths[0])
    return Batch(batch.words[:longest, own], batch.tags[:longest, own], lengths)
