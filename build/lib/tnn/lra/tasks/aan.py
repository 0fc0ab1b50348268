"""AAN: does one paper cite the other? Characters of both texts.

    aan/new_aan_pairs.{train,eval,test}.tsv, no header: label (a float), two ids, two texts
"""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from tnn.lra.tasks import TASKS
from tnn.lra.tasks.tables import label_of, tsv_rows
from tnn.lra.tasks.task import Task
from tnn.lra.tasks.texts import LEVELS, Row, text_task


def load(task: str, folder: Path, args: Namespace) -> Task:
    """Raises FileNotFoundError or ValueError."""
    files = [folder / f"new_aan_pairs.{split}.tsv" for split in ("train", "eval", "test")]
    rows = [lambda path=path: read_rows(path, args.tsv_quoting) for path in files]
    return text_task(task, folder, files, rows, LEVELS[args.level], args)


def read_rows(path: Path, quoting: str) -> Iterator[Row]:
    for label, _, _, first, second in tsv_rows(path, 5, quoting):
        yield (first, second), label_of(label, path, TASKS["aan"].classes)
