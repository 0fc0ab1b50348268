"""Before the first update: device and processes, seeds, texts, and the end in good order."""

import contextlib
import ctypes
import fcntl
import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from awd_lstm import checkpoint
from awd_lstm.data import Corpus
from awd_lstm.model import RNNModel
from common.splitcross import SplitCrossEntropyLoss

# Folder -> the name that getdata.sh knows it by.
GETDATA = {"penn": "ptb", "pennchar": "ptbc", "wikitext-2": "wt2", "wikitext-103": "wt103",
           "enwik8": "enwik8", "pydoc": "pydoc", "pydoc-char": "pydoc-char"}


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


class BadInput(Exception):
    """What the user gave cannot be used; the message says what is wrong and what to do."""


class Interrupted(Exception):
    """A signal asked the run to stop. exit_code is the shell's: 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum, self.exit_code = signum, 128 + signum


@contextmanager
def orderly_exit(script: str) -> Iterator[None]:
    """Ends the process with one clear line instead of a traceback where the cause is known."""
    try:
        yield
    except BadInput as error:
        sys.exit(_complain(script, error, 2))
    except FloatingPointError as error:
        sys.exit(_complain(script, error, 1))
    except OSError as error:  # a full disk, a read-only folder
        sys.exit(_complain(script, error, 1))
    except (MemoryError, OverflowError, RuntimeError) as error:
        if (reason := too_large(error)) is None:
            raise
        sys.exit(_complain(script, reason, 2))
    except Interrupted as error:
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # before or after training, where there is nothing to save
        sys.exit(128 + signal.SIGINT)
    finally:
        release_claims()


def too_large(error: Exception) -> str | None:
    """What to say of an error that means that memory does not hold what was asked for; else None.
    Of those of torch's memory only the text tells."""
    text = str(error).lower()
    if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError) and not (
            "allocate" in text or "overflow" in text):
        return None
    return ("these sizes need more memory than there is: give smaller ones (--nhid, --emsize, "
            f"--batch_size, --bptt; {' '.join(str(error).split())[:150]})")


def _complain(script: str, error: Exception, code: int) -> int:
    print(f"{script}: {error}", file=sys.stderr)
    return code


@contextmanager
def bad_input(what: str = "") -> Iterator[None]:
    """Inside the block a missing file or a refused value is the user's to mend."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise BadInput(f"{what}{error}") from None


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


def load_corpus(path: str, fabric: Fabric | None = None) -> Corpus:
    """The texts of a folder; one process tokenises, the others read its cache. Raises BadInput."""
    folder = Path(path)
    name = GETDATA.get(folder.name)
    hint = (f"./getdata.sh {name} fetches it" if name else
            "it must hold train.txt, valid.txt and test.txt")
    try:
        if fabric is None or fabric.world_size == 1:
            return Corpus(folder)
        with fabric.rank_zero_first():
            return Corpus(folder)
    except FileNotFoundError as error:
        raise BadInput(f"--data {path}: {error}; {hint}") from None
    except ValueError as error:
        raise BadInput(f"--data {path}: {error}") from None


def load_trained(flag: str, path: str, data: str, corpus: Corpus, bare_rates: dict | None = None
                 ) -> tuple[RNNModel, SplitCrossEntropyLoss]:
    """A trained model and its loss, for the words of `corpus`. `flag` and `data` are for the
    message of BadInput, raised if the file is refused or knows other words."""
    with bad_input(f"{flag}: "):
        model, criterion, facts = checkpoint.load_model(path, bare_rates)
    words = len(corpus.dictionary)
    if model.ntoken != words:
        raise BadInput(f"{flag} {path} knows {model.ntoken} words, --data {data} has {words}: give "
                       "the --data that it was trained on")
    if facts and facts["vocabulary"] != corpus.dictionary.digest():
        raise BadInput(f"{flag} {path} was trained on other words than those of --data {data}")
    return model, criterion


def make_fabric(args) -> Fabric:
    """Device, precision and processes, as the flags say. Raises BadInput."""
    accelerator = "cpu" if args.cuda is False else args.device
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: there is no CUDA device; use --device cpu")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise BadInput("--device mps: there is no Apple GPU; use --device cpu")
    if args.cuda and not torch.cuda.is_available():
        print("--cuda: there is no CUDA device, computing on the CPU", file=sys.stderr)
    # torchrun says how many processes there are on this machine, whatever --devices says.
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", getattr(args, "devices", 1)))
    nodes = int(os.environ.get("WORLD_SIZE", devices)) // devices
    strategy = "ddp" if devices * nodes > 1 else "auto"
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy,
                    precision=args.precision)
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
        # Products of gates underflow; a denormal costs the CPU some hundred cycles.
        torch.set_flush_denormal(True)
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return fabric


def keep_freed_memory() -> None:
    """Lets glibc keep the memory of freed arrays for the next ones.

    By default it returns every array of some size to the system and asks for it again at the next
    step: 75,000 to 120,000 page faults, 5 to 20 % of a training step. The price is that a process
    may grow to some times its need, since sequence lengths vary; MALLOC_MMAP_MAX_ in the
    environment (glibc's own setting) overrules this.
    """
    if "MALLOC_MMAP_MAX_" in os.environ:
        return
    with contextlib.suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def seed_everything(args, numpy_seed: int | None = None) -> np.random.RandomState:
    """Seeds python and torch; returns the stream that the sequence lengths are drawn from."""
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    return np.random.RandomState(args.seed if numpy_seed is None else numpy_seed)


def my_columns(fabric: Fabric, batch_size: int) -> slice:
    """The columns of the batch that this process reads; as even as can be, in order."""
    edges = [batch_size * r // fabric.world_size for r in range(fabric.world_size + 1)]
    return slice(edges[fabric.global_rank], edges[fabric.global_rank + 1])
