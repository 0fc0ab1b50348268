"""What the image tasks share: images as sequences of pixels, row by row.

A pixel reads (byte / 255 - mean) / std, one mean and std per channel. CIFAR-10 stays in memory as
bytes; Pathfinder's images, 200,000 small files, are opened when they are asked for.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from tnn.inputs import DamagedPicture


def normalise(values: np.ndarray, mean: Tensor, std: Tensor) -> Tensor:
    """Bytes (n, C) -> float32 (n, C)."""
    return (torch.from_numpy(values).float() / 255 - mean) / std


class Pixels(Dataset):
    """Samples (pixels (n, C) float32, label) from bytes (N, n, C) and labels (N,) in memory."""

    def __init__(self, values: np.ndarray, labels: np.ndarray, mean, std):
        self.values, self.labels = values, labels
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return normalise(self.values[i], self.mean, self.std), int(self.labels[i])


class ImageFiles(Dataset):
    """Samples (pixels (side * side, 1) float32, label) from grey image files."""

    def __init__(self, paths: list[Path], labels: list[int], side: int):
        self.paths, self.labels, self.side = paths, labels, side
        self.mean = self.std = torch.tensor(0.5)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """Raises DamagedPicture if the image is missing or damaged."""
        try:
            with Image.open(self.paths[i]) as image:
                values = np.array(image.convert("L"))
        except Exception as error:  # whatever a damaged file makes Pillow raise
            raise DamagedPicture(self.paths[i], error) from None
        if values.shape != (self.side, self.side):
            raise DamagedPicture(self.paths[i], f"{values.shape} pixels, not {self.side} squared")
        return normalise(values.reshape(-1, 1), self.mean, self.std), self.labels[i]


def collate_images(samples: list[tuple]) -> tuple[Tensor, Tensor, Tensor]:
    """Samples (pixels (n, C), label) -> x, y, lengths of Task."""
    pixels, labels = zip(*samples, strict=True)
    x = torch.stack(pixels)
    return x, torch.tensor(labels), torch.full((len(x),), x.shape[1])
