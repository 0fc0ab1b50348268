"""Images: data sets, augmentation, the order in which they are seen.

A training sample is drawn with random numbers of its own, made from (seed, epoch, place in the
epoch): neither the number of processes nor of loader workers nor an interruption changes it.
"""

import hashlib
import json
import random
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import datasets, transforms

from harness import pictures
from harness.inputs import digest_of
from tnn.inputs import DamagedPicture, cifar10, leave_signals, picture_loader

SMALL = 32   # an --input-size up to which pictures are not resized
BORDER = 4   # around those, before one is cut in training
GETDATA = {"CIFAR10": "cifar10", "DIGITS": "digits"}


# ---------------------------------------------------------------------------------- data sets
class Pictures(Dataset):
    """Pictures in memory: values (n, height, width, 3) uint8 -> (PIL image, label)."""

    def __init__(self, values: np.ndarray, labels: np.ndarray):
        self.values, self.labels = values, labels

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: int):
        return Image.fromarray(self.values[i]), int(self.labels[i])


class PictureFiles(Dataset):
    """(path, label) pairs -> (PIL image, label)."""

    def __init__(self, samples: list[tuple[Path, int]]):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int):
        """Raises DamagedPicture."""
        path, label = self.samples[i]
        try:
            return datasets.folder.pil_loader(str(path)), label
        except Exception as error:  # whatever a damaged file makes Pillow raise
            raise DamagedPicture(path, error) from None


class Sets(NamedTuple):
    """The sets give (PIL image, label). inputs: what a resumed run must find again, by name:
    SHA-256 of a file's content; of a folder of pictures, that of their names and sizes."""

    train: Dataset
    val: Dataset
    classes: int
    inputs: dict[str, str]


def load_sets(args: Namespace) -> Sets:
    """As --data-set and --data-path say. Raises FileNotFoundError or ValueError, each with one line
    that says what to do."""
    advice = (f"./getdata.sh {GETDATA[args.data_set]} fetches it" if args.data_set in GETDATA
              else "give its folder with --data-path")
    try:
        return LOADERS[args.data_set](Path(args.data_path), args)
    except (FileNotFoundError, RuntimeError) as error:
        raise FileNotFoundError(f"{str(error).splitlines()[0]}; {advice}") from None
    except PermissionError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from None
    except (ValueError, KeyError, OSError, EOFError, IndexError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"damaged or of another format ({reason}); {advice}") from None


def imagenet(folder: Path, args: Namespace) -> Sets:
    """train/CLASS/* and val/CLASS/*, classes in the order of their names; or, as in the original,
    the files that meta/train.txt and meta/val.txt list, a path and a label a line."""
    if (folder / "meta/train.txt").is_file():
        train, val = (listed(folder, part) for part in ("train", "val"))
        classes = 1 + max(label for _, label in train)
        if max(label for _, label in val) >= classes:
            raise ValueError("val.txt has labels that train.txt has not")
        inputs = {f"meta/{part}.txt": digest_of(folder / f"meta/{part}.txt")
                  for part in ("train", "val")}
        return Sets(PictureFiles(train), PictureFiles(val), classes, inputs)
    train, val = (datasets.ImageFolder(str(folder / part)) for part in ("train", "val"))
    if train.classes != val.classes:
        odd = sorted(set(train.classes) ^ set(val.classes))[0]
        raise ValueError(f"train and val have different classes: {odd} is in one alone")
    return Sets(PictureFiles(train.samples), PictureFiles(val.samples), len(train.classes),
                {f"{part}/{name}": found for part, data in (("train", train), ("val", val))
                 for name, found in listings(data).items()})


def listings(data: datasets.ImageFolder) -> dict[str, str]:
    """A digest for each class, of its pictures' names and sizes: the content of 150 GB cannot be
    read at every start."""
    found = {name: hashlib.sha256() for name in data.classes}
    for path, label in data.samples:
        line = f"{Path(path).name} {Path(path).stat().st_size}\n"
        found[data.classes[label]].update(line.encode())
    return {name: hashed.hexdigest() for name, hashed in found.items()}


