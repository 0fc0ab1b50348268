"""Before the first update: device and processes, texts, and the end in good order."""

import ctypes
import fcntl
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from lightning_fabric import Fabric

from trellisnet.text import Corpus


class BadInput(Exception):
    """What the user gave cannot be used; the message says what is wrong and what to do."""


class Interrupted(Exception):
    """A signal asked the run to stop. exit_code is the shell's: 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@contextmanager
def orderly_exit(script: str) -> Iterator[None]:
    """Ends the process with one clear line instead of a traceback where the cause is known."""
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
        print(f"{script}: these sizes need more memory than there is: give smaller ones (--nhid, "
              f"--emsize, --batch_size, --seq_len; {' '.join(str(error).split())[:150]})",
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
def bad_input(what: str = "") -> Iterator[None]:
    """Inside the block a missing file or a refused value is the user's to mend."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise BadInput(f"{what}{error}") from None


def make_fabric(args: Namespace) -> Fabric:
    """Device, precision and processes, as the flags say; seeds torch. Raises BadInput."""
    accelerator = "cpu" if args.cuda is False else args.device
    if (accelerator == "cuda" or args.cuda) and not torch.cuda.is_available():
        raise BadInput("there is no CUDA device; use --device cpu")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise BadInput("--device mps: there is no Apple GPU; use --device cpu")
    # torchrun says how many processes there are on this machine, whatever --devices says.
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", getattr(args, "devices", 1)))
    nodes = int(os.environ.get("WORLD_SIZE", devices)) // devices
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes,
                    strategy="ddp" if devices * nodes > 1 else "auto", precision=args.precision)
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
        torch.set_flush_denormal(True)  # products of gates underflow; a denormal costs 100 cycles
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if args.precision == "64":
        torch.set_default_dtype(torch.float64)
    torch.manual_seed(args.seed)
    return fabric


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


def load_text(path: str, fabric: Fabric, getdata: str | None, load: Callable[[], Corpus]) -> Corpus:
    """The corpus that `load` makes; one process tokenises, the others read its cache.

    getdata: what getdata.sh calls these data, if it does. Raises BadInput.
    """
    hint = f"./getdata.sh {getdata} fetches it" if getdata else "give the folder with --data"
    try:
        if fabric.world_size == 1:
            return load()
        with fabric.rank_zero_first():
            return load()
    except FileNotFoundError as error:
        raise BadInput(f"--data {path}: {error}; {hint}") from None
    except ValueError as error:
        raise BadInput(f"--data {path}: {error}") from None


def check_writable(save: str) -> None:
    """Raises BadInput if nothing can be saved there: better now than after the first epoch."""
    folder = Path(save).parent
    if not folder.is_dir():
        raise BadInput(f"--save {save}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise BadInput(f"--save {save}: the folder {folder} is read-only")


_claims: dict[Path, int] = {}  # lock file -> descriptor, of this process


def claim(save: str, fabric: Fabric) -> None:
    """Makes sure that no other run writes to --save. Raises BadInput, in all processes alike.

    The first process locks (flock) a hidden file beside it, which goes when the run ends; of a run
    that was killed the kernel takes the lock, and the empty file that is left does no harm.
    """
    path = Path(save).resolve().with_name(f".{Path(save).name}.lock")
    if fabric.broadcast(fabric.is_global_zero and not _locked(path)):
        raise BadInput(f"--save {save}: another run is writing there; wait for its end or give "
                       "another --save")


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
