"""Flags that every script has: added, checked, and compared when a run is resumed.

Imports neither torch nor the papers: a script parses its flags before it imports them, so that -h
and a typing mistake answer at once.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from harness import extras, home
from harness.endings import BadInput
from harness.notices import notice

OnOff = argparse.BooleanOptionalAction

# Flags in which a resumed run may differ from its beginning: they change no number (or, `device`,
# say so themselves), or say where things are, which is checked by content. All others must be the
# same; a paper's own flags of this kind are Keeper's `free`.
FREE_ON_RESUME = frozenset({
    "save", "resume", "load", "data", "log_dir", "epochs", "max_steps", "log_interval",
    "save_interval", "device", "devices", "cuda", "cuda_graphs", "eval", "workers"})

ADAPTIVE = frozenset({"adafactor", "adagrad", "adam", "adamax", "adamw", "nadam", "radam",
                      "rmsprop"})
HIGH_RATE = 0.1  # of these optimisers


class Namespace(argparse.Namespace):
    """Parsed flags. vars() holds the values alone; besides, the flags' `defaults`; the names of
    those that were `given`; `typed`, how each is typed ({"save_interval": "--save-interval"});
    `slower_on_cpu`, the names of switches that only make a run slower there; and `again`: has this
    process parsed its command line before? A script does so before it imports torch, and then in
    main(); what there is to say of the flags is said once."""

    __slots__ = ("again", "defaults", "given", "slower_on_cpu", "typed")

    def tell(self, text: str) -> None:
        """A line on stderr, by one of the processes."""
        if not self.again and os.environ.get("LOCAL_RANK", "0") == "0":
            notice(text)


_parsed: set[tuple[str, ...]] = set()  # command lines of this process


class Parser(argparse.ArgumentParser):
    """Names the commands as they are typed here, see home.commands."""

    def format_help(self) -> str:
        return home.commands(super().format_help())

    def error(self, message: str) -> NoReturn:
        super().error(home.commands(message))


def parser(description: str, **options) -> argparse.ArgumentParser:
    """A parser whose -h shows every default; with it a script begins, so from now on a missing
    package is answered in one line."""
    extras.explain_missing()
    return Parser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **options)


def parse(p: argparse.ArgumentParser, argv: list[str] | None = None,
          infinite: Iterable[str] = ()) -> Namespace:
    """The flags' values. Refuses numbers that are no numbers: nan passes every comparison, and
    torch knows 64 bits. `infinite` names the flags that may be infinite."""
    args = p.parse_args(argv, Namespace())
    args.again = argv is None and tuple(sys.argv) in _parsed
    if argv is None:
        _parsed.add(tuple(sys.argv))
    args.defaults = {action.dest: p.get_default(action.dest) for action in p._actions}
    # argparse puts no default where there is a value already.
    unset = object()
    again = p.parse_args(argv, Namespace(**dict.fromkeys(args.defaults, unset)))
    args.given = {name for name, value in vars(again).items() if value is not unset}
    args.typed = {action.dest: action.option_strings[0] for action in p._actions
                  if action.option_strings}
    args.slower_on_cpu = {action.dest for action in p._actions
                          if getattr(action, "slower_on_cpu", False)}
    for name, value in vars(args).items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, float) and (math.isnan(number) or (
                    math.isinf(number) and name not in infinite)):
                p.error(f"{typed(args, name)} must be a finite number, not {number}")
            if isinstance(number, int) and abs(number) >= 2**62:
                p.error(f"{typed(args, name)} {number} is too large")
    default = args.defaults.get("log_dir")
    if default is not None and args.log_dir == default and not args.again:
        home.announce(Path(args.log_dir))
    return args


def typed(args: argparse.Namespace, name: str) -> str:
    """How the flag of an argument is typed."""
    return getattr(args, "typed", {}).get(name, f"--{name.replace('_', '-')}")


# ----------------------------------------------------------------------------------- adding
def add_machine(p: argparse.ArgumentParser, precisions: Iterable[str] = ("32", "bf16-mixed", "64"),
                precision: str | None = "32", cuda: bool = True) -> None:
    """--device, --precision, --deterministic, and with `cuda` the originals' --cuda."""
    g = p.add_argument_group("machine")
    if cuda:
        g.add_argument("--cuda", action=OnOff, default=None,
                       help="the same as --device cuda; --no-cuda is --device cpu")
    g.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"),
                   help="what to compute on")
    g.add_argument("--precision", default=precision, choices=tuple(precisions),
                   help="arithmetic: single, bfloat16 where it is safe, or double")
    g.add_argument("--tf32", action=OnOff, default=None,
                   help="round the factors of float32 products to 10 bits of mantissa, several "
                        "times as fast (None: on a GPU that has TF32)")
    g.add_argument("--deterministic", action="store_true",
                   help="only algorithms that give the same bits every time (CUDA)")


