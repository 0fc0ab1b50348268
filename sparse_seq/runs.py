"""What the scripts need around their recipe: machine flags, the files of a run, an orderly end.

A run has a folder, --save (its files: files.py). The training state there holds everything that the
next update depends on: on the CPU a resumed run gives the same bits as one that never stopped.
"""

import argparse
import csv
import ctypes
import json
import math
import os
import random
import shutil
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric

from sparse_seq.claims import claim, release_claims
from sparse_seq.files import is_ours, read_or_previous

OnOff = argparse.BooleanOptionalAction
MOST_LAYERS = 1000

# Flags in which a resumed run may differ from what it continues; "data" is checked by its words.
FREE_ON_RESUME = {"epochs", "save", "resume", "continue_train", "max_steps", "log_interval", "data",
                  "save_interval", "log_dir", "device", "devices", "cuda", "compile", "multi_gpu"}


class BadInput(Exception):
    """What the user gave cannot be used; the message says what is wrong and what to do."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM asked the run to stop."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


@contextmanager
def orderly_exit(script: str) -> Iterator[None]:
    """One clear line instead of a traceback; exit 2 bad input, 1 failed, 130 / 143 interrupted."""
    try:
        yield
    except Interrupted as stop:
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt:  # outside of training, where nothing needs saving
        sys.exit(128 + signal.SIGINT)
    except (BadInput, FloatingPointError, OSError) as error:
        print(f"{script}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, BadInput) else 1)
    except (MemoryError, OverflowError, RuntimeError) as error:
        if not is_too_large(error):
            raise
        print(f"{script}: these sizes need more memory than there is: give smaller ones (--nhid, "
              f"--emsize, --batch_size, --bptt; {' '.join(str(error).split())[:150]})",
              file=sys.stderr)
        sys.exit(2)
    finally:
        release_claims()


def is_too_large(error: Exception) -> bool:
    """Does memory not hold what was asked for? Of torch's errors often only the text tells."""
    text = str(error).lower()
    return (isinstance(error, (MemoryError, OverflowError, torch.OutOfMemoryError))
            or "allocate" in text or "overflow" in text)


