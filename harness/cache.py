"""Arrays made of a user's data, kept beside it for the next start: an .npz file that is used only
if every byte is as it was written, and as open to others as the user's umask has it. A folder that
cannot be written means no cache, nothing worse."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from harness import files
from harness.notices import notice


def read_arrays(path: Path, names: Iterable[str] = ()) -> dict[str, np.ndarray] | None:
    """The arrays in the file, `names` among them; None, with a word about it, if it is damaged or
    another user's who lets nobody read it; None if there is none."""
    try:
        if path.exists() and not path.is_file():  # a pipe would keep the reader waiting for ever
            notice(f"{path} is no file, so no cache: reading the data itself")
            return None
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # np.load does not compare all of an array's bytes
                raise ValueError("a CRC does not match")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in {*names, *file.files}}
    except FileNotFoundError:
        return None
    except PermissionError:
        notice(f"the cache {path} is not readable by this user: reading the data itself")
    except Exception:  # whatever a damaged archive makes zipfile or numpy raise
        notice(f"damaged cache {path}: reading the data itself")
    return None


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the file whole or not at all. In a folder that others may write, too, a link under its
    name may lead to a file of this user's: it is replaced, not followed."""
    try:
        files.replace(path, lambda file: np.savez(file, **arrays),  # type: ignore[arg-type]
                      follow=False)
    except OSError as error:
        notice(f"no cache of the data ({error}): the next start reads it again")
