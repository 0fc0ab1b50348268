"""IMDB: is a review positive? Its characters.

    imdb/aclImdb/{train,test}/{neg,pos}/*.txt, or an archive of it
"""

import hashlib
import json
import tarfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch.utils.data import Subset

from tnn.lra.tasks import TASKS
from tnn.lra.tasks.task import SPLIT_SEED, Task, note
from tnn.lra.tasks.texts import LEVELS, Row, text_task

ARCHIVES = ("aclImdb_v1.tar.gz", "aclImdb_labelled.tar.xz")


def load(task: str, folder: Path, args: Namespace) -> Task:
    """Validates on the test set unless --val-split says otherwise, as the published runs did.
    Raises FileNotFoundError or ValueError."""
    source = find_reviews(folder)
    files = sorted(source.glob("t*/[np][eo][gs]/*.txt")) if source.is_dir() else [source]
    rows = [lambda split=split: reviews(source, split) for split in ("train", "test")]
    loaded = text_task(task, folder, files, rows, LEVELS[args.level], args)
    if source.is_dir():  # 50,000 names would be much to keep in every state
        every = json.dumps(loaded.inputs).encode()
        loaded.inputs = {source.name: hashlib.sha256(every).hexdigest()}
    if not args.val_split:
        note("imdb: validation is on the test set, as published, so the choice of the best epoch "
             "has seen it; --val-split 0.1 holds out training reviews instead")
        return loaded
    train, val = held_out(len(loaded.train), args.val_split)
    whole = loaded.train
    loaded.train, loaded.val = Subset(whole, train), Subset(whole, val)
    return loaded


def held_out(total: int, share: float) -> tuple[list[int], list[int]]:
    """Indices for training and validation.

    The draw of Hugging Face's train_test_split(test_size=share, seed=42), over our order of the
    reviews (negative first, by number); theirs is the order within the archive, so the reviews
    held out are others.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(total)
    size = int(np.ceil(share * total))
    return order[size:].tolist(), order[:size].tolist()


def find_reviews(folder: Path) -> Path:
    """aclImdb unpacked, or an archive of it. Raises FileNotFoundError."""
    names = ("aclImdb", *ARCHIVES)
    for path in (folder / name for name in names):
        if path.exists():
            return path
    raise FileNotFoundError(f"imdb: {folder} holds none of {', '.join(names)}; ./getdata.sh imdb "
                            "fetches the archive")


def reviews(source: Path, split: str) -> list[Row]:
    """The labelled reviews of train or test, negative ones first, by number.

    source: the folder aclImdb, or a tar of it. Raises ValueError.
    """
    found, name = [], ""
    try:
        for name, body in (_in_folder if source.is_dir() else _in_archive)(source, split):
            number = int(Path(name).stem.split("_")[0])
            found.append((Path(name).parent.name == "pos", number, body.decode()))
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, ValueError):  # one review's, not the archive's
            reason = f"{name}: {reason}"
        raise ValueError(f"{source} is damaged ({reason}); {TASKS['imdb'].remedy}") from None
    return [((text,), int(label)) for label, _, text in sorted(found)]


def _in_folder(folder: Path, split: str) -> Iterator[tuple[str, bytes]]:
    for path in folder.glob(f"{split}/[np][eo][gs]/*.txt"):
        yield str(path), path.read_bytes()


def _in_archive(path: Path, split: str) -> Iterator[tuple[str, bytes]]:
    wanted = (f"aclImdb/{split}/neg/", f"aclImdb/{split}/pos/")
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.removeprefix("./").startswith(wanted):
                yield member.name, archive.extractfile(member).read()