@contextmanager
def users(flag: str) -> Iterator[None]:
    """Inside the block a missing file or a refused value is the user's to mend, under `flag`."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise BadInput(f"{flag}: {error}") from None


# -------------------------------------------------------------------------------------- machine
def machine_flags(p: argparse.ArgumentParser, logs: Path) -> None:
    """The flags that all scripts share and the original did not have."""
    g = p.add_argument_group("run and machine")
    g.add_argument("--resume", nargs="?", const="", default=None, metavar="PATH",
                   help="continue the run of --save exactly where it stopped, or that of PATH")
    g.add_argument("--save-interval", type=int, default=1000, metavar="N",
                   help="write the training state every N updates, and at each epoch's end")
    g.add_argument("--max-steps", type=int, default=0, metavar="N",
                   help="stop after N updates in all (0: no limit); --resume goes on from there")
    g.add_argument("--log-dir", default=str(logs), metavar="DIR",
                   help="where metrics.csv and TensorBoard files go, in a folder named "
                        "after --save")
    g.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"),
                   help="what to compute on")
    g.add_argument("--devices", type=int, default=1, metavar="N",
                   help="processes, one per device, that share the batch (torchrun's count wins)")
    g.add_argument("--precision", default="32", choices=("32", "bf16-mixed", "64"),
                   help="arithmetic: single, bfloat16 where it is safe, or double")
    g.add_argument("--deterministic", action="store_true",
                   help="only algorithms that give the same bits every time (CUDA)")
    g.add_argument("--compile", action="store_true", help="torch.compile the model")


def check_flags(p: argparse.ArgumentParser, args: Namespace, positive: tuple[str, ...],
                rates: tuple[str, ...], not_negative: tuple[str, ...]) -> None:
    """Refuses nonsense in one sentence that names the flag (exit code 2)."""
    def flag(name: str) -> str:
        return next(o for a in p._actions if a.dest == name for o in a.option_strings)

    for name, value in vars(args).items():
        if isinstance(value, float) and not math.isfinite(value):  # nan passes all that follows
            p.error(f"{flag(name)} must be a finite number, got {value}")
        if isinstance(value, int) and abs(value) >= 2**62:         # torch knows 64 bits
            p.error(f"{flag(name)} {value} is too large")
    if not 0 <= args.seed < 2**32:
        p.error(f"--seed must be in [0, 2**32), got {args.seed}")
    for name in ("nlayers", "layers"):
        if getattr(args, name, 1) > MOST_LAYERS:
            p.error(f"--{name} must be at most {MOST_LAYERS}, got {getattr(args, name)}")
    for name in (*positive, "devices", "save_interval"):
        if getattr(args, name) <= 0:
            p.error(f"{flag(name)} must be positive, got {getattr(args, name)}")
    for name in rates:
        if not 0 <= getattr(args, name, 0) < 1:
            p.error(f"{flag(name)} must be in [0, 1), got {getattr(args, name)}")
    for name in (*not_negative, "max_steps"):
        if getattr(args, name) < 0:
            p.error(f"{flag(name)} must not be negative, got {getattr(args, name)}")
    if args.devices > args.batch_size:
        p.error(f"--devices {args.devices} cannot share --batch_size {args.batch_size}")


def make_fabric(args: Namespace) -> Fabric:
    """Device, precision and processes as the flags say, seeds set. Raises BadInput."""
    kind = "cpu" if getattr(args, "cuda", None) is False else args.device
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if kind in there and not there[kind]():
        raise BadInput(f"--device {kind}: there is no such device here; use --device cpu")
    if getattr(args, "cuda", None) and not torch.cuda.is_available():
        print("--cuda: there is no CUDA device, computing on the CPU", file=sys.stderr)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", args.devices))  # torchrun's word counts
    nodes = int(os.environ.get("WORLD_SIZE", local)) // local
    fabric = Fabric(accelerator=kind, devices=local, num_nodes=nodes, precision=args.precision,
                    strategy="ddp" if local * nodes > 1 else "auto")
    fabric.launch()
    if fabric.device.type == "cpu":
        torch.set_flush_denormal(True)  # products of gates underflow, and denormals are slow
        reuse_memory()
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if args.precision == "64":  # else Fabric rounds what a module returns to single precision
        torch.set_default_dtype(torch.float64)
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    return fabric


def reuse_memory() -> None:
    """Makes glibc keep the memory of freed arrays for the next ones. The logits alone are 56 MB a
    step; fetched anew each time, their page faults cost as much as the arithmetic of a small model.
    A process may so grow beyond its need: MALLOC_MMAP_MAX_ in the environment prevents this."""
    mmap_max, trim_threshold = -4, -1  # malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt and "MALLOC_MMAP_MAX_" not in os.environ:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def not_finite(model: torch.nn.Module) -> str:
    """What to call a value that is not finite: the first such gradient, else the loss."""
    names = [name for name, p in model.named_parameters()
             if p.grad is not None and not p.grad.isfinite().all()]
    return f"the gradient of {names[0]}" if names else "the loss"


class StopSignals:
    """Remembers Ctrl-C and SIGTERM until the run comes to a place where it can stop."""

    def __init__(self, fabric: Fabric):
        self.fabric, self.signum = fabric, 0
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._remember)

    def _remember(self, signum: int, frame) -> None:
        self.signum = signum

    def check(self) -> None:
        """Raises Interrupted if this or another process was signalled: all stop at one place."""
        signum = self.signum
        if self.fabric.world_size > 1:
            asked = torch.tensor(signum, device=self.fabric.device)
            dist.all_reduce(asked, dist.ReduceOp.MAX)
            signum = int(asked)
        if signum:
            self.signum = 0
            raise Interrupted(signum)


def run_folder(save: str, fabric: Fabric) -> Path:
    """The folder --save, made if need be and claimed for this run. Raises BadInput if nothing can
    be written there, or another run is writing."""
    folder = Path(save)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--save {save}: {error.strerror}: a folder is needed") from None
    if not os.access(folder, os.W_OK):
        raise BadInput(f"--save {save}: the folder is read-only")
    with users("--save"):
        claim(save, fabric)
    return folder


def plain(args: Namespace) -> dict:
    """The settings as JSON values."""
    return json.loads(json.dumps(vars(args), default=str))


# ------------------------------------------------------------------------- randomness and resume
def random_state(fabric: Fabric, generator: np.random.RandomState) -> dict:
    """Every random stream of this process; `generator` draws lengths or orders."""
    kind, keys, *rest = generator.get_state()
    return {"python": random.getstate(), "torch": torch.get_rng_state(),
            "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
            "cuda": torch.cuda.get_rng_state() if fabric.device.type == "cuda" else None}


def restore_random_state(state: dict, generator: np.random.RandomState) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    generator.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def of_all_processes(fabric: Fabric, mine: dict) -> list[dict]:
    """Every process's part of the training state, in order of rank."""
    if fabric.world_size == 1:
        return [mine]
    parts = [None] * fabric.world_size
    dist.all_gather_object(parts, mine)
    return parts


