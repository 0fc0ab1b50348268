"""A run on one task: where it stands, its files, its log.

Everything that the next update depends on is in the training state, so that a resumed run gives,
on the CPU, the same bits as one that never stopped.
"""

import tempfile
from argparse import Namespace
from pathlib import Path

import torch
from lightning_fabric import Fabric

from tnn import files
from tnn.lra.data import Task
from tnn.lra.model import LraModel
from tnn.lra.settings import model_arguments
from tnn.lra.utils import counts, make_optimizer
from tnn.runs import (
    BadInput,
    Metrics,
    StopSignals,
    bad_input,
    parts_of_all,
    random_states,
    set_random_states,
    set_up,
)

MODEL_FORMAT = "tnn lra model 1"
STATE_FORMAT = "tnn lra training state 1"
# Flags in which a resumed run may differ from its beginning.
FREE_ON_RESUME = {"epochs", "resume", "max_steps", "log_interval", "save_interval", "log_dir",
                  "device", "devices", "data", "compile", "load", "eval", "save", "deterministic",
                  "workers"}


class Run:
    """What is trained, and how far it is. `progress` are plain values, saved as they are:

    epoch (from 1), batch (micro-batches done in it), step (updates done), sums of the epoch's
    training loss, hits and samples; best epoch so far with its accuracies, greatest test accuracy.
    """

    def __init__(self, args: Namespace, fabric: Fabric, task: Task):
        self.args, self.fabric, self.task = args, fabric, task
        with bad_input():
            self.model = LraModel(**model_arguments(args), classes=task.classes,
                                  vocabulary=task.vocab_size, d_input=task.d_input)
        self.progress: dict = {"epoch": 1, "batch": 0, "step": 0, "loss": 0.0, "hits": 0, "seen": 0,
                               "seconds": 0.0, "best": None, "max_test": 0.0}
        self.step_model = set_up(fabric, self.model, args)
        self.optimizer = make_optimizer(self.model, args.lr, args.weight_decay)
        self.metrics: Metrics | None = None
        self.signals = StopSignals(fabric)

    # ------------------------------------------------------------------------------- saying
    def say(self, text: str) -> None:
        """One process speaks for all."""
        if self.fabric.is_global_zero:
            print(text, flush=True)

    def open_log(self) -> None:
        if self.fabric.is_global_zero:
            self.metrics = Metrics(self.args.log_dir, self.progress["step"],
                                   self.progress.get("metrics_size", 0))
        total, trainable, used = counts(self.model)
        t = self.task
        self.say(f"{t.name}, {self.args.arch}, {self.args.settings} settings: {len(t.train)} / "
                 f"{len(t.val)} / {len(t.test)} samples, {t.classes} classes, "
                 + (f"{t.vocab_size} tokens" if t.vocab_size else f"{t.l_max} pixels"))
        self.say(f"Args: {vars(self.args)}")
        self.say(f"Model total parameters: {total} ({trainable} not frozen in the original, of "
                 f"which {used} have a gradient)")
        if self.args.resume is None:
            self.log({"params/total": total, "params/trainable": trainable,
                      "params/fixed": total - trainable})

    def log(self, values: dict[str, float]) -> None:
        if self.metrics:
            self.metrics.log(self.progress["step"], self.progress["epoch"], **values)

    def close(self) -> None:
        if self.metrics:
            self.metrics.close()

    # -------------------------------------------------------------------------------- files
    @property
    def state_path(self) -> Path:
        return Path(self.args.save).with_suffix(".state.pt")

    def out_of_steps(self) -> bool:
        return bool(self.args.max_steps) and self.progress["step"] >= self.args.max_steps

    def save_model(self, **facts) -> None:
        """The weights as they are now, and what they are of."""
        if self.fabric.is_global_zero:
            files.write(self.args.save, {
                "format": MODEL_FORMAT, "args": plain(self.args), "epoch": self.progress["epoch"],
                "itos": self.task.itos, **facts, "model": self.model.state_dict()})

    def save_state(self) -> None:
        """The training state, with the random states of every process."""
        parts = parts_of_all(self.fabric, random_states(self.fabric))
        if self.fabric.is_global_zero:
            files.write(self.state_path, {
                "format": STATE_FORMAT, "args": plain(self.args), "itos": self.task.itos,
                "progress": self.progress | {
                    "metrics_size": self.metrics.size if self.metrics else 0},
                "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "parts": parts}, keep_previous=True)
        self.fabric.barrier()

    def restore(self) -> None:
        """Goes back to the training state that --resume names. Raises BadInput."""
        path = Path(self.args.resume or self.state_path)
        with bad_input("--resume: "):
            state = files.read_or_previous(path)
        if state.get("format") != STATE_FORMAT:
            raise BadInput(f"--resume {path}: this is no training state of this script; --load "
                           "takes a model file")
        then, now = state["args"], plain(self.args)
        differ = [f"--{name.replace('_', '-')} {now.get(name)} (was {then.get(name)})"
                  for name in sorted(now | then)
                  if name not in FREE_ON_RESUME and now.get(name) != then.get(name)]
        if differ:
            raise BadInput(f"--resume {path} continues a run with other settings: "
                           f"{', '.join(differ)}")
        if state["itos"] != self.task.itos:
            raise BadInput(f"--resume {path}: the tokens of --data are not those of that run")
        if len(state["parts"]) != self.fabric.world_size:
            raise BadInput(f"--resume {path} is of {len(state['parts'])} processes, not "
                           f"{self.fabric.world_size}: give --devices {len(state['parts'])}")
        self.progress = state["progress"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        set_random_states(state["parts"][self.fabric.global_rank], self.fabric)

    def set_old_files_aside(self) -> None:
        """A new run overwrites nothing, and never goes on from another's previous state."""
        if self.fabric.is_global_zero:
            for path in (Path(self.args.save), self.state_path, files.previous(self.state_path)):
                if (aside := files.set_aside(path)) is not None:
                    self.say(f"{path} is of an earlier run: kept as {aside}")

    def load(self, path: str) -> None:
        """The weights of a model file of ours, or of a checkpoint of the original (under
        `state_dict`). Raises BadInput."""
        with bad_input("--load: "):
            content = files.read(path)
        state = content.get("model") or content.get("state_dict") or content
        if content.get("itos") not in (None, self.task.itos):
            raise BadInput(f"--load {path}: the tokens of --data are not those of that model")
        try:
            self.model.load_state_dict(state)
        except (RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise BadInput(f"--load {path} does not fit the flags: {reason}") from None


def plain(args: Namespace) -> dict:
    """The arguments as plain values."""
    return {name: value for name, value in vars(args).items()
            if isinstance(value, (str, int, float, bool, list, type(None)))}


def check_writable(save: str) -> None:
    """Raises BadInput if nothing can be saved there: better now than after the first epoch."""
    folder = Path(save).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # a file of each process's own
            pass
    except OSError as error:
        raise BadInput(f"--save {save}: {error.strerror}: {folder}") from None


def total_of(fabric: Fabric, *values: float) -> list[float]:
    """Sums over the processes."""
    if fabric.world_size == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64, device=fabric.device)
    return fabric.all_reduce(sums, reduce_op="sum").tolist()
