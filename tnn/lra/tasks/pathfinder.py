"""Pathfinder and Path-X: are the two discs on one dashed path? Reads the images, or draws others
like the Long Range Arena's.

    python tnn/lra/tasks/pathfinder.py --out tnn/lra/data/pathfinder                  # 32 x 32
    python tnn/lra/tasks/pathfinder.py --out tnn/lra/data/pathfinder --resolution 128 # Path-X
    python tnn/lra/tasks/pathfinder.py --out /tmp/pathfinder --images 2000 --per-folder 100

writes pathfinder{32,128}/curv_contour_length_14/ with imgs/<k>/sample_<i>.png and metadata/<k>.npy,
which is plain text as in the release. --contour-length 9 or 6 makes the easier sets
curv_contour_length_9/ and curv_baseline/. Rules and settings follow the release's generator
(Linsley et al. 2018), but the images only look alike: the release's had no seed, and nobody has
compared the accuracies that the two reach.
200,000 images take about 20 minutes of processor time at 32 pixels a side, 3.5 hours at 128, shared
by --workers processes.
The same --seed gives the same images, however many processes work. A folder <k> whose metadata
file is there is complete: an interrupted run continues with the others.

An image holds two snakes of --contour-length paddles (dashes) each and shorter distractor snakes;
no paddle touches one of another snake, though a snake may pass through a gap. One disc is at the
tail of a long snake, the other one at the head of the same (label 1) or of the other long snake
(label 0).
"""

import argparse
import json
import math
import os
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from harness.endings import Interrupted, bad_input, clear_up_on_signals, orderly_exit
from tnn.lra.tasks import CONTOURS, TASKS


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR",
                        help="folder that takes pathfinder32/ or pathfinder128/")
    parser.add_argument("--resolution", type=int, choices=(32, 128), default=32,
                        help="pixels a side (32)")
    parser.add_argument("--images", type=int, default=200_000, metavar="N",
                        help="in all, a multiple of --per-folder (200000)")
    parser.add_argument("--per-folder", type=int, default=1000, metavar="N",
                        help="images per folder imgs/<k> (1000)")
    parser.add_argument("--contour-length", type=int, choices=sorted(CONTOURS), default=14,
                        help="paddles of a path: the release's three sets, 14 the published (14)")
    parser.add_argument("--single-paddles", action="store_true",
                        help="fill the rest of the image with single paddles")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N",
                        help="processes; the result does not depend on it (all processors)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    parse()  # -h and typing mistakes answer before numpy is imported

import numpy as np
from PIL import Image
from tqdm import tqdm

from tnn.lra.tasks.listops import parallel_map, refuse_too_large
from tnn.lra.tasks.pathfinder_growth import (
    FULL,
    SETTINGS,
    Settings,
    distractor,
    tables,
    target_snakes,
)

if TYPE_CHECKING:
    from tnn.lra.tasks.task import Task

# The release's one file without content, in a set that the published runs do not use.
EMPTY = Path("pathfinder32/curv_baseline/imgs/0/sample_172.png")
DISTRACTOR_RETRIALS = 4
CROWDED = 0.01  # share of free pixels below which no distractor is added

Paddles = list[tuple[int, int]]  # of a snake: head (index into the flattened scene), degrees


# ------------------------------------------------------------------------------------------------
# Reading


def load(task: str, folder: Path, args: argparse.Namespace) -> "Task":
    """pathfinder: 32 pixels a side; pathfinderx: 128. A tenth validates, a tenth tests. Raises
    FileNotFoundError or ValueError."""
    from harness.inputs import digest_of  # imports torch: not for the generator
    from tnn.lra.tasks import images
    from tnn.lra.tasks.task import Task, split
    side = {"pathfinder": 32, "pathfinderx": 128}[task]
    below = folder / f"pathfinder{side}" / CONTOURS[args.contour_length]
    listings = listings_of(below, TASKS[task].remedy.format(folder))
    paths, labels = image_files(listings)
    parts = split(images.ImageFiles(paths, labels, side), sizes(len(paths)))
    return Task(task, *parts, images.collate_images, TASKS[task].classes, TASKS[task].l_max,
                d_input=1, inputs={f"metadata/{path.name}": digest_of(path) for path in listings})


