"""Images as sequences of pixels, row by row, normalised; in memory as bytes."""

import gzip
import math
import zlib
from argparse import Namespace
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness import pictures
from harness.pictures import check_labels
from kernels.transfer import sent


@dataclass
class Images:
    """values (n, channels, pixels) uint8, labels (n,) int64; a pixel reads (value * scale - mean) /
    std, one mean and std per channel. `files`: what they were read from."""

    name: str
    values: Tensor
    labels: Tensor
    scale: float
    mean: float
    std: float
    files: list[Path] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def channels(self) -> int:
        return self.values.shape[1]

    @property
    def pixels(self) -> int:
        return self.values.shape[2]

    def reordered(self, order: Tensor) -> "Images":
        """The same images with their pixels in another order."""
        return replace(self, values=self.values[:, :, order])

    def to(self, device: torch.device) -> "Images":
        return replace(self, values=self.values.to(device), labels=self.labels.to(device))

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (N, channels, pixels) of the default floating type, and labels (N,)."""
        rows = sent(rows, self.values.device)
        pixels = self.values[rows].to(torch.get_default_dtype()) * self.scale
        return (pixels - self.mean) / self.std, self.labels[rows]


def load_images(path: str, cifar: bool) -> tuple[Images, Images]:
    """Training and test images found in the folder `path`. Raises FileNotFoundError, or ValueError
    if the files are damaged; both say how to get them."""
    folder = Path(path)
    fetched = f"./getdata.sh {'cifar10' if cifar else 'mnist'} fetches them"
    try:
        if (folder / "digits.npz").is_file():
            return digits(folder / "digits.npz")
        return cifar10(folder) if cifar else mnist(folder)
    except (FileNotFoundError, RuntimeError) as error:
        raise FileNotFoundError(f"{str(error).splitlines()[0]}; {fetched}") from error
    except Exception as error:  # whatever damaged files make numpy or torchvision raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"damaged image files ({reason}); {fetched}") from error


def mnist(folder: Path) -> tuple[Images, Images]:
    """60,000 and 10,000 images of 784 pixels: the four files as published, packed or unpacked, in
    torchvision's layout or in the folder itself. Raises FileNotFoundError or ValueError."""
    found = []
    for prefix in ("train", "t10k"):
        files = [find_idx(folder, f"{prefix}-{kind}") for kind in ("images-idx3", "labels-idx1")]
        pixels, labels = (torch.from_numpy(read_idx(path)) for path in files)
        if len(pixels) != len(labels) or pixels.ndim != 3:
            raise ValueError(f"{files[0]} and {files[1].name} do not belong together")
        check_labels(files[1], labels.numpy())
        found.append(Images("MNIST", pixels.flatten(1).unsqueeze(1), labels.long(), 1 / 255,
                            0.1307, 0.3081, files))
    return tuple(found)


def find_idx(folder: Path, name: str) -> Path:
    """The file of MNIST whose published name is `name`-ubyte.gz. Raises FileNotFoundError."""
    for below in ("MNIST/raw", "raw", ""):
        for file in (f"{name}-ubyte", f"{name.replace('-idx', '.idx')}-ubyte"):
            for path in (folder / below / file, folder / below / f"{file}.gz"):
                if path.is_file():
                    return path
    raise FileNotFoundError(f"no file {name}-ubyte or {name}-ubyte.gz in {folder} or "
                            f"{folder / 'MNIST/raw'}")


def read_idx(path: Path) -> np.ndarray:
    """An array of uint8: two zeros, 8 for bytes, the number of dimensions, their sizes (big-endian
    int32), the values. Raises ValueError naming the file."""
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: {error}") from error
    start = 4 + 4 * content[3] if len(content) > 3 else 4
    shape = tuple(np.frombuffer(content[4:start], ">i4").tolist()) if len(content) >= start else ()
    if content[:3] != b"\0\0\x08" or not shape or math.prod(shape) != len(content) - start:
        raise ValueError(f"{path}: not a whole file of MNIST")
    return np.frombuffer(bytearray(content), np.uint8, offset=start).reshape(shape)


def cifar10(folder: Path) -> tuple[Images, Images]:
    """50,000 and 10,000 images of 3 x 1024 pixels; of the binary version, what there is."""
    if binary := sorted(folder.glob("data_batch_*.bin")):
        return tuple(Images("CIFAR-10", *read_records(paths), 1 / 255, 0.5, 0.5, paths)
                     for paths in (binary, sorted(folder.glob("test_batch*.bin"))))
    from torchvision.datasets import CIFAR10  # slow to import
    found = []
    for train in (True, False):
        part = CIFAR10(str(folder), train=train)
        files = [Path(part.root) / part.base_folder / name
                 for name, _ in (part.train_list if train else part.test_list)]
        pixels = torch.from_numpy(part.data).permute(0, 3, 1, 2).flatten(2).contiguous()
        found.append(Images("CIFAR-10", pixels, torch.tensor(part.targets), 1 / 255, 0.5, 0.5,
                            files))
    return tuple(found)


def read_records(paths: list[Path]) -> tuple[Tensor, Tensor]:
    """Pixels (n, 3, 1024) uint8 and labels (n,) of files of CIFAR-10's binary version. Raises
    FileNotFoundError, or ValueError naming the file."""
    if not paths:
        raise FileNotFoundError("no test_batch*.bin")
    pixels, labels = map(torch.from_numpy, pictures.cifar10_records(paths))
    return pixels.flatten(2), labels


def digits(path: Path) -> tuple[Images, Images]:
    """scikit-learn's 1,437 and 360 handwritten digits of 64 pixels, values 0 to 16."""
    return tuple(Images("digits", torch.from_numpy(pixels).flatten(1)[:, None],
                        torch.from_numpy(labels), 1 / 16, 0.305, 0.376, [path])
                 for pixels, labels in pictures.digits(path))


def pixel_order(pixels: int, args: Namespace) -> Tensor:
    """The permutation of permuted MNIST: --permutation's, or drawn from --seed. Raises ValueError.
    """
    if not args.permutation:
        return torch.from_numpy(np.random.RandomState(args.seed).permutation(pixels))
    try:
        order = torch.from_numpy(np.load(args.permutation, allow_pickle=False)).long()
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"--permutation {args.permutation}: {error}") from error
    if not torch.equal(order.flatten().sort().values, torch.arange(pixels)):
        raise ValueError(f"--permutation {args.permutation}: not an order of {pixels} pixels")
    return order
