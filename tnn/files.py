"""Checkpoint files: atomic to write, safe to read, damage noticed.

A file is what torch.save makes of tensors and plain values, with the SHA-256 of its bytes as the
comment at the end of the zip archive (torch.load does not look there). It is read with
weights_only=True, so it cannot run code. Of a training state the one before the last is kept too:
x.state.pt, x.state.prev.pt.
"""

import contextlib
import hashlib
import os
import pickle
import sys
import tarfile
import zipfile
from pathlib import Path

import torch

DIGITS = 64  # of a SHA-256 in hexadecimal
END = b"PK\5\6"  # begins the last record of a zip archive, 22 bytes without a comment


def previous(path: Path) -> Path:
    """Where the file before this one is kept: x.state.pt -> x.state.prev.pt."""
    return path.with_suffix(f".prev{path.suffix}")


def _keep(path: Path) -> None:
    """Gives the file a second name, under which it stays when it is replaced."""
    link = path.with_name(f".{path.name}.link")
    with contextlib.suppress(OSError):  # there is none yet, or the file system knows no links
        link.unlink(missing_ok=True)
        os.link(path, link)
        link.replace(previous(path))
        link.unlink(missing_ok=True)  # renaming one link to another of the same file does nothing


def write(path: str | Path, content: dict, keep_previous: bool = False) -> None:
    """Writes `content`; at every moment `path` is the old file or the new one, whole."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w+b") as file:
            torch.save(content, file)
            with zipfile.ZipFile(file, "a") as archive:
                archive.comment = bytes(DIGITS)
            digest = _digest(file)
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())
        if keep_previous:
            _keep(path)
        temporary.replace(path)
    except OSError as error:  # a full disk: torch does not say which file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | Path, safe: tuple[type, ...] = ()) -> dict:
    """Reads a dictionary onto the CPU, running no code of the file.

    safe: further classes that the file may hold, such as argparse.Namespace in the originals'
    checkpoints. Raises FileNotFoundError, or ValueError saying why the file is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        _check(path)
        if tarfile.is_tarfile(path):  # PyTorch's first format: pickles, too
            raise pickle.UnpicklingError
        with torch.serialization.safe_globals(list(safe)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} is refused: it needs code to be run to be read (a pickled model), or is no "
            "checkpoint. In the environment that made it, save its weights alone: "
            "torch.save(model.state_dict(), NEW)") from None
    except Exception as error:  # whatever a damaged archive or tensor makes torch raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is damaged or no checkpoint ({reason})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state_dict or checkpoint")
    return content


def read_or_previous(path: Path, safe: tuple[type, ...] = ()) -> dict:
    """Reads a training state; if it is refused, the one before it, where there is one (and says
    so). Raises like `read`."""
    try:
        return read(path, safe)
    except ValueError as error:
        if not previous(path).is_file():
            raise
        print(f"{error}; going on from the state before it, {previous(path)}", file=sys.stderr)
        return read(previous(path), safe)


def set_aside(path: str | Path) -> Path | None:
    """Renames an existing file, x.pt to x.old.pt (x.old2.pt ...). Returns its new name."""
    path = Path(path)
    if not path.exists():
        return None
    number, target = 1, path.with_suffix(f".old{path.suffix}")
    while target.exists():
        number += 1
        target = path.with_suffix(f".old{number}{path.suffix}")
    return path.rename(target)


def _digest(file) -> bytes:
    """SHA-256 of all but the last DIGITS bytes; leaves the file positioned at those."""
    left = file.seek(0, os.SEEK_END) - DIGITS
    file.seek(0)
    digest = hashlib.sha256()
    while left:
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
        if end[:4] != END or end[-2:] != b"\0\0":
            raise ValueError("its end is changed")
