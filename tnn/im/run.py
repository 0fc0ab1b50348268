"""What a run on images consists of, and what of it is saved.

A checkpoint has the original's entries (model, optimizer, lr_scheduler, epoch, scaler, args) and
all else that the next update depends on. The original's own files load too: they hold an
argparse.Namespace, the one class besides tensors and plain values that is let in.
"""

import json
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from harness import files, keeper, machine
from harness.endings import BadInput, bad_input
from harness.graphs import Graphed
from harness.keeper import Keeper
from loading.weights import bare_names
from tnn.im.mixup import Mixup

SCRIPT = "tnn/im/main.py"
# Flags that change no number, in which a resumed run may differ from its beginning.
FREE_ON_RESUME = {"data_path", "output_dir", "num_workers", "pin_mem", "test", "start_epoch",
                  "broadcast_buffers", "drop", "drop_path", "resplit", "cooldown_epochs",
                  "use_mcloader", "world_size", "dist_url"}


@dataclass
class Progress(keeper.Progress):
    """epoch counts from 0. update: those done in this epoch; loss: its mean so far, see
    utils.Smoothed; max_accuracy: percent, of the best epoch."""

    epoch: int = 0
    update: int = 0
    max_accuracy: float = 0.0
    loss: dict | None = None


@dataclass
class Run:
    """net is the model, compiled and in DistributedDataParallel as the flags say: to be called for
    every forward that has a backward. updates: those of an epoch. gradients: main.gradients, on a
    GPU possibly a recording."""

    args: Namespace
    keeper: Keeper
    train: DataLoader
    val: DataLoader
    inputs: dict[str, str]
    model: nn.Module
    net: nn.Module
    ema: nn.Module | None
    optimizer: torch.optim.Optimizer
    schedule: object
    mixup: Mixup | None
    updates: int
    progress: Progress = field(default_factory=Progress)
    gradients: Graphed = field(init=False)

    @property
    def fabric(self):
        return self.keeper.fabric

    @property
    def parameters(self) -> int:
        """Those trained; the frozen decay is not counted."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def state(self) -> dict:
        scaler, plateau = machine.scaler_of(self.fabric), self.args.sched == "plateau"
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                # Only --sched plateau has a past; the others' rate follows from the epoch.
                "lr_scheduler": self.schedule.lr_scheduler.state_dict() if plateau else {},
                "epoch": self.progress.epoch - 1, "scaler": scaler.state_dict() if scaler else {},
                "ema": self.ema.module.state_dict() if self.ema else None}

    def own(self) -> dict:
        return {}

    def restore(self, state: dict, own: dict) -> None:
        """Takes back a state of ours. Raises BadInput."""
        args = self.args
        if (then := state["args"]["epochs"]) != args.epochs and (
                args.sched in ("cosine", "tanh") or args.lr_noise):
            raise BadInput(f"--resume: that run has --epochs {then}, over which its learning rate "
                           f"falls, not {args.epochs}; give the same number")
        best = self.keeper.places.best
        if self.progress.max_accuracy > 0 and not best.is_file():
            if self.keeper.places.is_own(state):
                raise BadInput(f"--resume: the best model so far, {best}, is not there")
            self.keeper.say(f"The best model so far stays in {state['save']}")
        self.take_back(state)
        if self.ema and state["ema"]:
            self.ema.module.load_state_dict(state["ema"])
        if args.sched == "plateau":
            self.schedule.lr_scheduler.load_state_dict(state["lr_scheduler"])

    def continue_from(self, content: dict) -> None:
        """Takes weights, or the original's checkpoint, which continues at the beginning of the next
        epoch. Raises BadInput."""
        path = self.args.resume or self.keeper.places.state
        if "model" not in content:
            raise BadInput(f"--resume {path} is no checkpoint of this script: it has no entry "
                           "'model'")
        if not {"optimizer", "epoch"} <= set(content):
            load_weights(self.model, content["model"], f"--resume {path}")
            return
        self.progress.epoch = content["epoch"] + 1
        self.take_back(content)
        self.keeper.say(f"Resuming at epoch {self.progress.epoch}, update 0")

    def take_back(self, content: dict) -> None:
        """What ours and the original's files have alike. Raises BadInput."""
        load_weights(self.model, content["model"], "--resume")
        self.optimizer.load_state_dict(content["optimizer"])
        scaler = machine.scaler_of(self.fabric)
        if scaler and content.get("scaler"):
            scaler.load_state_dict(content["scaler"])
        if self.args.sched != "plateau" and self.progress.epoch > 0:
            self.schedule.step(self.progress.epoch - 1)