def listed(folder: Path, part: str) -> list[tuple[Path, int]]:
    """The lines of meta/PART.txt; paths are relative to PART/ or to the data folder."""
    lines = (folder / f"meta/{part}.txt").read_text().splitlines()
    pairs = [line.rsplit(maxsplit=1) for line in lines if line.strip()]
    for name, *label in pairs:
        if not (label and label[0].isdecimal()):
            raise ValueError(f"meta/{part}.txt: {name!r} is not followed by a label, 0 or more")
    if not pairs:
        raise ValueError(f"meta/{part}.txt is empty")
    below = folder / part if (folder / part / pairs[0][0]).is_file() else folder
    if not (below / pairs[0][0]).is_file():
        raise FileNotFoundError(f"no file {below / pairs[0][0]}, which meta/{part}.txt lists")
    return [(below / name, int(label)) for name, label in pairs]


def cifar100(folder: Path, args: Namespace) -> Sets:
    train, val = (datasets.CIFAR100(str(folder), train=part) for part in (True, False))
    files = [folder / "cifar-100-python" / name for name in ("train", "test")]
    return Sets(Pictures(train.data, np.array(train.targets)),
                Pictures(val.data, np.array(val.targets)), 100, digests(files))


def cifar10_pictures(folder: Path, args: Namespace) -> Sets:
    files, train, val = cifar10(folder)
    return Sets(Pictures(*train), Pictures(*val), 10, digests(files))


def digests(files: list[Path]) -> dict[str, str]:
    return {path.name: digest_of(path) for path in files}


def inat(folder: Path, args: Namespace) -> Sets:
    """iNaturalist 2018 or 2019: the label is the running number of the picture's --inat-category
    in the order in which the training annotations name it."""
    year = 2018 if args.data_set == "INAT" else 2019
    files = [folder / f"{name}.json" for name in (f"train{year}", f"val{year}", "categories")]
    read = {path.stem: json.loads(path.read_text()) for path in files}
    number: dict[str, int] = {}
    for note in read[f"train{year}"]["annotations"]:
        name = read["categories"][note["category_id"]][args.inat_category]
        number.setdefault(name, len(number))
    sets = []
    for part in ("train", "val"):
        content = read[f"{part}{year}"]
        category = {note["image_id"]: note["category_id"] for note in content["annotations"]}
        sets.append(PictureFiles([
            (folder / image["file_name"],
             number[read["categories"][category[image["id"]]][args.inat_category]])
            for image in content["images"]]))
    return Sets(*sets, len(number), digests(files))


