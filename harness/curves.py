"""What a run leaves to be looked at: metrics.csv (step,epoch,name,value), the same as TensorBoard
events, args.json, and a text log. Only the first process writes.

A run has a folder of its own. When it is resumed, rows and lines after the state's are cut, so that
the files end up as if the run had never stopped.
"""

import csv
import itertools
import json
import os
import shutil
import threading
from pathlib import Path

from harness import files

COLUMNS = ("step", "epoch", "name", "value")


def claim(log_dir: Path | str, name: str, save: Path | None = None) -> Path:
    """Makes log_dir/name, or name-2, name-3, ...: the first that is nobody's yet. mkdir decides, so
    that two runs started together never share one. save: the run's folder, if it writes into one;
    the run has it to itself, and the first curves may be drawn there. Else the file of its best
    model, whose name stays free."""
    log_dir = Path(log_dir)
    log_dir.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = log_dir / (name if number == 1 else f"{name}-{number}")
        is_save = save is not None and os.path.realpath(folder) == os.path.realpath(save)
        if is_save and not save.is_dir():
            continue
        try:
            folder.mkdir()
        except FileExistsError:
            if not is_save or (folder / "metrics.csv").exists():
                continue
        return folder.absolute()
    raise AssertionError


def continued(state: dict, own: bool, log_dir: Path | str, name: str, save: Path | None = None
              ) -> Path:
    """Where a resumed run's curves go on: where they were, if the state is its `own`. A copy of
    another run leaves that one's curves alone: it gets a folder of its own with the rows so far."""
    folder = Path(state["metrics"])
    if own:
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    copy = claim(log_dir, name, save)
    if (folder / "metrics.csv").is_file():
        shutil.copyfile(folder / "metrics.csv", copy / "metrics.csv")
    return copy


class Curves:
    """Appends to `folder`. step, size: where the state stands that the run resumes from, and how
    long metrics.csv was then (0: a fresh run). settings go into args.json."""

    def __init__(self, folder: Path, settings: dict, step: int = 0, size: int = 0):
        from torch.utils.tensorboard import SummaryWriter  # slow to import: not for -h
        self.folder, self.path = folder, folder / "metrics.csv"
        cut(self.path, size)
        if not self.size:
            self._append([COLUMNS])
        settings_path = folder / "args.json"
        with files.naming(settings_path):
            settings_path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        leave_errors_to_the_run()
        with files.naming(folder):
            self.board = SummaryWriter(str(folder), purge_step=step + 1)
        announce(folder)

    @property
    def size(self) -> int:
        """Bytes in metrics.csv."""
        return self.path.stat().st_size

    def log(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """One row per value; `train_loss` becomes train/loss on the board."""
        self._append([step, epoch, name, repr(float(value))] for name, value in values.items())
        with files.naming(self.folder):
            for name, value in values.items():
                self.board.add_scalar(name.replace("_", "/", 1), value, step)

    def _append(self, rows) -> None:
        with files.naming(self.path), self.path.open("a", newline="") as file:
            csv.writer(file).writerows(rows)

    def close(self) -> None:
        with files.naming(self.folder):
            self.board.close()


def leave_errors_to_the_run() -> None:
    """TensorBoard writes in a thread, which on a full disk would print a traceback; the same error
    is raised in the run when it writes next."""
    before = threading.excepthook

    def quiet(args) -> None:
        of_board = type(args.thread).__module__.startswith("tensorboard")
        if not (of_board and isinstance(args.exc_value, OSError)):
            before(args)
    if getattr(before, "__name__", "") != quiet.__name__:
        threading.excepthook = quiet


class TextLog:
    """A text file to which lines are appended. size: how long it was when the state was written
    that the run resumes from; None: the state does not say, nothing is cut."""

    def __init__(self, path: Path | str, size: int | None = None):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if size is None:
            self.path.touch()
        else:
            cut(self.path, size)

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def write(self, text: str) -> None:
        with files.naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


def cut(path: Path, size: int) -> None:
    """Shortens a file to `size` bytes; one that is gone starts anew."""
    with files.naming(path), path.open("ab") as file:
        file.truncate(min(size, path.stat().st_size))


def announce(folder: Path) -> None:
    """Appends the folder's path to the file that HARNESS_CURVES_LIST names: so a program that
    started this run knows where its curves are."""
    if listing := os.environ.get("HARNESS_CURVES_LIST"):
        with open(listing, "a", encoding="utf-8") as file:
            file.write(f"{folder}\n")