def read_state(args: Namespace, script: str, name: str = "state.pt") -> dict | None:
    """The training state that --resume names, checked to be of this script and these settings.

    None without --resume. A PATH that is a model or an original's state_dict is returned as it is.
    """
    if args.resume is None:
        return None
    path = Path(args.resume) if args.resume else Path(args.save) / name
    with users("--resume"):
        content = read_or_previous(path)
    if not is_ours(content) and "format" in content:
        raise BadInput(f"--resume: {path} is of another toolkit ({content['format']}), not of this")
    if not is_ours(content) or "progress" not in content:
        return content
    if content["script"] != script:
        raise BadInput(f"--resume: {path} is a state of {content['script']}, not of {script}")
    now = plain(args)
    other = [f"--{key} {old} there, {now[key]} here" for key, old in content["args"].items()
             if key in now and key not in FREE_ON_RESUME and now[key] != old]
    if other:
        raise BadInput(f"--resume: {path} was made with other settings ({'; '.join(other)}); give "
                       "the same ones")
    world = int(os.environ.get("WORLD_SIZE", args.devices))
    if len(content["processes"]) != world:
        raise BadInput(f"--resume: {path} is of {len(content['processes'])} processes, not {world}")
    return content


# --------------------------------------------------------------------------------- what is said
class Journal:
    """What a run says: lines on the screen and in --save/log.txt, numbers in metrics.csv and on
    TensorBoard. Only the first process speaks."""

    def __init__(self, fabric: Fabric, text: Path, folder: Path | None, resumed: dict | None):
        self.speaks = fabric.is_global_zero
        self.text, self.folder, self.board = text, folder, None
        if not self.speaks:
            return
        if resumed is None:
            text.write_text("")
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter  # slow to import: not for -h
        folder.mkdir(parents=True, exist_ok=True)
        self.table = folder / "metrics.csv"
        with self.table.open("a" if resumed else "w", newline="") as file:
            if resumed:  # what came after the state was written never happened
                file.truncate(min(resumed["metrics_size"], self.table.stat().st_size))
            if not resumed or not self.table.stat().st_size:
                csv.writer(file).writerow(["step", "epoch", "name", "value"])
        step = resumed["progress"]["step"] + 1 if resumed else None
        self.board = SummaryWriter(str(folder), purge_step=step)

    def say(self, text: str) -> None:
        if self.speaks:
            print(text, flush=True)
            with self.text.open("a") as file:
                file.write(f"{text}\n")

    def log(self, step: int, epoch: int, **values: float) -> None:
        """One row per value; `train_loss` is train/loss on the board."""
        if self.board is None:
            return
        with self.table.open("a", newline="") as file:
            csv.writer(file).writerows([step, epoch, name, repr(float(value))]
                                       for name, value in values.items())
        for name, value in values.items():
            self.board.add_scalar(name.replace("_", "/", 1), value, step)

    @property
    def size(self) -> int:
        """Bytes in metrics.csv."""
        return self.table.stat().st_size if self.board else 0

    def close(self) -> None:
        if self.board:
            self.board.close()


def metrics_folder(args: Namespace, resumed: dict | None, suffix: str = "") -> Path:
    """--log-dir/NAME of --save, numbered if another run has it. A resumed run goes on where it was;
    a copy of it (its --save is another) in a folder of its own, with the rows so far."""
    here = str(Path(args.save).absolute())
    if resumed and resumed.get("save", here) == here:
        return Path(resumed["metrics"])
    name = f"{Path(args.save).resolve().name}{suffix}"
    number, folder = 1, Path(args.log_dir) / name
    while (folder / "metrics.csv").exists():
        number += 1
        folder = Path(args.log_dir) / f"{name}-{number}"
    if resumed and (drawn := Path(resumed["metrics"]) / "metrics.csv").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(drawn, folder)
    return folder.absolute()
