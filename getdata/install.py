"""Make a data set complete: get or build what is lacking beside the folder, then move it in."""

import contextlib
import os
import pathlib
import shutil
import sys
import tempfile

from getdata.addresses import online, part_path
from getdata.builders import BUILDERS
from getdata.checksums import measured, need_space
from getdata.errors import GetDataError
from getdata.folder_record import adopt, contents, lacking, read_record, write_record
from getdata.obtain import obtain


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
    if folder.exists() and not folder.is_dir():
        raise GetDataError(f"{name}: {folder} is in the way: not a folder")
    if folder.is_dir():
        adopt(entry, folder)
    if not lacking(entry, folder):
        print(f"{name}: already there")
    else:
        with tempfile.TemporaryDirectory(
            prefix=".new-", dir=job.data, ignore_cleanup_errors=True
        ) as new:
            fill(name, entry, pathlib.Path(new), job)
            move_in(entry, pathlib.Path(new), folder)
        note = f" ({' '.join(entry['note'].split())})" if "note" in entry else ""
        print(f"{name}: ready in {folder}{note}")
    if job.links:
        for link, below in entry.get("links", {}).items():
            make_link(job.links / link, folder / below)


def fill(name, entry, new, job):
    """Fill the folder `new` with what the data set lacks, checked."""
    files = entry.get("files", [])
    need_space(job.data, entry.get("room", sum(file.get("bytes", 0) for file in files)))
    if "makes" not in entry:
        missing = lacking(entry, job.data / entry["folder"])
        obtain(name, entry, [file for file in files if file["to"] in missing], new, job)
        return
    obtain(name, entry, files, new, job)
    print(f"{name}: preparing", flush=True)
    BUILDERS[entry["prepare"]](new)


def move_in(entry, new, folder):
    """Move the finished files into the data set's folder, the record last."""
    made = [path for path in contents(entry) if (new / path).exists()]
    record = read_record(folder) | {path: measured(new / path) for path in made}
    if not folder.exists():
        write_record(new, record)
        new.chmod(0o777 & ~current_umask())
        os.rename(new, folder)
        return
    for path in sorted(path.relative_to(new) for path in new.rglob("*") if path.is_file()):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(new / path, folder / path)
    write_record(folder, record)


def current_umask():
    """Return the umask, which can only be read by setting it."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def make_link(link, target):
    """Make a relative link, unless something else is there, which is left alone."""
    if link.resolve() == target.resolve():
        return
    if link.is_symlink() and not link.exists():
        link.unlink()  # dangling
    if link.exists():
        print(f"{link} exists and is no link to {target}: left alone")
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent.resolve()))


@contextlib.contextmanager
def data_folder_locked(data):
    """Hold the data folder's lock, so that only what a killed run left is cleared away."""
    data.mkdir(parents=True, exist_ok=True)
    lock = take_lock(data)
    try:
        for left in data.glob(".new-*"):
            shutil.rmtree(left)
        yield
    finally:
        remove_used_archives(data / ".downloads")
        lock.release()


def take_lock(data):
    """Return the lock, taken; on a file system without locks say so and go on without."""
    from filelock import FileLock, Timeout  # may be missing: not for --list

    lock = FileLock(data / ".lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print("waiting for another getdata to finish", flush=True)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        print(f"{data}: no lock can be had there ({error}); start no second getdata",
              file=sys.stderr)
    return lock


def remove_used_archives(downloads):
    """Remove archives that are unpacked by now; half downloads stay, to be continued."""
    for file in downloads.glob("*"):
        if file.suffix not in (".part", ".tag"):
            file.unlink()
    with contextlib.suppress(OSError):
        downloads.rmdir()  # only if nothing is left to continue