def sizes(total: int) -> list[int]:
    """Images to train, validate and test."""
    tenth = int(total * 0.1)
    return [total - 2 * tenth, tenth, tenth]


def listings_of(below: Path, remedy: str = "") -> list[Path]:
    """A set's metadata/<k>.npy by growing integer k. Raises FileNotFoundError."""
    listings = sorted((path for path in (below / "metadata").glob("*.npy")
                       if path.stem.isdecimal()), key=lambda path: int(path.stem))
    if not listings:
        raise FileNotFoundError(f"pathfinder: no file {below}/metadata/*.npy; {remedy}")
    return listings


def image_files(listings: list[Path]) -> tuple[list[Path], list[int]]:
    """Image files and labels in the order of the listings.

    Those are plain text in spite of their name: folder, file, index, label and settings per line.
    Raises ValueError.
    """
    paths, labels = [], []
    for listing in listings:
        below = listing.parent.parent
        lines = listing.read_text(encoding="ascii", errors="replace").splitlines()
        if not lines:
            raise ValueError(f"{listing} is empty")
        for line in lines:
            fields = line.split()
            if len(fields) < 4 or fields[3] not in ("0", "1"):
                raise ValueError(f"{listing}: no line of Pathfinder's metadata: {line[:80]!r}")
            path = below / fields[0] / fields[1]
            if fields[1] == EMPTY.name and path.match(str(EMPTY)) and not path.stat().st_size:
                continue
            paths.append(path)
            labels.append(int(fields[3]))
    return paths, labels


# ------------------------------------------------------------------------------------------------
# Scenes


class Scene:
    """What one image shows. Its random numbers depend on seed, resolution and index alone.

    targets: two snakes; distractors: snakes with their contrast.
    """

    def __init__(self, settings: Settings, seed: int, index: int):
        self.settings = settings
        self.rng = np.random.default_rng([seed, settings.side, index])
        self.label = int(self.rng.random() * 2)
        self.margin = settings.margins[int(self.rng.random() * len(settings.margins))]
        self.table = tables(settings, self.margin)
        self.targets = target_snakes(settings, self.table, self.rng)
        self.mask = np.zeros(self.table.side ** 2, np.uint8)
        for head, degrees in (paddle for snake in self.targets for paddle in snake):
            cells = head + self.table.patch
            self.mask[cells] = np.maximum(self.mask[cells], self.table.mask[degrees])
        self.distractors = self.grow_distractors()
        marked = int(self.rng.random() * 2)
        self.ends = (self.tail(self.targets[marked]),
                     self.targets[marked if self.label else 1 - marked][-1][0])

    def grow_distractors(self) -> list[tuple[Paddles, float]]:
        """Short snakes wherever there is room, then single paddles if the settings say so."""
        s, m = self.settings, self.margin
        kinds = [(s.distractor_length, s.snake_contrast)] * s.distractors
        if s.single_paddles:
            count = (int(150 * 123.5 / (7.5 + 13 * m + 4 * m * m)) - 2 * s.contour_length
                     - s.distractors * s.distractor_length)
            kinds += [(1, s.paddle_contrast)] * count
        grown = []
        for length, contrast in kinds:
            free = (self.mask < FULL / 2) & (self.table.inside > 0)
            if np.count_nonzero(free) < CROWDED * s.side ** 2:
                break
            for _ in range(1 + DISTRACTOR_RETRIALS):
                if snake := distractor(self.table, self.mask, length, self.rng):
                    grown.append((snake, contrast))
                    break
        return grown

    def tail(self, snake: Paddles) -> int:
        """Where a snake's first paddle begins."""
        head, degrees = snake[0]
        return head - self.table.to_head[degrees]

    def picture(self) -> np.ndarray:
        """(side, side) uint8; the darkest pixel is 0, the brightest 255."""
        side, edge, radius = self.table.side, self.table.edge, self.settings.marker_radius
        image = np.zeros(side ** 2, np.float32)
        targets = [(snake, self.settings.snake_contrast) for snake in self.targets]
        for snake, contrast in targets + self.distractors:
            for head, degrees in snake:
                cells = head + self.table.patch
                image[cells] = np.maximum(image[cells], contrast * self.table.image[degrees])
        reach = math.ceil(radius)
        y, x = np.mgrid[-reach:reach + 1, -reach:reach + 1]
        for end in self.ends:
            cells = end + self.table.flat(y, x)[np.hypot(y, x) <= radius]
            image[cells] = np.maximum(image[cells], 1)
        image = image.reshape(side, side)[edge:-edge, edge:-edge]
        low, high = image.min(), image.max()
        return ((image - low) * (255 / (high - low)) + 0.5).astype(np.uint8)


