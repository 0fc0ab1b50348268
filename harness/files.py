"""Checkpoint files: written whole or not at all, read without running code, damage noticed.

A file holds tensors and plain values, as torch.save writes them: a zip archive whose CRCs `read`
compares before torch looks at it, whoever wrote the file. (Files of release 0.1 carry a checksum as
the archive's comment, which both zipfile and torch.load pass over.) PyTorch's format before 1.6 has
no CRCs; it loads, but damage in it can go unnoticed.

Names are appended to the whole name given, never put in place of an ending: x.pt -> x.pt.prev,
x.pt.old. So the files of `x.1` and `x.2` never meet.
"""

import contextlib
import errno
import itertools
import os
import pickle
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from harness.notices import notice

ZIP_START = b"PK\x03\x04"
FOLDER = 0x10  # an attribute that no CRC covers; torch.load reads nothing then, and says nothing


def previous(path: str | Path) -> Path:
    """Where the file before the present one is kept."""
    return Path(f"{path}.prev")


# ----------------------------------------------------------------------------------- writing
class _Sink:
    """A file for torch.save that remembers the OSError of a failed write: torch's archive writer
    reports a full disk as a RuntimeError about a position in the archive."""

    def __init__(self, file):
        self.file, self.name, self.error = file, file.name, None

    def write(self, data) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def write(path: str | Path, content: dict, keep_previous: bool = False) -> None:
    """Writes `content`; at every moment `path` is the old file or the new one, whole, on the disk.

    keep_previous: the old file stays as `previous(path)`. Where `path` is a link, the file that it
    points to is replaced. Raises OSError naming `path`.
    """
    def save(file) -> None:
        sink = _Sink(file)
        try:
            torch.save(content, sink)  # type: ignore[arg-type]  # it asks for no more
        except RuntimeError:
            if sink.error is None:
                raise
            raise sink.error from None
    replace(path, save, keep_previous)


def replace(path: str | Path, fill, keep_previous: bool = False, follow: bool = True) -> None:
    """As `write`, of what fill(binary file) puts into a file. follow: a link stays, since it may
    lead to another disk; False: the file takes the place of a link that somebody may have planted.
    """
    if follow:
        target = Path(os.path.realpath(path))
    else:
        target = Path(os.path.realpath(Path(path).parent), Path(path).name)
    part = target.with_name(f".{target.name}.part")
    try:
        with naming(path):
            part.unlink(missing_ok=True)  # of a run that was killed; of a planted link, the link
            handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL
                             | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0), 0o666)
            with os.fdopen(handle, "w+b") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            if keep_previous:
                _keep(target)
            os.replace(part, target)
            _sync_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Inside the block an OSError names `path`: of a full disk neither a write nor fsync says which
    file it was."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def _keep(path: Path) -> None:
    """Gives the file a second name, under which it stays when it is replaced. Best effort: where
    there is none yet, or the file system knows no links, there will be no file before this one."""
    link = path.with_name(f".{path.name}.link")
    with contextlib.suppress(OSError):
        link.unlink(missing_ok=True)
        os.link(path, link)
        os.replace(link, previous(path))
        link.unlink(missing_ok=True)  # renaming one link to another of the same file does nothing


def _sync_folder(folder: Path) -> None:
    """Puts a rename itself on the disk, where the system can (not on Windows)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# ----------------------------------------------------------------------------------- reading
def read(path: str | Path, safe: tuple[type, ...] = ()) -> dict:
    """The dictionary in a file, or what it has under `state_dict`, its tensors on the CPU. No code
    of the file is run.

    safe: further classes that the file may hold, such as argparse.Namespace in an original's
    checkpoint. Raises FileNotFoundError, or ValueError saying why the file is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    # Leaving the context removes what was named, also where another program had let it in for good.
    let_in: list = [each for each in safe if each not in torch.serialization.get_safe_globals()]
    with refusing(path), path.open("rb") as file:
        _check(file)
        with torch.serialization.safe_globals(let_in):
            content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not weights or a state")
    # Other programs put weights beside what else they save.
    inner = content.get("state_dict") if "format" not in content else None
    return inner if isinstance(inner, dict) else content


def check(path: str | Path) -> None:
    """Compares the CRCs of a file that another program will read. Raises ValueError, OSError."""
    with open(path, "rb") as file, refusing(path):
        _check(file)


@contextlib.contextmanager
def refusing(path: str | Path) -> Iterator[None]:
    """Inside the block, in which the file is read, damage is a ValueError that names it."""
    try:
        yield
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} is refused: it is no checkpoint, or a whole pickled object, which would run "
            "code to be read. Where it was made, save its weights alone: "
            "torch.save(model.state_dict(), NEW)") from None
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged archive or tensor makes zipfile or torch raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is damaged or no checkpoint ({reason})") from None


def _check(file) -> None:
    """Compares the archive's CRCs with its bytes. Raises whatever zipfile raises, or ValueError."""
    start = file.read(len(ZIP_START))
    if start == ZIP_START:
        with zipfile.ZipFile(file) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"the CRC of its part {damaged} does not match")
            if any(part.external_attr & FOLDER for part in archive.infolist()):
                raise ValueError("a part of it is marked as a folder")
    elif zipfile.is_zipfile(file):  # torch.load would take it for something else
        raise ValueError("its beginning is changed")
    else:
        file.seek(0)  # is_tarfile looks from here on, and takes an end for an empty archive
        if tarfile.is_tarfile(file):  # PyTorch's first format, whose reader is not restricted
            raise pickle.UnpicklingError
    file.seek(0)


def read_or_previous(path: str | Path, safe: tuple[type, ...] = ()) -> dict:
    """Reads a training state; if it is refused, the one before it, where there is one, and says so
    on stderr. Raises like `read`."""
    try:
        return read(path, safe)
    except ValueError as error:
        beside = previous(os.path.realpath(path))  # where `write` keeps that of a link
        before = next(filter(Path.is_file, (previous(path), beside, previous_0_1(path))), None)
        if before is None:
            raise
        notice(f"{error}; going on from the state before it, {before}")
        return read(before, safe)


def previous_0_1(path: str | Path) -> Path:
    """The name that release 0.1 gave to the state before: x.state.pt -> x.state.prev.pt."""
    path = Path(path)
    return path.with_suffix(f".prev{path.suffix}")


# --------------------------------------------------------------------------------- keeping
def set_aside(path: str | Path, label: str = "old", keep: bool = False) -> Path | None:
    """Renames a file, so that it is not overwritten: x.pt -> x.pt.old, or x.pt.old2, ... Returns
    the new name; None if there is no such file. keep: the first name stays too.

    Raises ValueError for a folder or anything else that is no file. No file is ever overwritten.
    """
    path = Path(path)
    try:  # one look: another process may set it aside at this moment
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError:
        if not os.path.lexists(path):
            return None
        regular = False  # a link to nowhere, or in a circle
    if not regular:
        raise ValueError(f"{path} is not a file: give another name")
    for number in itertools.chain([""], itertools.count(2)):
        target = Path(f"{path}.{label}{number}")
        if keep and target.is_file() and target.samefile(path):
            return target
        try:
            _rename(path, target, keep)
        except FileExistsError:
            continue
        return target
    raise AssertionError


def _rename(path: Path, target: Path, keep: bool) -> None:
    """Raises FileExistsError where os.rename would overwrite."""
    try:
        os.link(path, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # a file system without links
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        if keep:
            replace(target, lambda file: file.write(path.read_bytes()))
        else:
            os.rename(path, target)
    else:
        if not keep:
            path.unlink()
