"""Small pictures as published files hold them, which the image scripts of several papers read:
CIFAR-10's binary version, scikit-learn's digits."""

from pathlib import Path

import numpy as np

RECORD = 1 + 3 * 32 * 32  # of CIFAR-10's binary version: label, red, green, blue

Pictures = tuple[np.ndarray, np.ndarray]  # uint8, and labels (N,) int64


def cifar10_records(paths: list[Path]) -> Pictures:
    """Pictures (N,3,32,32) of files of the binary version. Raises ValueError naming the file."""
    contents = []
    for path in paths:
        content = np.fromfile(path, np.uint8)
        if content.size % RECORD or not content.size:
            raise ValueError(f"{path}: not a whole number of images")
        contents.append(content.reshape(-1, RECORD))
        check_labels(path, contents[-1][:, 0])
    content = np.concatenate(contents)
    return content[:, 1:].reshape(-1, 3, 32, 32), content[:, 0].astype(np.int64)


def digits(path: Path) -> tuple[Pictures, Pictures]:
    """Training and test pictures (N,8,8), values 0 to 16, of a digits.npz as getdata makes it.
    Raises ValueError, or what numpy raises for damaged files."""
    found = []
    with np.load(path) as file:
        for part in ("train", "test"):
            pixels, labels = file[f"{part}_images"], file[f"{part}_labels"]
            if pixels.ndim != 3 or len(pixels) != len(labels):
                raise ValueError(f"{path}: {part}_images and {part}_labels do not belong together")
            check_labels(path, labels)
            found.append((pixels, labels.astype(np.int64)))
    return found[0], found[1]


def check_labels(path: Path, labels: np.ndarray) -> None:
    """Raises ValueError naming the file unless there are labels, all of them from 0 to 9."""
    if not labels.size:
        raise ValueError(f"{path}: no image")
    for label in (labels.min(), labels.max()):
        if not 0 <= label <= 9:
            raise ValueError(f"{path}: the label {label} is none of 0 to 9")
