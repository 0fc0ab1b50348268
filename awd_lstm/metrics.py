"""Curves of a run: one CSV file (step,epoch,name,value) and TensorBoard events, side by side."""

import csv
import shutil
from pathlib import Path


def run_folder(log_dir: Path, name: str) -> Path:
    """The first of log_dir/name, log_dir/name-2, ... that no earlier run has written to."""
    number, folder = 1, log_dir / name
    while (folder / "metrics.csv").exists():
        number += 1
        folder = log_dir / f"{name}-{number}"
    return folder


def resumed_folder(state: dict, save: str, log_dir: Path, name: str) -> Path:
    """Where a resumed run's curves go on: where they were, or, if it is a copy (its --save is not
    the one that wrote the state), in a folder of its own that begins with what was drawn so far."""
    folder = Path(state["metrics"])
    if state.get("save") in (None, str(Path(save).absolute())):
        return folder
    own = run_folder(log_dir, name)
    if (folder / "metrics.csv").is_file():
        own.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "metrics.csv", own / "metrics.csv")
    return own


class Metrics:
    """Appends to `folder`. On resuming, `size` is how long the file was when the state was written:
    what came after it is dropped, so that the file ends up as if the run had never stopped."""

    def __init__(self, folder: Path, step: int = 0, size: int = 0):
        from torch.utils.tensorboard import SummaryWriter  # slow to import: not for -h
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.csv"
        with self.path.open("a", newline="") as file:
            file.truncate(min(size, self.size))  # a file that is gone starts anew
            if not self.size:
                csv.writer(file).writerow(["step", "epoch", "name", "value"])
        self.board = SummaryWriter(str(folder), purge_step=step + 1)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.path.stat().st_size

    def log(self, step: int, epoch: int, **values: float) -> None:
        """One row per value; `train_loss` becomes train/loss on the board."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows([step, epoch, name, repr(float(value))]
                                       for name, value in values.items())
        for name, value in values.items():
            self.board.add_scalar(name.replace("_", "/", 1), value, step)

    def close(self) -> None:
        self.board.close()
