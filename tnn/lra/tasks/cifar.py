"""CIFAR-10, pixel by pixel: grey as published, or in colour.

    cifar/cifar-10-batches-py/, or the binary version's data_batch_*.bin and test_batch*.bin
"""

from argparse import Namespace
from pathlib import Path

import numpy as np

from harness.inputs import digest_of
from tnn.inputs import cifar10
from tnn.lra.tasks import TASKS
from tnn.lra.tasks.images import Pixels, collate_images
from tnn.lra.tasks.task import Task, split

GREY = (122.6 / 255, 61 / 255)  # mean and std of the LRA's grey CIFAR-10
COLOR = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))


def load(task: str, folder: Path, args: Namespace) -> Task:
    """45,000 / 5,000 / 10,000 images; of the binary version, what there is of it. Raises
    FileNotFoundError or ValueError."""
    try:
        files, (images, labels), test = cifar10(folder)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"cifar: {error}; {TASKS['cifar'].remedy}") from None
    train = cifar_pixels(images, labels, args.color)
    count = int(len(train) * 0.9)
    parts = split(train, [count, len(train) - count])
    return Task(task, *parts, cifar_pixels(*test, args.color), collate_images,
                TASKS[task].classes, TASKS[task].l_max, d_input=3 if args.color else 1,
                inputs={path.name: digest_of(path) for path in files})


def cifar_pixels(images: np.ndarray, labels: np.ndarray, color: bool) -> Pixels:
    """Images (N, 32, 32, 3) uint8 as sequences of 1,024 grey or coloured pixels."""
    if color:
        return Pixels(images.reshape(len(images), -1, 3), labels, *COLOR)
    return Pixels(grey_of(images).reshape(len(images), -1, 1), labels, *GREY)


def grey_of(images: np.ndarray) -> np.ndarray:
    """(..., 3) -> (...) uint8: ITU-R 601 luma in Pillow's fixed point, so equal to its mode L."""
    weights = np.array([19595, 38470, 7471], np.uint32)
    return ((images.astype(np.uint32) @ weights + (1 << 15)) >> 16).astype(np.uint8)
