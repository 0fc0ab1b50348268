"""fairseq's commands end as our scripts do, and one run at a time trains into a --save-dir.

fairseq starts its commands through distributed_utils.call_main, fairseq-generate alone calls its
main itself. Importing this module, which --user-dir does before, replaces both.
"""

import atexit
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from fairseq.dataclass.configs import FairseqConfig
from fairseq.distributed import utils as distributed_utils
from torch.multiprocessing import ProcessExitedException

from harness import processes
from harness.endings import BadInput, complain, orderly_exit
from harness.lock import Lock
from harness.memory import keep_freed_memory, keep_freed_memory_later
from kernels.cpu import bf16_pays


class Processes:
    """Those of one run, as harness.lock asks for them."""

    def __init__(self):
        self.many = torch.distributed.is_initialized()
        self.is_global_zero = not self.many or torch.distributed.get_rank() == 0

    def broadcast(self, value):
        """The first process's value, in all of them."""
        values = [value]
        if self.many:
            torch.distributed.broadcast_object_list(values)
        return values[0]


def call_main(cfg: FairseqConfig, main: Callable, **more) -> None:
    """fairseq's, in which an error whose cause is known is one line and an exit code."""
    training = Path(main.__code__.co_filename).parts[-2:] == ("fairseq_cli", "train.py")
    with orderly_exit(sys.argv[0]):
        forget_tpu(cfg)
        if on_cpu(cfg):
            (keep_freed_memory_later if training else keep_freed_memory)()
        if training:
            check_precision(cfg)
            main = functools.partial(train_alone, main)
        try:
            fairseq_call_main(cfg, functools.partial(end_in_order, main), **more)
        except ProcessExitedException as error:  # a process of several, which has said why
            if error.exit_code != 2:
                raise
            sys.exit(2)


def end_in_order(main: Callable, cfg: FairseqConfig, **more) -> None:
    """main, after which a process of several lets go of the others: fairseq never does."""
    if torch.distributed.is_initialized():
        processes.end_in_order()
        atexit.register(vars(distributed_utils.get_global_group).clear)  # it keeps a group there
    main(cfg, **more)


def forget_tpu(cfg: FairseqConfig) -> None:
    """With --bf16 fairseq's command line sets "use a TPU" in each group of the configuration that
    has the field. Here it means bfloat16 on the GPU, or on the CPU: without a TPU fairseq's trainer
    would stop, several processes would not find each other, and the masked model would compute
    logits of the words that are not masked, too."""
    if cfg.common.bf16:
        for name in FairseqConfig.__dataclass_fields__:
            group = getattr(cfg, name, None)
            if getattr(group, "tpu", False):
                group.tpu = False


def on_cpu(cfg: FairseqConfig) -> bool:
    return cfg.common.cpu or not torch.cuda.is_available()


def check_precision(cfg: FairseqConfig) -> None:
    """Raises BadInput for what fairseq cannot train in on a CPU, and says what does not pay."""
    if not on_cpu(cfg):
        return
    if cfg.common.fp16:
        raise BadInput("--fp16: fairseq trains in float16 on a GPU alone: leave it out, or give "
                       "--bf16")
    if cfg.common.bf16 and not bf16_pays():
        print("--bf16: this CPU has no bfloat16 instructions and is faster in float32",
              file=sys.stderr)


def train_alone(main: Callable, cfg: FairseqConfig, **more) -> None:
    """fairseq-train's main, in each process, once no other run writes to --save-dir: of two, each
    would overwrite the other's checkpoints, and checkpoint_best.pt would end as the worse one."""
    if cfg.checkpoint.no_save:
        return main(cfg, **more)
    folder, several = Path(cfg.checkpoint.save_dir), Processes()
    lock = Lock(folder / ".lock")
    try:
        make(folder)
        lock.acquire(f"--save-dir {folder}", several)
    except BadInput as error:
        sys.exit(complain(sys.argv[0], error, 2) if several.is_global_zero else 2)
    try:
        main(cfg, **more)
    except AssertionError as error:  # of a checkpoint of another criterion, or another precision
        if "--reset-optimizer" not in str(error):
            raise
        raise BadInput(f"--save-dir {folder}: its checkpoint does not fit: {error}") from error
    finally:
        lock.release()


def make(folder: Path) -> None:
    """Makes the folder where it is missing. Raises BadInput if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--save-dir {folder}: {error.strerror}: {error.filename}") from error
    if not os.access(folder, os.W_OK):
        raise BadInput(f"--save-dir {folder}: the folder is read-only")


def make_generate_orderly() -> None:
    """fairseq-generate's main, whether it was imported or started with -m."""
    for name in ("fairseq_cli.generate", "__main__"):
        module = sys.modules.get(name)
        main = getattr(module, "main", None)
        file = getattr(getattr(main, "__code__", None), "co_filename", "")
        if Path(file).parts[-2:] == ("fairseq_cli", "generate.py"):
            module.main = functools.wraps(main)(functools.partial(orderly, main))


def orderly(main: Callable, *args, **more):
    """main, in which an error whose cause is known is one line and an exit code."""
    with orderly_exit(sys.argv[0]):
        return main(*args, **more)


make_generate_orderly()
fairseq_call_main, distributed_utils.call_main = distributed_utils.call_main, call_main