# ------------------------------------------------------------------------------------- weights
def load_weights(model: nn.Module, weights: dict, flag: str) -> None:
    """Raises BadInput if they are of another model."""
    try:
        model.load_state_dict(bare_names(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:400]
        raise BadInput(f"{flag} does not fit --model: {reason}") from error


def load_for_evaluation(run: Run, path: str | None) -> None:
    """The weights in a checkpoint of ours or the original's. Raises BadInput."""
    if not path and not run.args.finetune:
        raise BadInput("--eval: which weights? Give --resume PATH, or --finetune PATH")
    if not path:
        return
    with bad_input("--resume: "):
        content = files.read(path, safe=(Namespace,))
    load_weights(run.model, content.get("model", content), f"--resume {path}")


def finetune(model: nn.Module, source: str, say) -> None:
    """Weights from a file or URL; what does not fit the head is left out, and what is missing
    stays as it is (strict=False, as in the original). Raises BadInput."""
    if source.startswith(("https://", "http://")):
        try:
            content = torch.hub.load_state_dict_from_url(source, map_location="cpu",
                                                         check_hash=True, weights_only=True)
        except (OSError, RuntimeError, ValueError) as error:  # no network; another file
            raise BadInput(f"--finetune {source}: {' '.join(str(error).split())[:300]}") from error
    else:
        with bad_input("--finetune: "):
            content = files.read(source, safe=(Namespace,))
    weights = bare_names(content.get("model", content))
    own = model.state_dict()
    for name in ("head.1.weight", "head.1.bias"):
        if name in weights and weights[name].shape != own[name].shape:
            say(f"Removing key {name} from pretrained checkpoint")
            del weights[name]
    if not set(weights) & set(own):
        raise BadInput(f"--finetune {source} has none of the weights of --model")
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise BadInput(f"--finetune {source}: {' '.join(str(error).split())[:400]}") from error


# --------------------------------------------------------------------------------------- files
def upgrade(content: dict) -> dict:
    """A training state of release 0.1 as one of today."""
    if content.get("format") != "tnn image training 1":
        return content
    args, progress = content["args"], content["progress"]
    curves = Path(args["log_dir"]) / (Path(args["output_dir"]).name or args["model"])
    options = [f"{name}={value}" for name, value in args["arch_options"].items()]
    return content | {
        "format": keeper.STATE_FORMAT, "script": SCRIPT, "inputs": None, "log_size": None,
        "args": args | {"arch_options": options}, "best": None,
        "save": str(Path(args["output_dir"]).absolute()),
        "progress": progress | {"step": progress["updates"]},
        "processes": [{"random": states, "own": {}} for states in content["random"]],
        "metrics": str(curves.absolute())}


def earlier_files(folder: str) -> tuple[str, ...]:
    """Names of what a run leaves in its folder besides its best and last checkpoints."""
    return ("log.txt", *sorted(path.name for path in Path(folder or ".").glob("checkpoint_*.pth")
                               if path.stem.removeprefix("checkpoint_").isdecimal()))


class EpochLog:
    """The original's log.txt: a line of JSON an epoch. begin: it keeps the epochs before the one
    that comes; `own`: it is of this run (else it is kept under another name)."""

    def __init__(self, folder: Path, epoch: int, own: bool):
        self.path = folder / "log.txt"
        if not own:
            files.set_aside(self.path)
        text = self.path.read_text(errors="replace") if self.path.is_file() else ""
        kept = "".join(f"{line}\n" for line in text.splitlines() if self.is_before(line, epoch))
        files.replace(self.path, lambda file: file.write(kept.encode()))

    @staticmethod
    def is_before(line: str, epoch: int) -> bool:
        try:
            return json.loads(line)["epoch"] < epoch
        except (ValueError, TypeError, KeyError):  # cut off when the run was killed
            return False

    def write(self, **stats) -> None:
        with self.path.open("a") as file:
            file.write(f"{json.dumps(stats)}\n")
