"""The record of what a data set's folder holds, and what of it is lacking.

`entry` is the data set's table in the catalogue, `facts` a table with bytes, sha256 or md5.
"""

import json
import os

from getdata.checksums import is_known, measured, mismatch, size_of
from getdata.errors import FORBIDDEN

RECORD = ".complete"  # in a data set's folder: {file: {"bytes", "sha256"}}, written last


def read_record(folder):
    """Return the record of a folder without what is damaged in it, {} if there is none."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    entries = record.items() if isinstance(record, dict) else ()
    return {path: facts for path, facts in entries if is_entry(facts)}


def is_entry(facts):
    """Tell whether this is what `measured` returns."""
    return (isinstance(facts, dict) and isinstance(facts.get("bytes"), int)
            and isinstance(facts.get("sha256"), str))


def write_record(folder, record):
    """Replace the record of a folder in one step."""
    new = folder / (RECORD + ".new")
    new.unlink(missing_ok=True)  # left by a run that was killed
    with open(new, "x", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, folder / RECORD)


def contents(entry):
    """Return {path below the folder: facts} of what makes the data set complete."""
    if "makes" in entry:
        return {path: {} for path in entry["makes"]}
    return {file["to"]: file for file in entry["files"]}


def lacking(entry, folder):
    """Return the files of a data set that are not there, or not as recorded (sizes only)."""
    record = read_record(folder)
    found = []
    for path, facts in contents(entry).items():
        seen = record.get(path, {})
        same = all(facts.get(k, seen.get(k)) == seen.get(k) for k in ("bytes", "sha256"))
        if not (seen and same and size_of(folder / path) == seen["bytes"]):
            found.append(path)
    return found


def adopt(entry, folder):
    """Record the files that are there without record but have the catalogue's checksum; return
    what is lacking all the same. In a folder that is read-only they are read every time."""
    record, missing = read_record(folder), []
    for path in lacking(entry, folder):
        facts = contents(entry)[path]
        there = is_known(facts) and (folder / path).is_file()
        if not there or mismatch(folder / path, facts) is not None:
            missing.append(path)
            continue
        record[path] = measured(folder / path)
        try_to_write_record(folder, record)
    return missing


def try_to_write_record(folder, record):
    """Replace the record of a folder unless it is read-only."""
    try:
        write_record(folder, record)
    except OSError as error:
        if error.errno not in FORBIDDEN:
            raise
