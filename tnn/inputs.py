"""What the scripts of im/ and lra/ read alike: CIFAR-10, pictures that may be damaged."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from harness.endings import leave_signals_to_parent
from harness.pictures import cifar10_records

Images = tuple[np.ndarray, np.ndarray]  # (N, 32, 32, 3) uint8, labels (N,) int64


# ----------------------------------------------------------------------------------- CIFAR-10
def cifar10(folder: Path) -> tuple[list[Path], Images, Images]:
    """The files that are read, training images, test images: of torchvision's layout, or of the
    binary version what there is. Raises FileNotFoundError, or ValueError for damaged files."""
    if (batches := folder / "cifar-10-batches-py").is_dir():
        files = sorted(path for path in batches.iterdir() if "_batch" in path.name)
        return files, *(unpickled(folder, train) for train in (True, False))
    found = [sorted(folder.glob(name)) for name in ("data_batch_*.bin", "test_batch*.bin")]
    if not all(found):
        raise FileNotFoundError(f"{folder} holds neither cifar-10-batches-py nor data_batch_*.bin "
                                "and test_batch*.bin")
    return [path for paths in found for path in paths], *map(records, found)


def unpickled(folder: Path, train: bool) -> Images:
    """By torchvision, which compares MD5 sums first: only the published pickles are opened."""
    from torchvision.datasets import CIFAR10  # slow to import, and seldom needed
    try:
        part = CIFAR10(str(folder), train=train)
    except Exception as error:  # whatever damaged files make torchvision raise
        raise ValueError(f"{folder} is damaged ({str(error).splitlines()[0]})") from None
    return part.data, np.array(part.targets)


def records(paths: list[Path]) -> Images:
    """The binary version, colours last. Raises ValueError naming the file."""
    pixels, labels = cifar10_records(paths)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), labels


# --------------------------------------------------------------------------------- bad files
class DamagedPicture(ValueError):
    """A picture that cannot be read; the message names it."""

    def __init__(self, path: Path | str, reason: object):
        text = " ".join(str(reason).split()) or type(reason).__name__
        super().__init__(text if str(path) in text else f"{path}: {text}")

    def __reduce__(self):  # to the training process, from one that loads
        return DamagedPicture, ("", str(self))


class _Caught(Dataset):
    """The same samples; a damaged picture is returned, not raised: from a loading process an
    exception would arrive as a traceback of many lines."""

    def __init__(self, data: Dataset):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key):
        try:
            return self.data[key]
        except DamagedPicture as error:
            return error


class _Collated:
    """collate, but the first damaged picture stands for its whole batch."""

    def __init__(self, collate: Callable):
        self.collate = collate

    def __call__(self, samples: list):
        damaged = next((s for s in samples if isinstance(s, DamagedPicture)), None)
        return self.collate(samples) if damaged is None else damaged


def picture_loader(data: Dataset, collate: Callable = default_collate, **options) -> DataLoader:
    """A DataLoader; iterate over `batches(loader)`."""
    return DataLoader(_Caught(data), collate_fn=_Collated(collate), **options)


def batches(loader: DataLoader) -> Iterator:
    """The loader's batches. Raises DamagedPicture."""
    for batch in loader:
        if isinstance(batch, DamagedPicture):
            raise batch
        yield batch


def leave_signals(worker: int) -> None:
    """For loading processes: the training process alone acts upon signals."""
    leave_signals_to_parent()
    torch.set_num_threads(1)
