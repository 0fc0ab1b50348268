"""What a run on one task consists of, and what of it is saved.

Everything that the next update depends on is in the training state, so that a resumed run gives,
on the CPU, the same bits as one that never stopped.
"""

import math
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from harness import files, keeper, machine
from harness.endings import BadInput, bad_input
from harness.graphs import Graphed
from harness.inputs import say_if_state
from harness.keeper import Keeper
from loading.weights import bare_names
from tnn.lra.tasks.task import Task

SCRIPT = "tnn/lra/main.py"
MODEL_FORMAT = "tnn lra model 1"


@dataclass
class Progress(keeper.Progress):
    """batch: backward passes done in this epoch; loss, hits, seen, seconds: sums over them, of this
    process; best: epoch, val and test accuracy (percent) of the best epoch; last: scores of the
    last one; max_test: the greatest test accuracy."""

    batch: int = 0
    loss: float = 0.0
    hits: int = 0
    seen: int = 0
    seconds: float = 0.0
    best: dict | None = None
    last: dict | None = None
    max_test: float = 0.0

    def begin_next_epoch(self) -> None:
        self.epoch += 1
        self.batch = self.hits = self.seen = 0
        self.loss = self.seconds = 0.0


@dataclass
class Run:
    """net is the model, compiled and in DistributedDataParallel as the flags say: to be called for
    every forward that has a backward. gradients: main.gradients, on a GPU possibly a recording."""

    args: Namespace
    keeper: Keeper
    task: Task
    model: nn.Module
    net: nn.Module
    optimizer: torch.optim.Optimizer
    progress: Progress
    last_loss: float = math.nan     # of the last batch that has been read
    gradients: Graphed = field(init=False)

    def count(self, samples: int, loss: float, hits: float) -> None:
        """One more batch, with its mean loss."""
        p, self.last_loss = self.progress, loss
        p.loss, p.hits, p.seen = p.loss + loss * samples, p.hits + int(hits), p.seen + samples

    @property
    def fabric(self):
        return self.keeper.fabric

    @property
    def inputs(self) -> dict[str, str]:
        return self.task.inputs

    def epoch_share(self) -> float:
        """How far the run is in its epoch, from 0 to 1."""
        return self.progress.batch * self.args.batch_size / len(self.task.train)

    def state(self) -> dict:
        scaler = machine.scaler_of(self.fabric)
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler else {}, "itos": self.task.itos}

    def own(self) -> dict:
        return {}

    def restore(self, state: dict, own: dict) -> None:
        if state["itos"] != self.task.itos:
            raise BadInput("--resume: the tokens of --data are not those of that run")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        scaler = machine.scaler_of(self.fabric)
        if scaler and state.get("scaler"):
            scaler.load_state_dict(state["scaler"])


def load_weights(model: nn.Module, path: str, itos: list[str] | None) -> None:
    """The weights of a model file of ours, or of a checkpoint of the original.
    itos: the tokens, which must be those of the model file. Raises BadInput."""
    with bad_input("--load: "):
        content = files.read(path)
    say_if_state(path, content)
    if content.get("itos") not in (None, itos):
        raise BadInput(f"--load {path}: the tokens of --data are not those of that model")
    try:
        model.load_state_dict(bare_names(content.get("model") or content))
    except (RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadInput(f"--load {path} does not fit the flags: {reason}") from error


def upgrade(content: dict) -> dict:
    """A training state of release 0.1 as one of today."""
    if content.get("format") != "tnn lra training state 1":
        return content
    args, progress = content["args"], content["progress"]
    return content | {
        "format": keeper.STATE_FORMAT, "script": SCRIPT, "inputs": None, "log_size": None,
        "save": str(Path(args["save"]).absolute()), "best": "" if progress["best"] else None,
        "processes": [{"random": part, "own": {}} for part in content["parts"]],
        "metrics": str(Path(args["log_dir"]).absolute()),
        "metrics_size": progress.get("metrics_size", 0)}
