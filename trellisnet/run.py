"""A run: what is trained, where it stands, and its files.

Everything that the next update depends on is in the training state, so that a resumed run gives,
on the CPU, the same bits as one that never stopped.
"""

import csv
import shutil
import signal
from argparse import Namespace
from pathlib import Path

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from common.asgd import ASGD
from trellisnet import files
from trellisnet.args import ARCHITECTURE, FREE_ON_RESUME
from trellisnet.environment import BadInput, Interrupted, bad_input, check_writable, claim

MODEL_FORMAT = "trellisnet model 1"
STATE_FORMAT = "trellisnet training state 1"


class Run:
    """What is trained, and how far it is.

    loss: a module that returns a loss; `model` is the part of it that is saved under its own name.
    progress: plain values, all that the scripts count; saved and restored as they are.
    """

    def __init__(self, args: Namespace, fabric: Fabric, loss: nn.Module, model: nn.Module,
                 tnet: nn.Module, **facts):
        self.args, self.fabric, self.loss, self.model = args, fabric, loss, model
        self.facts = facts                         # further plain values of the model file
        self.progress = {"epoch": 1, "step": 0, "lr": args.lr}
        self.extra: dict = {}                      # tensors to save besides, as the script likes
        self.optimizer: torch.optim.Optimizer | None = None
        self.metrics: Metrics | None = None
        self.early: list[str] = []                 # said before the log was open
        self.losses: tuple | dict = {}             # of the last evaluation
        self.stop_signal = 0
        tnet.plain, tnet.fir = args.plain, args.fir
        tnet.checkpoint_levels = args.checkpoint_levels
        if args.compile:
            tnet.compile_gates()
        if args.precision == "64":
            loss.double()
        self.step_loss = fabric.setup_module(loss)
        self.params = list(loss.parameters())
        if fabric.global_rank:  # the same start everywhere, other dropout masks
            torch.manual_seed(args.seed + fabric.global_rank)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._ask_to_stop)
        if not args.eval:
            check_writable(args.save)
            claim(args.save, fabric)

    def _ask_to_stop(self, signum: int, frame) -> None:
        self.stop_signal = signum

    def close(self) -> None:
        """Ends the log."""
        if self.metrics:
            self.metrics.board.close()
            self.log_file.close()

    def metrics_rows(self) -> list[tuple[str, float]]:
        """(name, value) of all that was logged."""
        with self.metrics.path.open(newline="") as file:
            return [(row["name"], float(row["value"])) for row in csv.DictReader(file)]

    @property
    def share(self) -> slice:
        """The columns of a batch that this process reads; as even as can be, in order."""
        n, world = self.args.batch_size, self.fabric.world_size
        rank = self.fabric.global_rank
        return slice(n * rank // world, n * (rank + 1) // world)

    @property
    def state_path(self) -> Path:
        return Path(self.args.save).with_suffix(".state.pt")

    def out_of_steps(self) -> bool:
        return bool(self.args.max_steps) and self.progress["step"] >= self.args.max_steps

    # ------------------------------------------------------------------------------- saying
    def open_log(self) -> None:
        """The log is appended to, as in the original; curves go on where the state stands."""
        if self.fabric.is_global_zero:
            folder = Path(self.args.log_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self.log_file = (folder / f"{self.args.name}.log").open("a", encoding="utf-8")
            self.log_file.writelines(f"{line}\n" for line in self.early)
            self.metrics = Metrics(folder, self.args.name, self.progress)

    def say(self, text: str) -> None:
        """One process speaks for all, to the terminal and to the log."""
        if self.fabric.is_global_zero:
            print(text, flush=True)
            if self.metrics:
                self.log_file.write(text + "\n")
                self.log_file.flush()
            else:
                self.early.append(text)

    # ----------------------------------------------------------------------------- learning
    def make_optimizer(self, name: str, **more) -> None:
        """Any optimiser of torch.optim with lr and wdecay, or `nt-asgd`: averaging from now on."""
        lr, wdecay = self.progress["lr"], self.args.wdecay
        if name == "nt-asgd":
            self.optimizer = ASGD(self.params, lr, t0=0, weight_decay=wdecay)
        else:
            try:
                self.optimizer = getattr(torch.optim, name)(self.params, lr=lr,
                                                            weight_decay=wdecay, **more)
            except (AttributeError, TypeError) as error:
                raise BadInput(f"--optim {name} cannot be used: {error}") from None
        self.progress["optimizer"] = name

    @property
    def averaging(self) -> bool:
        """Does the optimiser keep an average of the weights?"""
        return "t0" in self.optimizer.param_groups[0]

    def set_lr(self, lr: float) -> None:
        self.progress["lr"] = lr
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def update(self, loss: Tensor, weight: float = 1.0) -> None:
        """Gradient, clipping, step; `weight` is this process's share of the batch relative to the
        mean share. Raises FloatingPointError before the step if anything is not finite."""
        self.fabric.backward(loss * weight)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.params if p.grad is not None])
        if not torch.isfinite(norm + loss.detach()):
            names = [name for name, p in self.loss.named_parameters()
                     if p.grad is not None and not p.grad.isfinite().all()]
            what = f"the gradient of {names[0]}" if names else "the loss"
            raise FloatingPointError(
                f"{what} is not finite at epoch {self.progress['epoch']}, step "
                f"{self.progress['step']}; stopped before the update. Files written so far are "
                "good; a smaller --lr or --clip may help")
        if self.args.clip > 0:
            torch.nn.utils.clip_grads_with_norm_(self.params, self.args.clip, norm)
        self.optimizer.step()
        self.progress["step"] += 1

    def mean(self, value: Tensor, weight: float = 1.0) -> float:
        """Mean over the processes."""
        if self.fabric.world_size > 1:
            value = self.fabric.all_reduce(value.detach() * weight, reduce_op="mean")
        return value.item()

    def stop_if_asked(self) -> None:
        """Raises Interrupted if any process was signalled: all stop at the same place."""
        signum = self.stop_signal
        if self.fabric.world_size > 1:
            asked = torch.tensor(signum, device=self.fabric.device)
            dist.all_reduce(asked, dist.ReduceOp.MAX)
            signum = int(asked.item())
        if signum:
            self.stop_signal = 0
            raise Interrupted(signum)

    # -------------------------------------------------------------------------------- files
    def save_model(self, path: str | Path | None = None, **facts) -> None:
        """The weights as they are now, and what they are of."""
        if self.fabric.is_global_zero:
            files.write(path or self.args.save, {
                "format": MODEL_FORMAT, "args": plain(self.args), **self.facts, **facts,
                "epoch": self.progress["epoch"], "model": contiguous(self.loss.state_dict())})

    def save_state(self) -> None:
        """The training state, with a part from every process."""
        part = {"extra": self.extra, "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state() if self.fabric.device.type == "cuda" else None}
        parts = [part]
        if self.fabric.world_size > 1:
            parts = [None] * self.fabric.world_size
            dist.all_gather_object(parts, part)
        if self.fabric.is_global_zero:
            files.write(self.state_path, {
                "format": STATE_FORMAT, "args": plain(self.args), **self.facts,
                "progress": self.progress, "model": self.loss.state_dict(), "parts": parts,
                "optimizer": self.optimizer.state_dict(),
                "save": str(Path(self.args.save).absolute()),
                "metrics_size": self.metrics.size if self.metrics else 0}, keep_previous=True)
        self.fabric.barrier()

    def restore(self) -> None:
        """Goes back to the training state that --resume names. Raises BadInput."""
        path = Path(self.args.resume or self.state_path)
        with bad_input("--resume: "):
            state = files.read_or_previous(path)
        if state.get("format") != STATE_FORMAT:
            raise BadInput(f"--resume {path}: this is no training state; --load takes a model file")
        same_settings(plain(self.args), state["args"], path)
        if self.facts.get("vocabulary") != state.get("vocabulary"):
            raise BadInput(f"--resume {path}: the words of --data are not those of that run")
        if self.facts.get("permutation") != state.get("permutation"):
            raise BadInput(f"--resume {path}: that run read the pixels in another order")
        if len(state["parts"]) != self.fabric.world_size:
            raise BadInput(f"--resume {path} is of {len(state['parts'])} processes, not "
                           f"{self.fabric.world_size}: give --devices {len(state['parts'])}")
        self.progress = state["progress"]
        self.make_optimizer(self.progress["optimizer"])
        self.loss.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress["metrics_size"] = state["metrics_size"]
        if state.get("save", here := str(Path(self.args.save).absolute())) != here:
            self.progress["copied"] = self.progress.pop("metrics")
        part = state["parts"][self.fabric.global_rank]
        self.extra = self.fabric.to_device(part["extra"])
        torch.set_rng_state(part["torch"])
        if self.fabric.device.type == "cuda" and part["cuda"] is not None:
            torch.cuda.set_rng_state(part["cuda"])

    def set_old_files_aside(self) -> None:
        """A new run overwrites nothing."""
        if self.fabric.is_global_zero:
            for path in (Path(self.args.save), self.state_path, files.previous(self.state_path)):
                if (aside := files.set_aside(path)) is not None:
                    self.say(f"{path} is of an earlier run: kept as {aside}")


def plain(args: Namespace) -> dict:
    """The arguments as plain values."""
    return {name: value for name, value in vars(args).items()
            if isinstance(value, (str, int, float, bool, list, type(None)))}


def contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in the usual memory layout."""
    return {name: value.contiguous() for name, value in state.items()}


def same_settings(now: dict, then: dict, path: Path) -> None:
    """Raises BadInput naming the flags in which a resumed run differs from its beginning."""
    differ = [f"--{name} {now.get(name)} (was {then.get(name)})" for name in sorted(now | then)
              if name not in FREE_ON_RESUME and now.get(name) != then.get(name)]
    if differ:
        raise BadInput(f"--resume {path} continues a run with other settings: {', '.join(differ)}")


def read_model(path: str, args: Namespace) -> dict:
    """Reads a model file of ours for --load, and sets the flags that make the architecture to
    those of the file. Raises BadInput."""
    with bad_input("--load: "):
        content = files.read(path)
    if content.get("format") not in (MODEL_FORMAT, STATE_FORMAT):
        raise BadInput(f"--load {path} is no model file of these scripts; an original's weights "
                       "are for --load_weight")
    for name in ARCHITECTURE:
        if hasattr(args, name) and name in content["args"]:
            setattr(args, name, content["args"][name])
    return content


def load_model(loss: nn.Module, content: dict, path: str) -> None:
    """Puts the weights of a model file of ours into `loss`. Raises BadInput."""
    try:
        loss.load_state_dict(content["model"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"--load {path} does not fit: {reason}") from None


class Metrics:
    """Curves of a run: one CSV file (step,epoch,name,value) and TensorBoard events, in a folder of
    its own; a resumed run goes on in its folder, where the state stands. A copy of a run (its
    --save is not the one that wrote the state) gets its own, with the rows so far."""

    def __init__(self, folder: Path, name: str, progress: dict):
        from torch.utils.tensorboard import SummaryWriter  # slow to import: not for -h
        number = 1
        while "metrics" not in progress:
            own = folder / (name if number == 1 else f"{name}-{number}")
            if not (own / "metrics.csv").exists():
                progress["metrics"] = str(own)
            number += 1
        folder = Path(progress["metrics"])
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.csv"
        copied = progress.pop("copied", None)
        if copied and (Path(copied) / "metrics.csv").is_file():
            shutil.copy(Path(copied) / "metrics.csv", folder)
        with self.path.open("a", newline="") as file:
            file.truncate(min(progress.get("metrics_size", 0), self.size))
            if not self.size:
                csv.writer(file).writerow(["step", "epoch", "name", "value"])
        self.board = SummaryWriter(str(folder), purge_step=progress["step"] + 1)

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def log(self, progress: dict, **values: float) -> None:
        step, epoch = progress["step"], progress["epoch"]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows([step, epoch, name, repr(float(value))]
                                       for name, value in values.items())
        for name, value in values.items():
            self.board.add_scalar(name.replace("_", "/", 1), value, step)
