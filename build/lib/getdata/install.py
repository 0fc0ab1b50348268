"""Make a data set complete: get or build what is lacking beside the folder, then move it in."""

import os
import pathlib
import sys
import tempfile

from getdata.addresses import online, part_path
from getdata.builders import BUILDERS
from getdata.checksums import lacking_space, measured
from getdata.errors import GetDataError
from getdata.folder_record import adopt, contents, lacking, read_record, write_record
from getdata.links import make_link
from getdata.moving import put
from getdata.obtain import arrived, obtain


def state(name, entry, job):
    """Return present, partial or missing."""
    folder = job.data / entry["folder"]
    if not lacking(entry, folder):
        return "present"
    files = [folder / path for path in contents(entry)]
    for file in entry.get("files", []):
        files += [part_path(address, name, job) for address in online(file, job)]
    return "partial" if any(file.exists() for file in files) else "missing"


def get(name, job):
    """Make one data set complete and link it. Raises GetDataError."""
    entry = job.sets[name]
    folder = job.data / entry["folder"]
    if os.path.lexists(folder) and not folder.is_dir():
        what = "a link to what is not there" if folder.is_symlink() else "not a folder"
        raise GetDataError(f"{name}: {folder} is in the way: {what}")
    missing = adopt(entry, folder)
    if not missing:
        print(f"{name}: already there")
    else:
        with tempfile.TemporaryDirectory(
            prefix=".new-", dir=job.data, ignore_cleanup_errors=True
        ) as private:
            new = pathlib.Path(private, "set")
            new.mkdir()  # with the mode, group and access list that data sets have here
            fill(name, entry, new, missing, job)
            move_in(name, entry, new, folder)
        note = f" ({' '.join(entry['note'].split())})" if "note" in entry else ""
        print(f"{name}: ready in {folder}{note}")
    if job.links:
        for link, below in entry.get("links", {}).items():
            make_link(job.links / link, folder / below, job.data)


def fill(name, entry, new, missing, job):
    """Fill the folder `new` with what the data set lacks, checked. Raises GetDataError."""
    files = entry.get("files", [])
    room = entry.get("room", sum(file.get("bytes", 0) for file in files))
    room -= arrived(name, entry, files, job)
    folder = job.data / entry["folder"]
    for disk in (job.data, folder if folder.is_dir() else job.data):
        if why := lacking_space(disk, room):
            raise GetDataError(f"{name}: {why}")
    if "makes" not in entry:
        obtain(name, entry, [file for file in files if file["to"] in missing], new, job)
        return
    obtain(name, entry, files, new, job)
    print(f"{name}: preparing", flush=True)
    BUILDERS[entry["prepare"]](new)


def move_in(name, entry, new, folder):
    """Move the finished files into the data set's folder, the record last."""
    made = [path for path in contents(entry) if (new / path).exists()]
    record = read_record(folder) | {path: measured(new / path) for path in made}
    if not folder.exists():
        write_record(new, record)
        os.rename(new, folder)
        return
    for path in sorted(path.relative_to(new) for path in new.rglob("*") if path.is_file()):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if kept := put(new / path, folder / path):
            print(f"{name}: {path} was another file than getdata's: it is now {kept.name}",
                  file=sys.stderr)
    write_record(folder, record)
