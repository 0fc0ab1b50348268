"""What the training scripts for images (im/) and the Long Range Arena (lra/) do alike: flags of the
machine, devices and processes, one run at a time, random states, an end in good order, curves.
"""

import argparse
import csv
import ctypes
import fcntl
import math
import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import nn


class BadInput(Exception):
    """What the user gave cannot be used; the message says what is wrong and what to do."""


class Interrupted(Exception):
    """A signal asked the run to stop. exit_code is the shell's: 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@contextmanager
def orderly_exit(script: str) -> Iterator[None]:
    """Ends the process with one clear line in place of a traceback where the cause is known: exit
    code 2 for BadInput and sizes that memory does not hold, 1 for FloatingPointError (nan) and
    OSError (a full disk), 130 and 143 for signals."""
    try:
        yield
    except (BadInput, FloatingPointError, OSError) as error:
        print(f"{script}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, BadInput) else 1)
    except (Interrupted, KeyboardInterrupt) as error:
        sys.exit(getattr(error, "exit_code", 128 + signal.SIGINT))
    except (MemoryError, OverflowError, RuntimeError) as error:
        if not is_too_large(error):
            raise
        print(f"{script}: these sizes need more memory than there is: give smaller ones "
              f"({' '.join(str(error).split())[:150]})", file=sys.stderr)
        sys.exit(2)
    finally:
        release_claims()


def is_too_large(error: Exception) -> bool:
    """Does memory not hold what was asked for? Of torch's errors often only the text tells."""
    text = str(error).lower()
    return (isinstance(error, (MemoryError, OverflowError, torch.OutOfMemoryError))
            or "allocate" in text or "overflow" in text)


@contextmanager
def bad_input(what: str = "") -> Iterator[None]:
    """Inside the block a missing file or a refused value is the user's to mend."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise BadInput(f"{what}{error}") from None


# ------------------------------------------------------------------------------------- flags
def add_flags(p: argparse.ArgumentParser, log_dir: Path, precision: str | None = "32") -> None:
    """--device --devices --precision --compile --deterministic --log-dir --max-steps
    --save-interval."""
    g = p.add_argument_group("machine")
    g.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"),
                   help="what to compute on")
    g.add_argument("--devices", type=int, default=1, metavar="N",
                   help="processes, one per device, that share the batch (torchrun's count wins)")
    g.add_argument("--precision", default=precision,
                   choices=("32", "bf16-mixed", "16-mixed", "64"),
                   help="arithmetic: single, bfloat16 where it is safe, or double")
    g.add_argument("--compile", action="store_true", help="torch.compile the model")
    g.add_argument("--deterministic", action="store_true",
                   help="only algorithms that give the same bits every time (CUDA)")
    g = p.add_argument_group("run")
    g.add_argument("--log-dir", default=str(log_dir), metavar="DIR",
                   help="where metrics.csv and TensorBoard files go")
    g.add_argument("--max-steps", type=int, default=0, metavar="N",
                   help="stop after N updates in all (0: no limit); --resume goes on from there")
    g.add_argument("--save-interval", type=int, default=1000, metavar="N",
                   help="write the training state every N updates, and at each epoch's end")


def check_flags(p: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses nonsense in add_flags' values, naming the flag (exit code 2)."""
    for name, least in (("devices", 1), ("max_steps", 0), ("save_interval", 1)):
        if getattr(args, name) < least:
            p.error(f"--{name.replace('_', '-')} must be at least {least}")
    for name, value in vars(args).items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):  # nan passes comparisons
                p.error(f"--{typed(p, name)} must be a finite number, not {number}")
            if isinstance(number, int) and abs(number) >= 2**62:         # torch knows 64 bits
                p.error(f"--{typed(p, name)} {number} is too large")


def typed(p: argparse.ArgumentParser, name: str) -> str:
    """How the flag of an argument is typed: some of the originals' have underscores."""
    flag = name.replace("_", "-")
    return flag if f"--{flag}" in p._option_string_actions else name


# ----------------------------------------------------------------------- devices and processes
def make_fabric(args: argparse.Namespace, **ddp) -> Fabric:
    """Device, precision and processes, as add_flags' values say; `ddp` are arguments of
    DistributedDataParallel. Launches the processes and seeds them. Raises BadInput."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: there is no CUDA device; use --device cpu")
    if args.device == "mps" and not torch.backends.mps.is_available():
        raise BadInput("--device mps: there is no Apple GPU; use --device cpu")
    # torchrun says how many processes there are on this machine, whatever --devices says.
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", args.devices))
    nodes = int(os.environ.get("WORLD_SIZE", devices)) // devices
    here = torch.cuda.device_count()
    if here and args.device in ("auto", "cuda") and devices > here:
        raise BadInput(f"--devices {devices}: this machine has {here}")
    fabric = Fabric(accelerator=args.device, devices=devices, num_nodes=nodes,
                    strategy=DDPStrategy(**ddp) if devices * nodes > 1 else "auto",
                    precision=args.precision)
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
        torch.set_flush_denormal(True)  # a denormal costs 100 cycles
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if args.precision == "64":
        torch.set_default_dtype(torch.float64)
    seed_everything(args.seed + fabric.global_rank)
    return fabric


def set_up(fabric: Fabric, module: nn.Module, args: argparse.Namespace) -> nn.Module:
    """The module on its device, compiled with --compile, with gradients averaged over processes,
    which all start from the first one's weights. Call it for every forward that has a backward."""
    if args.precision == "64":
        module.double()
    return fabric.setup_module(torch.compile(module) if args.compile else module)


