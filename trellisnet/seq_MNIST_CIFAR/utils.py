"""The order of the images, the share of a process in a batch, and the lines of the log."""

import torch
from lightning_fabric import Fabric
from torch import Tensor

TRAIN_LINE = ("Train Epoch: {epoch} [{seen}/{total} ({percent:.0f}%)]\tlr: {lr:.6f}\t"
              "Loss: {loss:.6f}\tSteps: {steps}")
TEST_LINE = "Test set: Average loss: {loss:.4f}, Accuracy: {correct}/{total} ({percent:.0f}%)"


def batches(n: int, batch_size: int, shuffle: bool = False, seed: int = 0) -> tuple[Tensor, ...]:
    """Row numbers of each batch; the order depends on `seed` alone, so a run can be resumed."""
    rows = torch.arange(n)
    if shuffle:
        rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return rows.split(batch_size)


def my_part(rows: Tensor, fabric: Fabric) -> tuple[Tensor, float]:
    """This process's rows of a batch, and their weight relative to the mean share. A process left
    without rows computes one for nothing, since all must take part in the gradient."""
    world, rank = fabric.world_size, fabric.global_rank
    mine = rows[len(rows) * rank // world:len(rows) * (rank + 1) // world]
    return (mine, len(mine) * world / len(rows)) if len(mine) else (rows[:1], 0.0)