def add_parallel(p: argparse.ArgumentParser, compiles: str = "torch.compile the model",
                 slower_on_cpu: bool = True) -> None:
    """--devices and --compile."""
    g = p.add_argument_group("speed")
    g.add_argument("--devices", type=int, default=1, metavar="N",
                   help="processes, one per device, that share the batch (torchrun's count wins)")
    add_compile(g, compiles, slower_on_cpu)


def add_graphs(p: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """--cuda-graphs, see harness.graphs. Returns its group."""
    g = p.add_argument_group("launches")
    g.add_argument(
        "--cuda-graphs", action="store_true",
        help="on a GPU, record what an update launches, once for each shape of a batch, and replay "
             "it as one launch: same numbers, more memory (tested on a pretended GPU alone)")
    return g


def add_compile(group: argparse._ArgumentGroup, compiles: str, slower_on_cpu: bool) -> None:
    """--compile. slower_on_cpu: ignored on a CPU, with a line that says so; --compile force is
    not."""
    action = group.add_argument(
        "--compile", nargs="?", const=True, default=False, choices=("force",), metavar="force",
        help=compiles + "; ignored on a CPU, where it only loses time, unless forced"
        * slower_on_cpu)
    vars(action)["slower_on_cpu"] = slower_on_cpu


def add_run(p: argparse.ArgumentParser, log_dir: Path | str, resume: str | None =
            "continue the run of --save exactly where it stopped, or that of PATH") -> None:
    """--resume, --max-steps, --save-interval, --log-dir. resume: its help; None: the script has its
    own --resume."""
    g = p.add_argument_group("run")
    if resume:
        g.add_argument("--resume", nargs="?", const="", default=None, metavar="PATH", help=resume)
    g.add_argument("--save-interval", type=int, default=1000, metavar="N",
                   help="write the training state every N updates, and at each epoch's end")
    g.add_argument("--max-steps", type=int, default=0, metavar="N",
                   help="stop after N updates in all (0: no limit); --resume goes on from there")
    g.add_argument("--log-dir", default=str(home.logs(Path(log_dir))), metavar="DIR",
                   help="where metrics.csv and TensorBoard files go, in a folder named after "
                        "--save")


# ---------------------------------------------------------------------------------- checking
def check(p: argparse.ArgumentParser, args: argparse.Namespace, positive: Iterable[str] = (),
          not_negative: Iterable[str] = (), rates: Iterable[str] = (),
          most: dict[str, int] | None = None, shared_batch: bool = True) -> None:
    """Refuses nonsense in one sentence that names the flag (exit code 2).

    positive, not_negative: names of numbers; rates: of dropout rates, in [0, 1); most: the greatest
    values allowed; shared_batch: --batch_size counts the samples of all processes together. Flags
    of this file are checked too. Names that the script lacks, and values of None, pass.
    """
    def given(names: Iterable[str]) -> list[tuple[str, float]]:
        return [(name, getattr(args, name)) for name in names
                if getattr(args, name, None) is not None]

    for name, value in given((*positive, "epochs", "batch_size", "devices", "save_interval",
                              "log_interval", "lr")):
        if value <= 0:
            least = "positive" if isinstance(value, float) else "at least 1"
            p.error(f"{typed(args, name)} must be {least}, not {value}")
    for name, value in given((*not_negative, "max_steps")):
        if value < 0:
            p.error(f"{typed(args, name)} must not be negative, not {value}")
    for name, value in given(rates):
        if not 0 <= value < 1:
            p.error(f"{typed(args, name)} must be in [0, 1), not {value}")
    for name, limit in (most or {}).items():
        for _, value in given([name]):
            if value > limit:
                p.error(f"{typed(args, name)} must be at most {limit}, not {value}")
    for name, value in given(["seed"]):
        if not 0 <= value < 2**32:
            p.error(f"{typed(args, name)} must be in [0, 2**32), not {value}")
    if getattr(args, "cuda", None) and args.device not in ("auto", "cuda"):
        p.error(f"--cuda and --device {args.device} contradict each other: give one of them")
    if getattr(args, "cuda", None) is False and args.device not in ("auto", "cpu"):
        p.error(f"--no-cuda and --device {args.device} contradict each other: give one of them")
    if getattr(args, "cuda_graphs", False):
        refuse_with_graphs(p, args)
    if shared_batch and getattr(args, "devices", 1) > getattr(args, "batch_size", math.inf):
        p.error(f"--devices {args.devices} cannot share {typed(args, 'batch_size')} "
                f"{args.batch_size}")


def refuse_with_graphs(p: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """What --cuda-graphs does not go with (exit code 2)."""
    processes = int(os.environ.get("WORLD_SIZE", getattr(args, "devices", 1)))
    if processes > 1:
        p.error(f"--cuda-graphs is for one process, not {processes}: leave it out")
    if getattr(args, "compile", False):
        p.error("--cuda-graphs and --compile: give one of them")
    if (batches := getattr(args, "accumulate", 1)) > 1:
        p.error(f"--cuda-graphs records one batch an update, not --accumulate {batches}: give a "
                "larger batch or leave it out")


def rate_of_adaptive(args: Namespace, optimizer: str) -> None:
    """A default of --lr meant for SGD, such as 30, makes optimisers of Adam's kind diverge: they
    get 1e-3 in its place, and a line says so. One that was typed is kept, with a warning."""
    if optimizer.lower() not in ADAPTIVE or args.lr <= HIGH_RATE:
        return
    if args.lr is args.defaults["lr"]:  # argparse makes a new number of what is typed
        args.lr = 1e-3
        text = f"{optimizer} without --lr: {args.lr}; the default {args.defaults['lr']} is for SGD"
    else:
        text = f"{optimizer} with --lr {args.lr} will diverge; usual is 1e-3"
    args.tell(text)


def as_given(args: argparse.Namespace, name: str) -> str:
    """A flag with its value, as it may have been typed: --emsize 400, --no-tied."""
    flag, value = typed(args, name), getattr(args, name)
    if isinstance(value, bool):
        return flag if value else flag.replace("--", "--no-", 1)
    return " ".join([flag, *map(str, value if isinstance(value, (list, tuple)) else [value])])


def say_inert(args: Namespace, reasons: dict[str, str]) -> None:
    """Says which of the flags given do nothing, and why. reasons: by the flags' names."""
    for name, reason in reasons.items():
        if name in args.given and getattr(args, name) != args.defaults[name]:
            args.tell(f"{as_given(args, name)}: no effect, {reason}")


def overruled(args: argparse.Namespace, own: dict) -> str:
    """What to say of the flags given where a model's own settings, by the flags' names, are
    others; empty for none."""
    differ = [f"{as_given(args, name)} (model: {value})" for name, value in own.items()
              if name in getattr(args, "given", ()) and getattr(args, name) != value]
    return f"The model's own settings are used, not {', '.join(differ)}" if differ else ""


# ---------------------------------------------------------------------------------- resuming
def plain(args: argparse.Namespace) -> dict:
    """The settings as values of JSON."""
    def value(given):
        if isinstance(given, (list, tuple)):
            return [value(each) for each in given]
        return given if isinstance(given, (str, int, float, bool, type(None))) else str(given)
    return {name: value(given) for name, given in vars(args).items()}


def refuse_other_settings(path: Path | str, then: dict, args: argparse.Namespace,
                          free: Iterable[str] = ()) -> None:
    """Raises BadInput naming every flag in which a run differs from its state in the file `path`.

    then: the settings there. A flag that did not exist yet counts as its default, one that exists
    no longer counts as nothing.
    """
    free = FREE_ON_RESUME | set(free)
    defaults, now = plain(Namespace(**getattr(args, "defaults", {}))), plain(args)
    differ = [f"{typed(args, name)} {then.get(name, defaults.get(name))} there, {value} here"
              for name, value in now.items()
              if name not in free and then.get(name, defaults.get(name, value)) != value]
    if differ:
        raise BadInput(f"--resume: {path} was made with other settings ({'; '.join(differ)}); give "
                       "the same ones")
