"""The files of a run: written whole or not at all, with a checksum, read without running code.

They hold tensors and plain values; each is a file that torch.load(weights_only=True) reads.
"""

import hashlib
import itertools
import os
import pickle
import shutil
from pathlib import Path

import torch
from torch import Tensor

FORMAT = "sparse_seq 1"

def fingerprint(content) -> str:
    """SHA-256 of tensors and plain values, nested at will."""
    digest = hashlib.sha256()

    def add(value) -> None:
        if isinstance(value, Tensor):
            value = value.detach().cpu().contiguous()
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, dict):
            for key, item in value.items():
                digest.update(f"{key!r}:".encode())
                add(item)
        elif isinstance(value, (list, tuple)):
            digest.update(f"{len(value)}".encode())
            for item in value:
                add(item)
        else:
            digest.update(repr(value).encode())

    add(content)
    return digest.hexdigest()


def write(path: Path, content: dict) -> None:
    """Writes `content` with its checksum: whoever looks sees the old file or the new one, whole."""
    part = path.with_name(f".{path.name}.part")
    content = {"format": FORMAT, **content}
    try:
        with part.open("wb") as file:
            torch.save({**content, "checksum": fingerprint(content)}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:  # a full disk: torch does not say which file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        part.unlink(missing_ok=True)


def read(path: Path) -> dict:
    """What `write` wrote, or another program's dictionary of tensors (an original's state_dict).

    Raises FileNotFoundError, or ValueError saying why the file is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} is a whole pickled object, which would run code to be read; where it was made,"
            " save its weights alone: torch.save(torch.load(OLD).state_dict(), NEW)") from None
    except Exception as error:  # whatever a damaged zip makes torch raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is damaged or no checkpoint ({reason})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not weights")
    if content.get("format") == FORMAT and content.pop("checksum", None) != fingerprint(content):
        raise ValueError(f"{path} is damaged (its checksum does not match)")
    return content


def is_ours(content: dict) -> bool:
    return content.get("format") == FORMAT


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
