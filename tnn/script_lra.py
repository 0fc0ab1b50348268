"""The published runs on the Long Range Arena, one after the other.

    ./getdata.sh lra                       # or: listops, imdb, cifar10, pathfinder, aan-small
    python tnn/script_lra.py               # says what can be run, and what the original would run
    python tnn/script_lra.py --task listops --data tnn/lra/data
    python tnn/script_lra.py --task all --gpus 2
    python tnn/script_lra.py --task imdb --lr 0.001 --max-steps 100 --dry-run

Texts (aan, imdb, listops) are run with tno, images (cifar, pathfinder, pathfinderx) with tno2d.
Every further flag goes to tnn/lra/main.py; its -h lists them.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from harness.endings import SIGNALS
from tnn.lra.recipes import ARCHS, published_arch, settings_of
from tnn.lra.tasks import TASKS

HERE = Path(__file__).resolve().parent
NOTHING_CHOSEN = """\
No --task is given, so nothing is run. The original had to be edited; as it was published it would
run the task assigned last, Path-X with two-dimensional units (128 x 128 pixels, 250,000 updates of
64 images on 8 GPUs):

    python tnn/script_lra.py --task pathfinderx --arch tno2d

Other choices (batch of all GPUs together, layers, width; published test accuracy):
"""
PUBLISHED = {"listops": 61.04, "imdb": 87.90, "aan": 90.97, "cifar": 88.24, "pathfinder": 93.00,
             "pathfinderx": 96.10}


def parse_args(argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Our own flags, and those for main.py."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False,
                                epilog="Every further flag goes to tnn/lra/main.py.")
    p.add_argument("--task", choices=(*TASKS, "all"), help="what to run")
    p.add_argument("--arch", choices=ARCHS, help="token mixer (default: tno for texts, tno2d for "
                   "images)")
    p.add_argument("--data", "--prefix", metavar="DIR", help="root of the tasks' folders (default: "
                   "$DATA_PATH, or tnn/lra/data)")
    p.add_argument("--gpus", type=int, metavar="N", help="GPUs (default: the published number, or "
                   "all there are); the batch of all together stays")
    p.add_argument("--settings", choices=("script", "yaml"), default="script",
                   help="hyperparameters of the published runs, or of the experiment files")
    p.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    args, more = p.parse_known_args(argv)
    if args.gpus is not None and args.gpus < 1:
        p.error("--gpus must be at least 1")
    if more and not more[0].startswith("-"):
        p.error(f"{more[0]}: unexpected; every flag is --name value")
    return args, more


def choices(block: str) -> str:
    """One line a task."""
    lines = []
    for task in TASKS:
        s = settings_of(task, block)
        lines.append(f"    --task {task:12} {s['arch']:6} batch {s['batch']:3}  {s['n_layers']:2} "
                     f"x {s['d_model']:3}  {PUBLISHED[task]:.2f}")
    return "\n".join(lines)


def gpus_for(wanted: int | None, published: int, batch: int) -> int:
    """Processes: as asked for, else the published number as far as there are GPUs and they can
    share the batch evenly; without any, one on the CPU."""
    if wanted:
        return wanted
    import torch  # slow to import: not to print a command
    most = max(1, min(published, torch.cuda.device_count()))
    return next(count for count in range(most, 0, -1) if batch % count == 0)


def command(args: argparse.Namespace, task: str, more: list[str]) -> list[str]:
    """What runs one task."""
    arch = args.arch or published_arch(task)
    name = f"{task}-{arch}"
    published = settings_of(task, args.settings, arch)
    gpus = gpus_for(args.gpus, published["gpus"], published["batch"])
    words = [sys.executable, str(HERE / "lra/main.py"), "--task", task, "--arch", arch,
             "--settings", args.settings, "--devices", str(gpus)]
    for flag, value in (("--data", args.data), ("--save", f"checkpoints/{name}.pt")):
        if value and not any(word.split("=")[0] == flag for word in more):
            words += [flag, value]
    return words + more


def run(words: list[str]) -> int:
    """Exit code of a command, to which signals are handed on: it saves its state."""
    stopped: list[int] = []
    children: list[subprocess.Popen] = []

    def hand_on(signum, frame):
        stopped.append(signum)
        for child in children:
            child.send_signal(signum)

    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup stays nohup
            signal.signal(signum, hand_on)
    child = subprocess.Popen(words)
    children.append(child)
    for signum in [*stopped]:  # that came while it was started
        child.send_signal(signum)
    code = child.wait()
    return 128 + stopped[0] if stopped and code < 0 else abs(code)


def main(argv: list[str] | None = None) -> int:
    args, more = parse_args(argv)
    if args.task is None:
        print(NOTHING_CHOSEN + choices(args.settings))
        return 0
    for task in TASKS if args.task == "all" else [args.task]:
        words = command(args, task, more)
        print(shlex.join(os.path.relpath(w) if Path(w).is_absolute() and w == words[1] else w
                         for w in words), flush=True)
        code = 0 if args.dry_run else run(words)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
