"""A run: the model, its optimiser and one update, for the language models and the classifier."""

from argparse import Namespace
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.asgd import ASGD
from harness import flags, machine
from harness.endings import BadInput
from harness.graphs import Graphed, wanted
from harness.keeper import Keeper, Progress
from harness.notices import notice
from trellisnet import model_files, release1

# Flags in which a resumed run may differ besides the harness's: names and places, which are
# compared by content, and --checkpoint-levels, which changes no number.
FREE = {"name", "load_weight", "permutation", "checkpoint_levels"}


def keep(script: str, args: Namespace) -> Keeper:
    """The Keeper of a script of this folder. A run that began with --load has the sizes of that
    file, whatever the flags say: they are then taken from the state; so is --fir, if not given."""
    free = {*FREE, *(model_files.ARCHITECTURE if args.load else ()),
            *(("fir",) if args.fir is None else ())}
    return Keeper(script, args, writes=not args.eval, text_log=f"{args.name}.log",
                  upgrade=release1.upgrade, free=free, also=(".asgd",))


def take_sizes(args: Namespace, keeper: Keeper) -> dict | None:
    """Sets the flags that make the architecture to those of --load's file, which is returned; of a
    resumed run to those of its state, and then the file is not needed. Raises BadInput."""
    if not args.load:
        return None
    found = keeper.found or model_files.read(args.load)
    said = flags.overruled(args, model_files.sizes_for(args, found["args"]))
    if said and not keeper.found:
        keeper.say(said)
    model_files.take_sizes(args, found["args"])
    return None if keeper.found else found


def with_fir(args: Namespace, keeper: Keeper) -> bool:
    """Is a product of short FIR filters wanted? By itself where it has been measured to win, for a
    new run: float32 on a CPU."""
    if args.fir is not None:
        return args.fir
    if keeper.found:
        return keeper.found["args"].get("fir", False)
    return (args.ksize == 2 and args.precision == "32" and not args.plain
            and keeper.fabric.device.type == "cpu")


def warn(keeper: Keeper, text: str) -> None:
    """On stderr; one process speaks for all."""
    if keeper.fabric.is_global_zero:
        notice(text)


@dataclass
class Learning(Progress):
    lr: float = 0.0
    optimizer: str = ""    # a class of torch.optim, or nt-asgd
    seconds: float = 0.0   # of training in this epoch


class Run:
    """What is trained: a module that returns a loss, whose `model` has a TrellisNet `tnet`.

    facts: plain values of the model and the state files: the vocabulary, the order of pixels.
    """

    def __init__(self, args: Namespace, keeper: Keeper, loss: nn.Module, progress: Learning,
                 facts: dict):
        args.fir = with_fir(args, keeper)
        self.args, self.keeper, self.fabric = args, keeper, keeper.fabric
        self.loss, self.model, self.progress, self.facts = loss, loss.model, progress, facts
        tnet = loss.model.tnet
        tnet.plain, tnet.fir = args.plain, args.fir
        tnet.checkpoint_levels = args.checkpoint_levels
        if args.compile:
            tnet.compile_gates()
        if args.precision == "64":
            loss.double()
        self.step_loss = self.fabric.setup_module(loss)
        self.gradients = Graphed(self._gradients, loss, wanted(args, self.fabric, keeper.say),
                                 trains=True)
        machine.own_stream(self.fabric, args.seed)
        self.inputs: dict[str, str] = {}
        self.losses: tuple | dict = {}   # of the last evaluation

    def state(self) -> dict:
        return {**self.facts, "model": self.loss.state_dict(),
                "optimizer": self.optimizer.state_dict()}

    def own(self) -> dict:
        return {}

    def restore(self, state: dict, own: dict) -> None:
        self.make_optimizer(self.progress.optimizer)
        self.loss.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def start(self, name: str) -> None:
        """The optimiser of a fresh run."""
        self.progress.lr = self.args.lr
        self.make_optimizer(name)

    def make_optimizer(self, name: str) -> None:
        """Any optimiser of torch.optim with lr and wdecay, or `nt-asgd`: averaging from now on.
        Raises BadInput."""
        params, lr, wdecay = self.loss.parameters(), self.progress.lr, self.args.wdecay
        if name == "nt-asgd":
            self.optimizer = ASGD(params, lr, t0=0, weight_decay=wdecay)
        else:
            try:
                self.optimizer = machine.fused(getattr(torch.optim, name), self.fabric, params,
                                               lr=lr, weight_decay=wdecay)
            except (AttributeError, TypeError, ValueError) as error:
                raise BadInput(f"--optim {name} cannot be used: {error}") from error
        self.progress.optimizer = name

    @property
    def averaging(self) -> bool:
        """Does the optimiser keep an average of the weights?"""
        return "t0" in self.optimizer.param_groups[0]

    def set_lr(self, lr: float) -> None:
        self.progress.lr = lr
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def training_loss(self, *batch) -> tuple[Tensor, ...]:
        """The loss, and what else is wanted of the forward pass."""
        return self.step_loss(*batch),

    def _gradients(self, weight: float, *batch) -> tuple[Tensor, ...]:
        """Forward and backward; returns `training_loss`. Called through `gradients`, which on a GPU
        may replay it.

        weight: how many samples this process's loss is the mean of, relative to the mean share: DDP
        averages the processes' gradients as if all had the same."""
        found = self.training_loss(*batch)
        self.fabric.backward(machine.weighted(found[0], weight))
        return tuple(value.detach() for value in found)

    def update(self, loss: Tensor) -> None:
        """Clips the gradients, which `gradients` has made, and steps. Raises FloatingPointError
        before the step if loss or gradient is not finite."""
        self.keeper.clip_gradients(self.loss, loss, self.args.clip)
        self.keeper.step(self.optimizer)
        self.progress.step += 1

    def say_settings(self) -> None:
        count = sum(p.numel() for p in self.loss.parameters())
        self.keeper.say(f"Args: {vars(self.args)}\nModel total parameters: {count}")
