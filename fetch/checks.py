"""Sizes and checksums of files, the record of what a folder holds, and the errors of the package.

`facts` is a table of the catalogue, of which only bytes, sha256 and md5 are read here; `entry` is
the table of a data set.
"""

import hashlib
import json
import os
import shutil

BLOCK = 1 << 18
RECORD = ".complete"  # in a data set's folder: {file: {"bytes", "sha256"}}, written last


class GetDataError(Exception):
    """A failure to be shown to the user as one line."""


class AddressFailed(Exception):
    """The address did not give the file; the next one may."""


class Unreachable(AddressFailed):
    """The host cannot be connected to."""


class ConnectionLost(AddressFailed):
    """The transfer broke off; what has arrived is kept."""


class WrongFile(AddressFailed):
    """The address gave something else, which must be neither kept nor continued."""


def size_of(path):
    """Return the size of a file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def checksums(path, kinds=("sha256",)):
    """Return {kind: hex digest} of a file."""
    digests = {kind: hashlib.new(kind) for kind in kinds}
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            for digest in digests.values():
                digest.update(block)
    return {kind: digest.hexdigest() for kind, digest in digests.items()}


def is_known(facts):
    """Tell whether the catalogue has a checksum."""
    return "sha256" in facts or "md5" in facts


def mismatch(path, facts):
    """Return in words how the file at path differs from the facts, or None if it does not."""
    size = path.stat().st_size
    if size != facts.get("bytes", size):
        return f"{size:,} bytes, expected {facts['bytes']:,}"
    kinds = [kind for kind in ("sha256", "md5") if kind in facts]
    for kind, digest in checksums(path, kinds).items():
        if digest != facts[kind]:
            return f"{kind} {digest[:12]}..., expected {facts[kind][:12]}..."
    return None


def need_space(folder, nbytes):
    """Raise GetDataError if the disk of folder has not nbytes free."""
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise GetDataError(f"not enough disk space in {folder}: needs {nbytes:,}, has {free:,}")


def read_record(folder):
    """Return the record of a folder, {} if there is none or it is damaged."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_record(folder, record):
    """Replace the record of a folder in one step."""
    new = folder / (RECORD + ".new")
    with open(new, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, folder / RECORD)


def results(entry):
    """Return {path below the folder: facts} of what makes the data set complete."""
    if "makes" in entry:
        return {path: {} for path in entry["makes"]}
    return {file["to"]: file for file in entry["files"]}


def absent(entry, folder):
    """Return the files of a data set that are not there, or not as recorded (sizes only)."""
    record = read_record(folder)
    lacking = []
    for path, facts in results(entry).items():
        seen = record.get(path, {})
        same = all(facts.get(k, seen.get(k)) == seen.get(k) for k in ("bytes", "sha256"))
        if not (seen and same and size_of(folder / path) == seen["bytes"]):
            lacking.append(path)
    return lacking


def adopt(entry, folder):
    """Record the files that are there without record but have the catalogue's checksum."""
    record = read_record(folder)
    for path in absent(entry, folder):
        facts = results(entry)[path]
        there = is_known(facts) and (folder / path).is_file()
        if there and mismatch(folder / path, facts) is None:
            record[path] = measured(folder / path)
            write_record(folder, record)


def measured(path):
    """Return the facts of a file for the record."""
    return {"bytes": path.stat().st_size, **checksums(path)}
