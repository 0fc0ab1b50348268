"""Image tasks: CIFAR-10 and Pathfinder as sequences of pixels, row by row.

A pixel reads (byte / 255 - mean) / std, one mean and std per channel. CIFAR-10 stays in memory as
bytes; Pathfinder's images, 200,000 small files, are opened when they are asked for.
"""

from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from tnn.lra.data import REMEDIES, TASKS, Task, collate_images, split
from tnn.lra.snakes import SETS

RECORD = 1 + 3 * 32 * 32  # of CIFAR-10's binary version: label, red, green, blue
GREY = (122.6 / 255, 61 / 255)  # mean and std of the LRA's grey CIFAR-10
COLOR = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
# The release's one file without content, in a set that the published runs do not use.
EMPTY = Path("pathfinder32/curv_baseline/imgs/0/sample_172.png")


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
        """Raises ValueError if the image is missing or damaged."""
        try:
            with Image.open(self.paths[i]) as image:
                values = np.array(image.convert("L"))
        except (OSError, SyntaxError) as error:  # SyntaxError: what Pillow calls a broken PNG
            raise ValueError(f"{self.paths[i]}: {error}") from None
        if values.shape != (self.side, self.side):
            raise ValueError(f"{self.paths[i]} has {values.shape} pixels, not {self.side} squared")
        return normalise(values.reshape(-1, 1), self.mean, self.std), self.labels[i]


# ------------------------------------------------------------------------------------------------
# CIFAR-10


def cifar(task: str, folder: Path, args: Namespace) -> Task:
    """45,000 / 5,000 / 10,000 images; of the binary version, what there is of it."""
    (images, labels), test = cifar_images(folder)
    train = cifar_pixels(images, labels, args.color)
    count = int(len(train) * 0.9)
    parts = split(train, [count, len(train) - count])
    return Task(task, *parts, cifar_pixels(*test, args.color), collate_images,
                TASKS[task].classes, TASKS[task].l_max, d_input=3 if args.color else 1)


def cifar_images(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test images (N, 32, 32, 3) uint8 and labels (N,).

    Raises FileNotFoundError or ValueError.
    """
    if (folder / "cifar-10-batches-py").is_dir():
        from torchvision.datasets import CIFAR10  # slow to import: not for -h
        try:
            sets = [CIFAR10(str(folder), train=train) for train in (True, False)]
        except Exception as error:  # whatever damaged files make torchvision raise
            raise ValueError(f"cifar: {folder} is damaged ({str(error).splitlines()[0]}); "
                             f"{REMEDIES['cifar']}") from None
        return [(part.data, np.array(part.targets)) for part in sets]
    found = [sorted(folder.glob(name)) for name in ("data_batch_*.bin", "test_batch*.bin")]
    if not all(found):
        raise FileNotFoundError(f"cifar: {folder} holds neither cifar-10-batches-py nor "
                                f"data_batch_*.bin and test_batch*.bin; {REMEDIES['cifar']}")
    return [read_records(paths) for paths in found]


def read_records(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    records = np.concatenate([np.fromfile(path, np.uint8) for path in paths])
    if records.size % RECORD or not records.size:
        raise ValueError(f"{paths[0]}: not a whole number of images")
    records = records.reshape(-1, RECORD)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, records[:, 0].astype(np.int64)


def cifar_pixels(images: np.ndarray, labels: np.ndarray, color: bool) -> Pixels:
    """Images (N, 32, 32, 3) uint8 as sequences of 1,024 grey or coloured pixels."""
    if color:
        return Pixels(images.reshape(len(images), -1, 3), labels, *COLOR)
    return Pixels(grey_of(images).reshape(len(images), -1, 1), labels, *GREY)


def grey_of(images: np.ndarray) -> np.ndarray:
    """(..., 3) -> (...) uint8: ITU-R 601 luma in Pillow's fixed point, so equal to its mode L."""
    weights = np.array([19595, 38470, 7471], np.uint32)
    return ((images.astype(np.uint32) @ weights + (1 << 15)) >> 16).astype(np.uint8)


# ------------------------------------------------------------------------------------------------
# Pathfinder


def pathfinder(task: str, folder: Path, args: Namespace) -> Task:
    """pathfinder: 32 pixels a side; pathfinderx: 128. A tenth validates, a tenth tests."""
    side = {"pathfinder": 32, "pathfinderx": 128}[task]
    below = folder / f"pathfinder{side}" / SETS[args.contour_length]
    paths, labels = pathfinder_files(below, REMEDIES[task].format(folder))
    parts = split(ImageFiles(paths, labels, side), pathfinder_sizes(len(paths)))
    return Task(task, *parts, collate_images, TASKS[task].classes, TASKS[task].l_max, d_input=1)


def pathfinder_sizes(total: int) -> list[int]:
    """Images to train, validate and test."""
    tenth = int(total * 0.1)
    return [total - 2 * tenth, tenth, tenth]


def pathfinder_files(below: Path, remedy: str = "") -> tuple[list[Path], list[int]]:
    """Image files and labels of a set in the order of its metadata/<k>.npy, by growing integer k.

    Those files are plain text in spite of their name: folder, file, index, label and settings per
    line. Raises FileNotFoundError or ValueError.
    """
    tables = sorted((below / "metadata").glob("[0-9]*.npy"), key=lambda path: int(path.stem))
    if not tables:
        raise FileNotFoundError(f"pathfinder: no file {below}/metadata/*.npy; {remedy}")
    paths, labels = [], []
    for table in tables:
        for line in table.read_text(encoding="ascii", errors="replace").splitlines():
            fields = line.split()
            if len(fields) < 4 or fields[3] not in ("0", "1"):
                raise ValueError(f"{table}: no line of Pathfinder's metadata: {line[:80]!r}")
            path = below / fields[0] / fields[1]
            if fields[1] == EMPTY.name and path.match(str(EMPTY)) and not path.stat().st_size:
                continue
            paths.append(path)
            labels.append(int(fields[3]))
    return paths, labels
