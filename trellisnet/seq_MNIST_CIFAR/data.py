"""Images as sequences of pixels, row by row, normalised; in memory as bytes."""

from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from trellisnet.environment import BadInput

RECORD = 1 + 3 * 32 * 32  # of CIFAR-10's binary version: label, red, green, blue


@dataclass
class Images:
    """values (n, channels, pixels) uint8, labels (n,) int64; a pixel reads (value * scale - mean) /
    std, one mean and std per channel."""

    name: str
    values: Tensor
    labels: Tensor
    scale: float
    mean: float
    std: float

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
        rows = rows.to(self.values.device)
        pixels = self.values[rows].to(torch.get_default_dtype()) * self.scale
        return (pixels - self.mean) / self.std, self.labels[rows]


def load_images(path: str, cifar: bool, fabric: Fabric) -> tuple[Images, Images]:
    """Training and test images found in the folder `path`. Raises BadInput."""
    folder = Path(path)
    name = "cifar10" if cifar else "mnist"
    try:
        if (folder / "digits.npz").is_file():
            return digits(folder / "digits.npz")
        return cifar10(folder) if cifar else mnist(folder)
    except (FileNotFoundError, RuntimeError) as error:
        raise BadInput(f"--data {path}: {str(error).splitlines()[0]}; ./getdata.sh {name} "
                       "fetches them") from None
    except Exception as error:  # whatever damaged files make numpy or torchvision raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadInput(f"--data {path}: damaged image files ({reason}); ./getdata.sh {name} "
                       "fetches them") from None


def mnist(folder: Path) -> tuple[Images, Images]:
    """60,000 and 10,000 images of 784 pixels."""
    from torchvision.datasets import MNIST  # slow to import: not for -h
    parts = [MNIST(str(folder), train=train) for train in (True, False)]
    return tuple(Images("MNIST", part.data.flatten(1).unsqueeze(1), part.targets.long(),
                        1 / 255, 0.1307, 0.3081) for part in parts)


def cifar10(folder: Path) -> tuple[Images, Images]:
    """50,000 and 10,000 images of 3 x 1024 pixels; of the binary version, what there is."""
    if binary := sorted(folder.glob("data_batch_*.bin")):
        parts = [read_records(binary), read_records(sorted(folder.glob("test_batch*.bin")))]
    else:
        from torchvision.datasets import CIFAR10
        sets = [CIFAR10(str(folder), train=train) for train in (True, False)]
        parts = [(torch.from_numpy(s.data).permute(0, 3, 1, 2).flatten(2).contiguous(),
                  torch.tensor(s.targets)) for s in sets]
    return tuple(Images("CIFAR-10", *part, 1 / 255, 0.5, 0.5) for part in parts)


def read_records(paths: list[Path]) -> tuple[Tensor, Tensor]:
    if not paths:
        raise FileNotFoundError("no test_batch*.bin")
    records = np.concatenate([np.fromfile(path, np.uint8) for path in paths])
    if records.size % RECORD:
        raise ValueError(f"{paths[0].name}: not a whole number of images")
    records = torch.from_numpy(records.reshape(-1, RECORD))
    return records[:, 1:].reshape(-1, 3, 1024), records[:, 0].long()


def digits(path: Path) -> tuple[Images, Images]:
    """scikit-learn's 1,437 and 360 handwritten digits of 64 pixels, values 0 to 16."""
    with np.load(path) as file:
        return tuple(Images("digits", torch.from_numpy(file[f"{part}_images"]).flatten(1)[:, None],
                            torch.from_numpy(file[f"{part}_labels"]).long(), 1 / 16, 0.305, 0.376)
                     for part in ("train", "test"))


def pixel_order(pixels: int, args: Namespace) -> Tensor:
    """The permutation of permuted MNIST: --permutation's, or drawn from --seed. Raises BadInput."""
    if not args.permutation:
        return torch.from_numpy(np.random.RandomState(args.seed).permutation(pixels))
    try:
        order = torch.from_numpy(np.load(args.permutation, allow_pickle=False)).long()
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"--permutation {args.permutation}: {error}") from None
    if not torch.equal(order.flatten().sort().values, torch.arange(pixels)):
        raise BadInput(f"--permutation {args.permutation}: not an order of {pixels} pixels")
    return order
