"""Unpack by name and check. Nothing is extracted but wanted members, to names of our choosing."""

import bz2
import contextlib
import errno
import gzip
import lzma
import os
import stat
import tarfile
import zipfile

from getdata.checksums import BLOCK, is_known, mismatch
from getdata.errors import AddressFailed, WrongFile

LARGEST_MEMBER = 8 << 30  # limit for unpacked files whose size is not in the catalogue
LARGEST_ARCHIVE = 64 << 30  # limit for all that an archive unpacks to
LARGEST_READ = 1 << 20  # limit for what the reader of an archive may take at once
PACKED = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ": lzma.open, b"BZh": bz2.open}


def opener(path):
    """Return the function that opens a file unpacked, by its first bytes; plain open if none."""
    with open(path, "rb") as file:
        head = file.read(8)
    return next((unpacker for magic, unpacker in PACKED.items() if head.startswith(magic)), open)


def is_zip(path):
    """Tell whether the file starts as a zip archive does."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def copy_checked(source, target, facts):
    """Copy an open file to target, durably, and check it. Raises WrongFile; then target is gone."""
    limit = facts.get("bytes", LARGEST_MEMBER)
    new = target.with_name(target.name + ".new")
    new.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(new, "wb") as file:
            while block := source.read(BLOCK):
                if file.tell() + len(block) > limit:
                    raise WrongFile(f"unpacks to more than the {limit:,} bytes expected")
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if why := mismatch(new, facts):
            raise WrongFile(f"{target.name}: {why}")
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)


class Guarded:
    """An open file of which no reader takes much at once: the header of a tar may say that a name
    has 3 GB, which packs to a few MB of zeros, and tarfile would read it into memory."""

    def __init__(self, file):
        self.file, self.tell, self.close = file, file.tell, file.close

    def read(self, size=-1):
        if not 0 <= size <= LARGEST_READ:
            raise WrongFile(f"broken archive (a header of {size:,} bytes)")
        return self.file.read(size)

    def seek(self, position):
        if position > LARGEST_ARCHIVE:
            raise WrongFile(f"unpacks to more than {LARGEST_ARCHIVE:,} bytes")
        return self.file.seek(position)


def members(path):
    """Yield (name, kind, function that opens it) of each member of a tar or zip archive."""
    if is_zip(path):
        with zipfile.ZipFile(path) as archive:
            refuse_bomb(archive)
            for info in archive.infolist():
                mode = stat.S_IFMT(info.external_attr >> 16)
                kind = "link" if mode == stat.S_IFLNK else "folder" if info.is_dir() else "file"
                yield info.filename, kind, lambda info=info: archive.open(info)
    else:
        with opener(path)(path, "rb") as file, tarfile.open(fileobj=Guarded(file), mode="r:") as (
                archive):
            for info in archive:
                kind = "file" if info.isfile() else "folder" if info.isdir() else "link or device"
                yield info.name, kind, lambda info=info: archive.extractfile(info)


def refuse_bomb(archive):
    """Raise WrongFile for a zip that says of itself that it unpacks to more than we would read;
    zipfile never gives more of a member than its size there."""
    if sum(info.file_size for info in archive.infolist()) > LARGEST_ARCHIVE:
        raise WrongFile(f"unpacks to more than {LARGEST_ARCHIVE:,} bytes")


def refuse_unsafe(name, kind):
    """Raise WrongFile for a member that has no place in an honest data archive."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
        raise WrongFile(f"unsafe archive: member {name!r} leaves the folder")
    if kind not in ("file", "folder"):
        raise WrongFile(f"unsafe archive: member {name!r} is a {kind}")


@contextlib.contextmanager
def broken_is_wrong():
    """Turn whatever an archive reader says of a damaged file into WrongFile."""
    try:
        yield
    except AddressFailed:
        raise
    except OSError as error:
        # bz2 and gzip raise it bare for bad data; a zip's damaged offset is sought before the start
        if error.errno in (None, errno.EINVAL):
            raise WrongFile(f"broken archive ({error})") from error
        raise
    except Exception as error:  # the readers trust headers: ValueError, IndexError, MemoryError...
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise WrongFile(f"broken archive ({reason})") from error


def unpack_archive(path, wanted, archive_facts):
    """Unpack {member: (target, facts)} and return the members found, each checked.

    The archive's own checksum is asked for only if a wanted file has none. If it fits, the archive
    is the published one and odd members that nobody wants are passed over.
    """
    genuine = is_known(archive_facts) and mismatch(path, archive_facts) is None
    needed = not all(is_known(facts) for _, facts in wanted.values())
    if needed and is_known(archive_facts) and not genuine:
        raise WrongFile(mismatch(path, archive_facts))
    found = set()
    try:
        with broken_is_wrong():
            for name, kind, open_member in members(path):
                plain = name.removeprefix("./")
                if not genuine or plain in wanted:
                    refuse_unsafe(name, kind)
                if plain in wanted and kind == "file":
                    with open_member() as source:
                        copy_checked(source, *wanted[plain])
                    found.add(plain)
    except WrongFile:  # then nothing of the archive is used
        for member in found:
            wanted[member][0].unlink()
        raise
    return found


def stays_packed(name):
    """Tell by its name whether a file of a data set is itself an archive."""
    return name.endswith((".gz", ".xz", ".zip", ".pkl"))  # .pkl: weights, a zip or a pickle


def unpack(path, target, facts):
    """Put the one file that path holds, packed or not, to target. Raises WrongFile."""
    with broken_is_wrong():
        if stays_packed(target.name):
            with open(path, "rb") as source:
                copy_checked(source, target, facts)
            if target.suffix == ".zip" and not is_known(facts):
                check_zip(target)
            if target.suffix == ".pkl":
                check_weights(target)
        elif is_zip(path):
            names = [name for name, kind, _ in members(path) if kind == "file"]
            if len(names) != 1:
                raise WrongFile(f"a zip with {len(names)} files, expected one")
            unpack_archive(path, {names[0]: (target, facts)}, {})
        else:
            with opener(path)(path, "rb") as source:
                copy_checked(source, target, facts)


def check_weights(path):
    """Raise WrongFile, and remove the file, if torch.save did not write it: a browser may have
    saved a web page in its place. The content is left to the reader, who runs no code of it."""
    with open(path, "rb") as file:
        start = file.read(1)
    if start != b"\x80" and not is_zip(path):
        path.unlink()
        raise WrongFile("these are no weights: torch.save did not write it")


def check_zip(path):
    """Raise WrongFile, and remove the file, if it is no zip or a member's checksum is off."""
    try:
        with broken_is_wrong(), zipfile.ZipFile(path) as archive:
            refuse_bomb(archive)
            if bad := archive.testzip():
                raise WrongFile(f"broken archive (member {bad})")
    except WrongFile:
        path.unlink()
        raise
