"""ListOps: nested lists and the value they reduce to. Reads the data, or generates them.

    python tnn/lra/tasks/listops.py --out tnn/lra/data/listops       # 96000 / 2000 / 2000 samples
    python tnn/lra/tasks/listops.py --out /tmp/listops --train 1000 --val 100 --test 100

writes basic_{train,val,test}.tsv in the format of the release: header Source, Target; tab; CRLF.
The published size takes about three minutes of processor time, shared by --workers processes, and
650 MB. The same --seed gives the same files, however many processes work.
"""

import argparse
import contextlib
import csv
import hashlib
import itertools
import os
import random
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from tqdm import tqdm

from harness.endings import (
    bad_input,
    clear_up_on_signals,
    leave_signals_to_parent,
    orderly_exit,
    signals_held,
)
from tnn.lra.tasks import TASKS
from tnn.lra.tasks.tables import label_of, tsv_rows

if TYPE_CHECKING:
    from tnn.lra.tasks.task import Task
    from tnn.lra.tasks.texts import Row

OPERATORS = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),  # 2.5 becomes 2
    "[SM": lambda values: sum(values) % 10,
}
NAMES = list(OPERATORS)
SHARE_OF_LISTS = 0.25  # of the nodes above the greatest depth
DRAWS = 2000  # trees per block; about one in twelve has a length that is wanted
BLOCKS_PER_TURN = 32
LENGTHS = (500, 2000)  # of the release; strictly between them
MOST_WORKERS = 1000


# ------------------------------------------------------------------------------------------------
# Reading


def load(task: str, folder: Path, args: argparse.Namespace) -> "Task":
    """Raises FileNotFoundError or ValueError."""
    from tnn.lra.tasks.texts import SPLITS, text_task  # imports torch: not for the generator
    files = [folder / f"basic_{split}.tsv" for split in SPLITS]
    rows = [lambda path=path: read_rows(path, args.tsv_quoting) for path in files]
    return text_task(task, folder, files, rows, operators_and_digits, args)


def read_rows(path: Path, quoting: str) -> Iterator["Row"]:
    rows = tsv_rows(path, 2, quoting)
    if (header := next(rows, None)) != ["Source", "Target"]:
        raise ValueError(f"{path}: its first line is {header}, not Source, Target")
    for source, target in rows:
        yield (source,), label_of(target, path, TASKS["listops"].classes)


def operators_and_digits(text: str) -> list[str]:
    """The tokens: no parentheses, and ] is called X."""
    return text.replace("(", "").replace(")", "").replace("]", "X").split()


# ------------------------------------------------------------------------------------------------
# Trees


def draw_tree(rng: random.Random, max_depth: int = 10, max_args: int = 10,
              depth: int = 1) -> tuple[str, int, int]:
    """A random tree: how it is written, its value, its length (tokens but parentheses).

    Random numbers are asked for in the order of the Long Range Arena's own generator.
    """
    r = rng.random() if depth < max_depth else 1
    if r > SHARE_OF_LISTS:
        digit = rng.choice(range(10))
        return str(digit), digit, 1
    count = rng.randint(2, max_args)
    texts, values, lengths = zip(*(draw_tree(rng, max_depth, max_args, depth + 1)
                                   for _ in range(count)), strict=True)
    name = rng.choice(NAMES)
    return written(name, texts), OPERATORS[name](values), 2 + sum(lengths)


def written(name: str, arguments: tuple[str, ...]) -> str:
    """Binary brackets: the operator takes one argument after the other, then the end mark ]."""
    return " ".join(["( " * (len(arguments) + 1) + name, *(f"{a} )" for a in arguments), "] )"])


def evaluate(text: str) -> int:
    """The value of a written tree. Parentheses say nothing that [ and ] do not: both the Arena's
    files and the original ListOps' can be read. Raises ValueError if the text is no such tree."""
    stack: list[list] = [[None]]
    for token in text.replace("(", " ").replace(")", " ").split():
        if token in OPERATORS:
            stack.append([token])
        elif token == "]" and len(stack) > 1 and len(stack[-1]) > 1:
            name, *values = stack.pop()
            stack[-1].append(OPERATORS[name](values))
        elif token.isdecimal() and token.isascii() and len(token) == 1:
            stack[-1].append(int(token))
        else:
            raise ValueError(f"unexpected {token!r} in a ListOps tree")
    if len(stack) != 1 or len(stack[0]) != 2:
        raise ValueError("not one complete ListOps tree")
    return stack[0][1]


# ------------------------------------------------------------------------------------------------
# Generating files


