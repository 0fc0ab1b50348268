"""Sizes and checksums of files, and the room for them.

`facts` is a table of the catalogue, of which only bytes, sha256 and md5 are read here.
"""

import hashlib
import shutil

BLOCK = 1 << 18
SLACK = 1 << 20
LARGEST_UNKNOWN = 4 << 30  # limit for downloads of which the catalogue knows no size


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


def lacking_space(folder, nbytes):
    """Return in words that the disk of folder has not nbytes free, None if it has."""
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        return f"not enough disk space in {folder}: needs {nbytes:,}, has {free:,}"
    return None


def largest_right(*sizes):
    """Return the most bytes that a file about as large as the first known of `sizes` can have."""
    known = [size for size in sizes if size]
    return 2 * known[0] + SLACK if known else LARGEST_UNKNOWN


def measured(path):
    """Return the facts of a file for the record."""
    return {"bytes": path.stat().st_size, **checksums(path)}
