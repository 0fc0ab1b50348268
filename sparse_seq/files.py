"""The files of a run: written whole or not at all, with a checksum, read without running code.

They hold tensors and plain values; each is a file that torch.load(weights_only=True) reads. The
SHA-256 of its bytes is the comment at the end of the zip archive, where torch.load does not look.
Of a training state the one before the last is kept too: state.pt, state.prev.pt.
"""

import contextlib
import hashlib
import itertools
import os
import pickle
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import torch
from torch import Tensor

FORMAT = "sparse_seq 1"

DIGITS = 64  # of a SHA-256 in hexadecimal


def previous(path: Path) -> Path:
    """Where the file before this one is kept: state.pt -> state.prev.pt."""
    return path.with_suffix(f".prev{path.suffix}")


def _keep(path: Path) -> None:
    """Gives the file a second name, under which it stays when it is replaced."""
    link = path.with_name(f".{path.name}.link")
    with contextlib.suppress(OSError):  # there is none yet, or the file system knows no links
        link.unlink(missing_ok=True)
        os.link(path, link)
        link.replace(previous(path))
        link.unlink(missing_ok=True)  # renaming one link to another of the same file does nothing


def write(path: Path, content: dict, keep_previous: bool = False) -> None:
    """Writes `content` with its checksum: whoever looks sees the old file or the new one, whole."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w+b") as file:
            torch.save({"format": FORMAT, **content}, file)
            with zipfile.ZipFile(file, "a") as archive:
                archive.comment = bytes(DIGITS)
            digest = _digest(file)
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())
        if keep_previous:
            _keep(path)
        part.replace(path)
    except OSError as error:  # a full disk: torch does not say which file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        part.unlink(missing_ok=True)


def _digest(file) -> bytes:
    """SHA-256 of all but the last DIGITS bytes; leaves the file positioned at those."""
    left = file.seek(0, os.SEEK_END) - DIGITS
    file.seek(0)
    digest = hashlib.sha256()
    while left > 0:
        piece = file.read(min(left, 1 << 20))
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest().encode()


def _check(path: Path) -> None:
    """Raises ValueError if a file of ours is not as it was written. Files of others pass."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":  # PyTorch's format before 1.6, or no checkpoint at all
            return
        try:
            with zipfile.ZipFile(file) as archive:
                comment = archive.comment
        except (zipfile.BadZipFile, OSError, ValueError, IndexError, NotImplementedError,
                UnicodeDecodeError):
            raise ValueError("its end is missing or changed") from None
        if comment:
            if len(comment) != DIGITS or _digest(file) != file.read():
                raise ValueError("its checksum does not match")
            return
        file.seek(max(0, file.seek(0, os.SEEK_END) - 22))
        end = file.read()  # anything after this record means that a comment got lost
        if end[:4] != b"PK\5\6" or end[-2:] != b"\0\0":
            raise ValueError("its end is changed")


def read(path: Path) -> dict:
    """What `write` wrote, or another program's dictionary of tensors (an original's state_dict).

    Raises FileNotFoundError, or ValueError saying why the file is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        _check(path)
        if tarfile.is_tarfile(path):  # PyTorch's first format: pickles, too
            raise pickle.UnpicklingError
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} is refused: it is damaged, or a whole pickled object, which would run code to "
            "be read; where it was made, save its weights alone: "
            "torch.save(torch.load(OLD).state_dict(), NEW)") from None
    except Exception as error:  # whatever a damaged zip makes torch raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is damaged or no checkpoint ({reason})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not weights")
    return content


def read_or_previous(path: Path) -> dict:
    """Reads a training state; if it is refused, the one before it, where there is one (and says
    so). Raises like `read`."""
    try:
        return read(path)
    except ValueError as error:
        if not previous(path).is_file():
            raise
        print(f"{error}; going on from the state before it, {previous(path)}", file=sys.stderr)
        return read(previous(path))


def is_ours(content: dict) -> bool:
    return content.get("format") == FORMAT


def weights_of(content: dict) -> dict:
    """The state_dict in a file of ours, or an original's. Raises ValueError if there is none."""
    if is_ours(content) and "model" not in content:
        raise ValueError("a file of this toolkit, but one without a model in it")
    return content["model"] if is_ours(content) else content


def same_epoch(model: dict, optimizer: dict) -> None:
    """Raises ValueError for a model and an optimizer that a killed run wrote one epoch apart."""
    if is_ours(model) and model.get("epoch") != optimizer.get("epoch"):
        raise ValueError("the model and the optimizer are of different epochs: the run was killed "
                         "between the two; --resume goes on from its state")


def set_aside(path: Path) -> Path | None:
    """Renames an earlier run's file: model.pt -> model.old.pt, model.old2.pt ... Returns the new
    name, None if there was no such file."""
    if not path.is_file():
        return None
    names = (path.with_suffix(f".old{number or ''}{path.suffix}")
             for number in itertools.chain([0], itertools.count(2)))
    return path.rename(next(name for name in names if not name.exists()))


def keep_scripts(folder: Path, files: list[Path]) -> None:
    """Copies of the sources that made a run, as the original kept them."""
    (folder / "scripts").mkdir(exist_ok=True)
    for path in files:
        shutil.copy2(path, folder / "scripts" / path.name)


def load_weights(model: torch.nn.Module, state: dict[str, Tensor]) -> None:
    """Loads a state_dict of ours or of the original, made with or without weight drop.

    The two forms of a name (weight_hh_l0; module.weight_hh_l0_raw) are translated to this model's;
    an alias beside a _raw entry, which recent PyTorch wrote, is ignored.
    Raises ValueError naming the first entry that is missing, left over or of another shape.
    """
    def bare(key: str) -> str:
        return key.replace(".module.", ".").removesuffix("_raw")

    given = {bare(key): state[key] for key in sorted(state, key=lambda key: key.endswith("_raw"))}
    renamed = {}
    for key, own in model.state_dict().items():
        found = given.pop(bare(key), None)
        if found is None or found.shape != own.shape:
            shape = "none" if found is None else tuple(found.shape)
            raise ValueError(f"the weights do not fit: {key} should be {tuple(own.shape)}, "
                             f"there is {shape}")
        renamed[key] = found
    if given:
        raise ValueError(f"the weights do not fit: {next(iter(given))} is not in this model")
    model.load_state_dict(renamed)