def draw_block(block: int, settings: argparse.Namespace) -> list[tuple[str, int]]:
    """The trees of wanted length among the DRAWS of a block, which has its own random numbers."""
    rng = random.Random(f"listops {settings.seed} {block}")
    trees = (draw_tree(rng, settings.max_depth, settings.max_args) for _ in range(DRAWS))
    return [(text, value) for text, value, length in trees
            if settings.min_length < length < settings.max_length]


def samples(settings: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Distinct trees and their values without end, in an order that the seed alone decides.

    Raises ValueError when the settings leave next to no trees to be found.
    """
    seen: set[bytes] = set()
    with parallel_map(settings.workers) as over:
        # Blocks are asked for in turns: a pool alone would run ahead of the writer without bound.
        for turn in itertools.count():
            before = len(seen)
            blocks = range(turn * BLOCKS_PER_TURN, (turn + 1) * BLOCKS_PER_TURN)
            for trees in over(partial(draw_block, settings=settings), blocks):
                for text, value in trees:
                    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
                    if digest not in seen:
                        seen.add(digest)
                        yield text, value
            if len(seen) == before:
                raise ValueError(f"no further tree in {BLOCKS_PER_TURN * DRAWS:,} draws: widen "
                                 "--min-length, --max-length, --max-depth or --max-args")


@contextlib.contextmanager
def parallel_map(workers: int) -> Iterator[Callable]:
    """A `map` that has `workers` processes; with one it is the built-in map. Signals are heeded
    between two results, which raises Interrupted."""
    with signals_held() as leave_if_asked, contextlib.ExitStack() as stack:
        plain: Callable = map
        if workers > 1:
            # Not multiprocessing.Pool: ending it while a process holds the queue's lock can wait
            # for ever.
            executor = ProcessPoolExecutor(workers, initializer=leave_signals_to_parent)
            stack.callback(executor.shutdown, cancel_futures=True)
            plain = executor.map

        def heeding(function: Callable, items: Iterable) -> Iterator:
            for result in plain(function, items):
                leave_if_asked()
                yield result

        yield heeding


def write(folder: Path, settings: argparse.Namespace) -> None:
    """Writes the three files; none of them is there before all are complete."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"train": settings.train, "val": settings.val, "test": settings.test}
    parts = {split: folder / f".basic_{split}.tsv.{os.getpid()}.part" for split in sizes}
    source = samples(settings)
    bar = tqdm(total=sum(sizes.values()), unit="tree", disable=None, desc="listops")
    try:
        for split, path in parts.items():
            with path.open("w", encoding="ascii", newline="") as file:
                writer = csv.writer(file, delimiter="\t")  # ends lines by CRLF
                writer.writerow(["Source", "Target"])
                for sample in itertools.islice(source, sizes[split]):
                    writer.writerow(sample)
                    bar.update()
                file.flush()
                os.fsync(file.fileno())
        for split, path in parts.items():
            path.replace(folder / f"basic_{split}.tsv")
    finally:
        bar.close()
        source.close()  # ends the processes
        for path in parts.values():
            path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------
# Command line


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to fill")
    for split, size in (("train", 96_000), ("val", 2_000), ("test", 2_000)):
        parser.add_argument(f"--{split}", type=int, default=size, metavar="N",
                            help=f"samples of basic_{split}.tsv ({size})")
    parser.add_argument("--min-length", type=int, default=LENGTHS[0], metavar="N",
                        help="a tree has more tokens than this (500)")
    parser.add_argument("--max-length", type=int, default=LENGTHS[1], metavar="N",
                        help="and fewer than this (2000)")
    parser.add_argument("--max-depth", type=int, default=10, metavar="N",
                        help="a list at this depth holds digits only (10)")
    parser.add_argument("--max-args", type=int, default=10, metavar="N",
                        help="a list has 2 to this many elements (10)")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N",
                        help="processes; the result does not depend on it (all processors)")
    return parser.parse_args(arguments)


def refuse_too_large(settings: argparse.Namespace) -> None:
    """Raises ValueError for numbers that no machine has the time, or the processes, for."""
    for name, value in vars(settings).items():
        most = MOST_WORKERS if name == "workers" else 2**62
        if isinstance(value, int) and value > most:
            raise ValueError(f"--{name.replace('_', '-')} {value} is too large")


def main(arguments: list[str] | None = None) -> None:
    settings = parse(arguments)
    clear_up_on_signals()
    lowest = {"train": 1, "val": 1, "test": 1, "max_depth": 1, "max_args": 2, "workers": 1}
    with orderly_exit("listops.py"), bad_input():
        refuse_too_large(settings)
        for name, least in lowest.items():
            if getattr(settings, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}")
        write(settings.out, settings)
        print(f"listops: {settings.train} / {settings.val} / {settings.test} samples in "
              f"{settings.out}")


if __name__ == "__main__":
    main()