def keep_freed_memory() -> None:
    """Keeps the memory of freed arrays for the next step. glibc would return it to the system, and
    the page faults of getting it again cost 40 % of a step. MALLOC_MMAP_MAX_ in the environment
    (glibc's own setting) overrules this."""
    if "MALLOC_MMAP_MAX_" in os.environ:
        return
    with suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)                 # M_MMAP_MAX
        mallopt(-1, 2**31 - 1)         # M_TRIM_THRESHOLD


def check_finite(fabric: Fabric, module: nn.Module, loss: float, epoch: int, step: int) -> None:
    """Before the update, of the batch's loss and of all gradients. Raises FloatingPointError.

    With 16-mixed only of the loss: its gradients are scaled up until they overflow, and the scaler
    leaves such updates out.
    """
    norm = torch.zeros(())
    if scaler_of(fabric) is None:
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in module.parameters() if p.grad is not None])
    if math.isfinite(loss) and torch.isfinite(norm):
        return
    spoilt = [name for name, p in module.named_parameters()
              if p.grad is not None and not p.grad.isfinite().all()]
    if math.isfinite(loss) and not spoilt:  # only the sum of squares has no room in 32 bits
        return
    what = f"the gradient of {spoilt[0]}" if math.isfinite(loss) else "the loss"
    raise FloatingPointError(f"{what} is not finite at epoch {epoch}, step {step}; stopped before "
                             "the update. Files written so far are good; a smaller --lr may help")


def scaler_of(fabric: Fabric):
    """Of 16-mixed precision, else None."""
    return getattr(fabric.strategy.precision, "scaler", None)


# --------------------------------------------------------------------------- one run at a time
_claims: dict[Path, int] = {}  # lock file -> descriptor, of this process


def claim(lock: Path, flag: str, fabric: Fabric) -> None:
    """Makes sure that no other run writes where `flag` (as given, with its value) says. Raises
    BadInput, in all processes alike.

    The first process locks (flock) the hidden file `lock`, which goes when the run ends; of a run
    that was killed the kernel takes the lock, and the empty file that is left does no harm.
    """
    if fabric.broadcast(fabric.is_global_zero and not _locked(lock.resolve())):
        raise BadInput(f"{flag}: another run is writing there; wait for its end or give another "
                       f"{flag.split()[0]}")


def _locked(path: Path) -> bool:
    """Takes the lock, unless this process has it. False if another has."""
    while path not in _claims:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        except OSError:
            pass  # a file system without locks
        if os.fstat(handle).st_nlink:  # else its last owner removed it just now
            _claims[path] = handle
        else:
            os.close(handle)
    return True


def release_claims() -> None:
    """At the end of the run."""
    while _claims:
        path, handle = _claims.popitem()
        path.unlink(missing_ok=True)
        os.close(handle)


# ------------------------------------------------------------------------------ random states
def seed_everything(seed: int) -> None:
    """Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_states(fabric: Fabric) -> dict:
    """Those of Python, numpy and torch, as plain values."""
    kind, keys, *rest = np.random.get_state()
    version, words, gauss = random.getstate()
    cuda = torch.cuda.get_rng_state() if fabric.device.type == "cuda" else None
    return {"python": [version, list(words), gauss], "torch": torch.get_rng_state(), "cuda": cuda,
            "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest]}


def set_random_states(states: dict, fabric: Fabric) -> None:
    """Goes back to where random_states was called."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if fabric.device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"])


def parts_of_all(fabric: Fabric, part: dict) -> list[dict]:
    """Every process's part of the training state, in order of rank."""
    if fabric.world_size == 1:
        return [part]
    parts: list = [None] * fabric.world_size
    dist.all_gather_object(parts, part)
    return parts


# -------------------------------------------------------------------------------------- ending
class StopSignals:
    """Ctrl-C and SIGTERM, noted when they come and acted upon between two updates."""

    def __init__(self, fabric: Fabric):
        self.fabric, self.signum = fabric, 0
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame) -> None:
        self.signum = signum

    def check(self) -> None:
        """Raises Interrupted if any process was signalled: all stop at the same place."""
        signum = self.signum
        if self.fabric.world_size > 1:
            asked = torch.tensor(signum, device=self.fabric.device)
            dist.all_reduce(asked, dist.ReduceOp.MAX)
            signum = int(asked.item())
        if signum:
            self.signum = 0
            raise Interrupted(signum)


# -------------------------------------------------------------------------------------- curves
def set_curves_aside(folder: Path) -> None:
    """Moves an earlier run's metrics.csv and events to folder/old, or old2, old3, ..."""
    number, aside = 1, folder / "old"
    while aside.exists():
        number += 1
        aside = folder / f"old{number}"
    aside.mkdir()
    for path in [*folder.glob("events.out.tfevents.*"), folder / "metrics.csv"]:
        path.rename(aside / path.name)


class Metrics:
    """Curves of a run: one CSV file (step,epoch,name,value) and TensorBoard events in `folder`.

    size: how long the CSV file was when the state that the run resumes from was written (0: a
    fresh run, which moves what is there to old/, old2/ ...). Keep the property `size` in the
    training state.
    """

    def __init__(self, folder: str | Path, step: int = 0, size: int = 0):
        from torch.utils.tensorboard import SummaryWriter  # slow to import: not for -h
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.csv"
        if not step and not size and self.path.exists():
            set_curves_aside(folder)
        with self.path.open("a", newline="") as file:
            file.truncate(min(size, self.size))
            if not self.size:
                csv.writer(file).writerow(["step", "epoch", "name", "value"])
        self.board = SummaryWriter(str(folder), purge_step=step + 1)

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def log(self, step: int, epoch: int, **values: float) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows([step, epoch, name, repr(float(value))]
                                       for name, value in values.items())
        for name, value in values.items():
            self.board.add_scalar(name.replace("_", "/", 1), value, step)

    def close(self) -> None:
        self.board.close()