def digits(folder: Path, args: Namespace) -> Sets:
    """scikit-learn's 1,437 and 360 handwritten digits of 8 x 8 pixels, enlarged to 32 x 32."""
    sets = []
    for pixels, labels in pictures.digits(folder / "digits.npz"):
        grey = (pixels.astype(np.uint16) * 255 // 16).astype(np.uint8)
        large = grey.repeat(4, axis=1).repeat(4, axis=2)
        sets.append(Pictures(np.stack([large] * 3, axis=-1), labels))
    return Sets(*sets, 10, digests([folder / "digits.npz"]))


LOADERS: dict[str, Callable] = {"IMNET": imagenet, "CIFAR": cifar100, "CIFAR10": cifar10_pictures,
                                "INAT": inat, "INAT19": inat, "DIGITS": digits}


# -------------------------------------------------------------------------------- transforms
def train_transform(args: Namespace) -> Callable:
    """PIL image -> tensor (3, size, size). RandAugment as in timm 0.4.12: two of 15 operations,
    drawn with replacement, each applied with probability 0.5, magnitudes within [0, 10]."""
    transform = create_transform(
        input_size=args.input_size, is_training=True, color_jitter=args.color_jitter,
        auto_augment=args.aa or None, interpolation=args.train_interpolation, hflip=args.hflip,
        re_prob=args.reprob, re_mode=args.remode, re_count=args.recount,
        mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
    if args.input_size <= SMALL:
        transform.transforms[0] = transforms.RandomCrop(args.input_size, padding=BORDER)
    for step in transform.transforms:
        for operation in getattr(step, "ops", ()):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = posterize
    return transform


def posterize(image: Image.Image, bits: int, **unused) -> Image.Image:
    """Keeps so many of a pixel's 8 bits. Full magnitude leaves none, a black image, which Pillow
    did in the original's time and now refuses."""
    return image.point([value & (256 - 2 ** (8 - bits)) for value in range(256)]
                       * len(image.getbands()))


def eval_transform(size: int) -> Callable:
    """PIL image -> tensor: the middle 224 / 256 of the short side; small images as they are."""
    crop = [] if size <= SMALL else [
        transforms.Resize(int(256 / 224 * size), transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(size)]
    return transforms.Compose([*crop, transforms.ToTensor(),
                               transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)])


# ------------------------------------------------------------------------------------- order
class Item(NamedTuple):
    """A sample of an epoch."""

    index: int
    place: int
    epoch: int


class EpochSampler(Sampler):
    """This process's Items of an epoch, from `start` on: a permutation seeded with the epoch,
    places rank, rank + replicas, ...

    repeats = 3 is repeated augmentation (Hoffer et al. 2020): every image three times in a row, of
    which only as many are used as there are images, in multiples of 256. That leaves nothing of
    fewer than 256 images: they are seen once each. Rounded down, so that an epoch has as many whole
    batches whatever the number of processes.
    """

    def __init__(self, images: int, rank: int = 0, replicas: int = 1, repeats: int = 3):
        self.images, self.rank, self.replicas = images, rank, replicas
        self.repeats = repeats if images >= 256 else 1
        self.used = (images // 256 * 256 if self.repeats > 1 else images) // replicas
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """start: how many of this process's items were already seen."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.used

    def __iter__(self) -> Iterator[Item]:
        order = torch.randperm(self.images, generator=torch.Generator().manual_seed(self.epoch))
        order = order.repeat_interleave(self.repeats).tolist()
        for i in range(self.start, self.used):
            place = self.rank + i * self.replicas
            yield Item(order[place], place, self.epoch)


def of_another_size(pictures: Dataset, i: int, size: tuple[int, int], wanted: str
                    ) -> DamagedPicture:
    where = pictures.samples[i][0] if isinstance(pictures, PictureFiles) else f"picture {i}"
    return DamagedPicture(where, f"{size[0]} x {size[1]} pixels, {wanted}")


class Augmented(Dataset):
    """Item -> (tensor, label), the transform's random numbers made from (seed, epoch, place).
    least: pixels that a side must have."""

    def __init__(self, pictures: Dataset, transform: Callable, seed: int, least: int = 0):
        self.pictures, self.transform, self.seed = pictures, transform, seed
        self.least = least

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, item: Item):
        """Raises DamagedPicture."""
        picture, label = self.pictures[item.index]
        if min(picture.size) < self.least:
            raise of_another_size(self.pictures, item.index, picture.size,
                                  f"too few for --input-size {self.least + 2 * BORDER}")
        with own_randomness(self.seed, item.epoch, item.place):
            return self.transform(picture), label


class Plain(Dataset):
    """index -> (tensor, label). one_size: that of the first, since none is resized."""

    def __init__(self, pictures: Dataset, transform: Callable, one_size: bool = False):
        self.pictures, self.transform, self.one_size = pictures, transform, one_size
        self.size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int):
        """Raises DamagedPicture."""
        picture, label = self.pictures[i]
        if self.one_size:
            self.size = self.size or self.pictures[0][0].size
            if picture.size != self.size:
                raise of_another_size(self.pictures, i, picture.size,
                                      "the first has {} x {}".format(*self.size))
        return self.transform(picture), label


@contextmanager
def own_randomness(*numbers: int) -> Iterator[None]:
    """Inside the block the generators of Python, numpy and torch are seeded with `numbers`."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seeds = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.default_generator.manual_seed(int(seeds[2]))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


# ----------------------------------------------------------------------------------- loaders
def loaders(args: Namespace, train: Dataset, val: Dataset, rank: int,
            replicas: int) -> tuple[DataLoader, DataLoader]:
    """Training and validation, to be read by inputs.batches. The training loader's sampler is an
    EpochSampler. The validation images are shared out with --dist-eval, none twice: process r gets
    r, r + replicas, ..."""
    common = {"batch_size": args.batch_size, "num_workers": args.num_workers,
              "pin_memory": args.pin_mem and torch.cuda.is_available(),
              "persistent_workers": args.num_workers > 0, "worker_init_fn": leave_signals,
              # A generator of its own: else each epoch would draw from torch's.
              "generator": torch.Generator()}
    sampler = EpochSampler(len(train), rank, replicas, 3 if args.repeated_aug else 1)
    small = args.input_size <= SMALL
    train = Augmented(train, train_transform(args), args.seed,
                      args.input_size - 2 * BORDER if small else 0)
    shared = range(rank, len(val), replicas) if args.dist_eval else range(len(val))
    val = Plain(val, eval_transform(args.input_size), one_size=small)
    return (picture_loader(train, sampler=sampler, drop_last=True, **common),
            picture_loader(val, sampler=shared, **common))
