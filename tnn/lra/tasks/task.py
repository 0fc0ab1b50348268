"""What a task is, ready for a DataLoader, and how the originals split data."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.utils.data import Dataset, Subset, random_split

from harness.notices import notice

SPLIT_SEED = 42  # of every random split, whatever the seed of the run


@dataclass
class Task:
    """One task.

    collate: list of samples -> x, y, lengths. Text: x (B, n) int64 ids, padded with 0 to the
    longest text; images: x (B, n, d_input) float32. y (B,) int64. lengths (B,) int64. A sample of
    aan is two texts: x (2B, n) and lengths (2B,), all first texts, then all second ones; y (B,).
    inputs: SHA-256 of the files by name, of images of the tables that list them.
    """

    name: str
    train: Dataset
    val: Dataset
    test: Dataset
    collate: Callable[[list], tuple[Tensor, Tensor, Tensor]]
    classes: int
    l_max: int
    itos: list[str] | None = None  # text: id -> token
    d_input: int | None = None  # images: channels per pixel
    inputs: dict[str, str] = field(default_factory=dict)

    @property
    def vocab_size(self) -> int | None:
        return self.itos and len(self.itos)


def split(data: Dataset, sizes: list[int]) -> list[Subset]:
    """A random split as the originals draw it."""
    return random_split(data, sizes, torch.Generator().manual_seed(SPLIT_SEED))


@rank_zero_only
def note(text: str) -> None:
    """What a user should know, once, not once per process."""
    notice(text)
