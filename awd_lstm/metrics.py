"""Curves of a run: one CSV file (step,epoch,name,value) and TensorBoard events, side by side."""

import csv
from pathlib import Path


def run_folder(log_dir: Path, name: str) -> Path:
    """The first of log_dir/name, log_dir/name-2, ... that no earlier run has written to."""
    number, folder = 1, log_dir / name
    while (folder / "metrics.csv").exists():
        number += 1
        folder = log_dir / f"{name}-{number}"
    return folder


class Metrics:
    """Appends to `folder`. On resuming, what was written after update `step` is dropped first, so
    that the file ends up as if the run had never stopped."""

    def __init__(self, folder: Path, step: int = 0):
        from torch.utils.tensorboard import SummaryWriter  # slow to import: not for -h
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.csv"
        kept = [["step", "epoch", "name", "value"]]
        if step and self.path.exists():
            with self.path.open(newline="") as file:
                rows = list(csv.reader(file))[1:]
            kept += [row for row in rows if len(row) == 4 and int(row[0]) <= step]
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerows(kept)
        self.board = SummaryWriter(str(folder), purge_step=step + 1)

    def log(self, step: int, epoch: int, **values: float) -> None:
        """One row per value; `train_loss` becomes train/loss on the board."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows([step, epoch, name, repr(float(value))]
                                       for name, value in values.items())
        for name, value in values.items():
            self.board.add_scalar(name.replace("_", "/", 1), value, step)

    def close(self) -> None:
        self.board.close()
