"""Accuracy, the optimisers, and the run that main.py steps through."""

from argparse import Namespace
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from sparse_seq import files, runs
from sparse_seq.sequence_labeling.data import Batch, TaggedCorpus, batches_in_order
from sparse_seq.sequence_labeling.model import Tagger, packed
from sparse_seq.vocabulary import digest


@dataclass
class Progress:
    """Where a run stands."""

    epoch: int = 1
    step: int = 0                  # updates so far, over all epochs
    batch: int = 0                 # updates in this epoch
    losses: list = field(default_factory=list)      # of this epoch's batches
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
    """What is trained on what, and how far it is."""

    args: Namespace
    fabric: Fabric
    corpus: TaggedCorpus
    model: Tagger
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    order_rng: np.random.RandomState
    folder: Path
    journal: runs.Journal = None
    stop: runs.StopSignals = None
    order: np.ndarray | None = None               # this epoch's batches
    progress: Progress = field(default_factory=Progress)


def make_optimizer(args: Namespace, model: nn.Module, device: torch.device
                   ) -> torch.optim.Optimizer:
    """Adam or SGD with weight decay; no clipping, no schedule."""
    fused = device.type in ("cpu", "cuda")  # one pass over the weights
    if args.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), args.lr, weight_decay=args.l2, fused=fused)
    return torch.optim.SGD(model.parameters(), args.lr, args.momentum, weight_decay=args.l2,
                           fused=fused)


@torch.no_grad()
def accuracy(model: Tagger, sentences: list, batch_size: int, device: torch.device | str = "cpu"
             ) -> float:
    """Correct tokens / all tokens, whatever they are (punctuation and traces included)."""
    was_training = model.training
    model.eval()
    correct = total = 0
    for batch in batches_in_order(sentences, batch_size, device):
        found = model(batch.words, batch.lengths).argmax(-1)
        correct += (found == packed(batch.tags, batch.lengths)).sum().item()
        total += len(found)
    model.train(was_training)
    return correct / total


def share_of(fabric: Fabric, batch: Batch) -> Batch:
    """The sentences of this process: every n-th, still by falling length."""
    if fabric.world_size == 1:
        return batch
    own = slice(fabric.global_rank, None, fabric.world_size)
    lengths = batch.lengths[own]
    longest = int(lengths[0])
    return Batch(batch.words[:longest, own], batch.tags[:longest, own], lengths)


def stop_unless_finite(run: Run, loss: Tensor) -> None:
    """Ends the run before the update if the loss or a gradient is not a number."""
    norm = torch.nn.utils.get_total_norm(
        [p.grad for p in run.model.parameters() if p.grad is not None])
    if not torch.isfinite(norm + loss.detach()):
        raise FloatingPointError(
            f"{runs.not_finite(run.model)} is not finite at epoch {run.progress.epoch}, step "
            f"{run.progress.step}; stopped before the update. Files written so far are good; a "
            "smaller --lr may help")


# ---------------------------------------------------------------------------------------- files
def save_model(run: Run, valid: float) -> None:
    """The model that is best on the validation part so far, with what is needed to use it."""
    if run.fabric.is_global_zero:
        files.write(run.folder / "model.pt", {
            "script": "main.py", "args": runs.plain(run.args), "model": run.model.state_dict(),
            "words": run.corpus.words, "tags": run.corpus.tags, "epoch": run.progress.epoch,
            "valid_acc": valid})


def save_state(run: Run) -> None:
    """Everything that the next update depends on."""
    parts = runs.of_all_processes(run.fabric, runs.random_state(run.fabric, run.order_rng))
    if run.fabric.is_global_zero:
        files.write(run.folder / "state.pt", {
            "script": "main.py", "args": runs.plain(run.args), "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(), "progress": asdict(run.progress),
            "order": None if run.order is None else torch.from_numpy(run.order),
            "vocabulary": digest(run.corpus.words), "processes": parts,
            "save": str(run.folder.absolute()),
            "metrics": str(run.journal.folder), "metrics_size": run.journal.size},
            keep_previous=True)


def restore(run: Run, state: dict) -> None:
    """Puts a run where the training state says."""
    if state["vocabulary"] != digest(run.corpus.words):
        raise runs.BadInput(f"--resume: the words in {run.corpus.folder} are not those of the run")
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.progress = Progress(**state["progress"])
    run.order = None if state["order"] is None else state["order"].numpy()
    runs.restore_random_state(state["processes"][run.fabric.global_rank], run.order_rng)
