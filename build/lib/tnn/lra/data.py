"""The six tasks of the Long Range Arena by name, as data sets and batches.

    args = tnn.lra.args.parse_args(["--task", "listops"])
    task = load_task("listops", Path("tnn/lra/data"), args)
    loader = DataLoader(task.train, batch_size, shuffle=True, collate_fn=task.collate)

Every task has its folder below the data root, as the original expects:

    listops/basic_{train,val,test}.tsv
    imdb/aclImdb/ or the packed archive
    aan/new_aan_pairs.{train,eval,test}.tsv
    cifar/cifar-10-batches-py/
    pathfinder/pathfinder{32,128}/curv_contour_length_14/

or the root is where lra_release.gz was unpacked, or lra_release/lra_release in it, with its
listops-1000/, tsv_data/ and pathfinder{32,128}/.
"""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import Dataset, Subset

from tnn.lra.tasks import RELEASE, TASKS, aan, cifar, imdb, listops, pathfinder
from tnn.lra.tasks.task import SPLIT_SEED, Task, note

FILES = {"listops": listops, "imdb": imdb, "aan": aan, "cifar": cifar, "pathfinder": pathfinder,
         "pathfinderx": pathfinder}


def load_task(name: str, root: Path, args: Namespace) -> Task:
    """Reads a task; root is the data root ($DATA_PATH of the originals), args are the flags of
    args.add_data_flags.

    Raises FileNotFoundError (the data are not there) or ValueError (they are damaged), each with
    one line that says what to do.
    """
    folder = find_folder(name, Path(root), args.data_folder)
    loaded = FILES[name].load(name, folder, args)
    sizes = tuple(len(part) for part in (loaded.train, loaded.val, loaded.test))
    if not all(sizes):
        raise ValueError(f"{name}: {folder} is too small: train, val and test would have "
                         f"{sizes} samples; {TASKS[name].remedy.format(folder)}")
    if sizes != TASKS[name].sizes and not args.val_split:
        note(f"{name}: {sizes} samples to train, validate and test, published are "
             f"{TASKS[name].sizes}: results are not comparable with the Long Range Arena")
    return replace(loaded, train=limited(loaded.train, args.train_limit),
                   val=limited(loaded.val, args.eval_limit),
                   test=limited(loaded.test, args.eval_limit))


def find_folder(name: str, root: Path, given: str | None) -> Path:
    """The folder of a task's data, ours or that of the release as it is unpacked. Raises
    FileNotFoundError."""
    task = TASKS[name]
    own = [root / folder for folder in ([given] if given else task.folders)]
    released = [root / below / task.release for below in RELEASE
                if task.release is not None and not given]
    if found := [folder for folder in (*own, *released) if (folder / task.has).is_dir()]:
        if found[0] in released and len(found) > 1:
            note(f"{name}: reads {found[0] / task.has}, as the Long Range Arena's own script does; "
                 f"the release's other copy, {found[1] / task.has}, is not used")
        return found[0]
    for folder in own:  # what is wrong with it is the reader's to say
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{name}: there is no folder {own[0]}; {task.remedy.format(own[0])}")


def limited(data: Dataset, limit: int | None) -> Dataset:
    """`limit` samples of data, always the same ones."""
    if limit is None or limit >= len(data):
        return data
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(SPLIT_SEED))
    return Subset(data, order[:limit].tolist())