# ------------------------------------------------------------------------------------------------
# Generating files


def write_folder(number: int, root: Path, settings: Settings, seed: int, size: int) -> int:
    """Writes imgs/<number>/ and then its metadata, if that is not there; returns its number of
    images."""
    listing = root / "metadata" / f"{number}.npy"
    if listing.exists():
        return size
    folder = root / "imgs" / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(size):
        scene = Scene(settings, seed, number * size + i)
        Image.fromarray(scene.picture()).save(folder / f"sample_{i}.png")
        lines.append(f"imgs/{number} sample_{i}.png {i} {scene.label} {settings.continuity} "
                     f"{settings.contour_length} {settings.distractor_length} "
                     f"{settings.paddle_length} {settings.thickness} {scene.margin} 1\n")
    part = listing.with_suffix(".part")
    part.write_text("".join(lines), encoding="ascii")
    part.replace(listing)
    return size


def claim(root: Path, content: dict) -> None:
    """Notes how a folder's images are made. Raises ValueError if others are there."""
    record = root / "generator.json"
    text = json.dumps(content, indent=1) + "\n"
    (root / "metadata").mkdir(parents=True, exist_ok=True)
    if record.exists() and record.read_text(encoding="ascii") == text:
        return
    if any((root / "metadata").glob("*.npy")):
        raise ValueError(f"{root} holds images of another origin or other settings: "
                         "give another --out")
    part = record.with_suffix(".part")
    part.write_text(text, encoding="ascii")
    part.replace(record)


def write(out: Path, args: argparse.Namespace) -> Path:
    """Writes the images that are missing and returns the folder. Raises ValueError."""
    settings = replace(SETTINGS[args.resolution], single_paddles=args.single_paddles,
                       contour_length=args.contour_length)
    root = out / f"pathfinder{args.resolution}" / CONTOURS[args.contour_length]
    facts = asdict(settings)
    del facts["contour_length"]  # it is in the folder's name
    claim(root, {"seed": args.seed, "per_folder": args.per_folder, **facts})
    task = partial(write_folder, root=root, settings=settings, seed=args.seed,
                   size=args.per_folder)
    numbers = range(args.images // args.per_folder)
    bar = tqdm(total=args.images, unit="image", disable=None, desc=root.parent.name)
    with bar, parallel_map(args.workers) as over:
        for size in over(task, numbers):
            bar.update(size)
    return root


# ------------------------------------------------------------------------------------------------
# Command line


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    clear_up_on_signals()
    with orderly_exit("pathfinder.py"), bad_input():
        refuse_too_large(args)
        if min(args.images, args.per_folder, args.workers) < 1 or args.images % args.per_folder:
            raise ValueError("--images must be a multiple of --per-folder, and --workers positive")
        try:
            root = write(args.out, args)
        except Interrupted:
            print("pathfinder: interrupted; run it again to continue", file=sys.stderr)
            raise
        print(f"pathfinder: {args.images} images in {root}")


if __name__ == "__main__":
    main()
