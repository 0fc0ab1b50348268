"""The order of the images, the share of a process in a batch, the lines of the log, and flags
without effect."""

from argparse import Namespace

import torch
from lightning_fabric import Fabric
from torch import Tensor

from trellisnet.trellisnet import TrellisNet

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


def inert_flags(args: Namespace, net: TrellisNet) -> list[str]:
    """The flags given that would change how `trellis_levels` computes, where it is not used: with
    --plain, or where `trellis_last` is faster."""
    if not (args.plain or net.skips_positions):
        return []
    given = {"--fir": args.fir, "--checkpoint-levels": args.checkpoint_levels,
             "--compile": args.compile}
    return [flag for flag, value in given.items() if value]
