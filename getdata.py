"""./getdata.sh [NAME ...]   fetch data sets into data/ and link them to where the scripts look

  ./getdata.sh                     what the original got: ptb ptbc wt2 wt103 enwik8
  ./getdata.sh ptb mnist           these only (names: ./getdata.sh --list)
  ./getdata.sh --verify            read everything again and compare the checksums
  DATA_MIRROR=../mirror ./getdata.sh wt2      try this folder (or URL) before the internet

A download goes to data/.downloads/NAME.part and is continued from there after an interruption. It
is checked before it is used: by the checksum of the files inside where that is known, else by the
archive's. An address that fails or gives a wrong file is followed by the next one; when all have
failed, a file of that name that you put into data/ yourself is taken by the next run. Run twice,
the second run does nothing. pydoc, pydoc-char, tagging, digits, listops, pathfinder and aan-small
are built without network; the texts among them are this interpreter's library, so they differ
between Python versions.

environment:
  DATA_DIR           where the data goes (data/ of the repository); no links are made if it is set
  DATA_MIRROR        folder or URL tried first; flat or in folders, packed (.xz .gz .zip) or not
  GETDATA_LINKS      folder that takes the links instead of the repository
  GETDATA_TIMEOUT    seconds without an answer or progress after which an address is left (30)
  GETDATA_CATALOGUE  another catalogue than getdata.toml

exit status: 0 all there, 1 something failed, 2 wrong usage, 130 interrupted (run again to continue)
"""

import argparse
import contextlib
import errno
import fcntl
import math
import os
import pathlib
import shutil
import sys
import tempfile
import tomllib

import embedded
from fetch.addresses import online, part_path
from fetch.checks import (
    GetDataError,
    absent,
    adopt,
    measured,
    mismatch,
    need_space,
    read_record,
    results,
    write_record,
)
from fetch.obtain import obtain

ROOT = pathlib.Path(__file__).resolve().parent


class UsageError(Exception):
    """What the user gave makes no sense; exit status 2."""


# ------------------------------------------------------------------------------------------------
# Settings


def settings():
    """Read environment and catalogue into a namespace. Raises UsageError."""
    env = os.environ
    catalogue_path = pathlib.Path(env.get("GETDATA_CATALOGUE") or ROOT / "getdata.toml")
    try:
        catalogue = tomllib.loads(catalogue_path.read_text(encoding="utf-8"))
        timeout = float(env.get("GETDATA_TIMEOUT") or 30)
    except (OSError, ValueError) as error:
        raise UsageError(f"{catalogue_path}, GETDATA_TIMEOUT: {error}") from error
    if not 0 < timeout < math.inf:
        raise UsageError("GETDATA_TIMEOUT must be a positive number of seconds")
    mirror = env.get("DATA_MIRROR", "").removeprefix("file://") or None
    if mirror and "://" not in mirror:
        mirror = pathlib.Path(mirror).absolute()
        if not mirror.is_dir():
            raise UsageError(f"DATA_MIRROR: no folder {mirror}")
    data = pathlib.Path(env.get("DATA_DIR") or ROOT / "data").absolute()
    links = env.get("GETDATA_LINKS") or (ROOT if data == ROOT / "data" else None)
    return argparse.Namespace(
        sets=catalogue.get("sets", {}),
        archives=catalogue.get("archives", {}),
        data=data,
        links=links and pathlib.Path(links).absolute(),
        mirror=mirror,
        timeout=timeout,
        dead={},  # {URL of an archive or host: why it failed in this run}
    )


# ------------------------------------------------------------------------------------------------
# What is there


def state(name, entry, job):
    """Return present, partial or missing."""
    folder = job.data / entry["folder"]
    if not absent(entry, folder):
        return "present"
    files = [folder / path for path in results(entry)]
    for file in entry.get("files", []):
        files += [part_path(address, name, job) for address in online(file, job)]
    return "partial" if any(file.exists() for file in files) else "missing"


# ------------------------------------------------------------------------------------------------
# Getting


def build(name, entry, folder, job):
    """Fill folder with what the data set lacks, checked."""
    lacking = absent(entry, job.data / entry["folder"])
    files = entry.get("files", [])
    need_space(job.data, entry.get("room", sum(file.get("bytes", 0) for file in files)))
    if "makes" not in entry:
        obtain(name, entry, [file for file in files if file["to"] in lacking], folder, job)
        return
    obtain(name, entry, files, folder, job)
    print(f"{name}: preparing", flush=True)
    embedded.BUILDERS[entry["prepare"]](folder)


def install(entry, new, folder):
    """Move the finished files into the data set's folder, the record last."""
    made = [path for path in results(entry) if (new / path).exists()]
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


def get(name, job):
    """Make one data set complete and link it. Raises GetDataError."""
    entry = job.sets[name]
    folder = job.data / entry["folder"]
    if folder.exists() and not folder.is_dir():
        raise GetDataError(f"{name}: {folder} is in the way: not a folder")
    if folder.is_dir():
        adopt(entry, folder)
    if not absent(entry, folder):
        print(f"{name}: already there")
    else:
        with tempfile.TemporaryDirectory(
            prefix=".new-", dir=job.data, ignore_cleanup_errors=True
        ) as new:
            build(name, entry, pathlib.Path(new), job)
            install(entry, pathlib.Path(new), folder)
        note = f" ({' '.join(entry['note'].split())})" if "note" in entry else ""
        print(f"{name}: ready in {folder}{note}")
    if job.links:
        for link, below in entry.get("links", {}).items():
            make_link(job.links / link, folder / below)


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
def alone(data):
    """Hold the data folder's lock, and clear away what only a killed run can have left."""
    data.mkdir(parents=True, exist_ok=True)
    handle = os.open(data, os.O_RDONLY)
    downloads = data / ".downloads"
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another getdata to finish", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        for left in data.glob(".new-*"):
            shutil.rmtree(left)
        yield
    finally:
        for file in downloads.glob("*"):
            if file.suffix not in (".part", ".tag"):
                file.unlink()  # an archive that is unpacked by now
        with contextlib.suppress(OSError):
            downloads.rmdir()  # only if nothing is left to continue
        os.close(handle)


# ------------------------------------------------------------------------------------------------
# Command line


def show_list(job):
    """Print name, size of the download, state and meaning of each data set."""
    for name, entry in job.sets.items():
        size = entry.get("size")
        text = "?" if size is None else f"{size / 1e6:,.2f} MB" if size else "-"
        print(f"{name:15}{text:>12}  {state(name, entry, job):8} {entry['about']}")


def verify(names, job):
    """Read the recorded files again; return 1 if some are damaged, which the next run replaces."""
    damaged = 0
    for name in names:
        folder = job.data / job.sets[name]["folder"]
        record = read_record(folder)
        bad = [p for p, facts in record.items() if not intact(folder / p, facts)]
        for path in bad:
            print(f"{name}: {path} is damaged: run ./getdata.sh {name}")
        if bad:
            write_record(folder, {p: facts for p, facts in record.items() if p not in bad})
        if record and not bad:
            print(f"{name}: {len(record)} files as recorded")
        damaged += len(bad)
    return 1 if damaged else 0


def intact(path, facts):
    """Tell whether a file is there and has the recorded size and checksum."""
    return path.is_file() and mismatch(path, facts) is None


def get_all(names, job):
    """Get the data sets one after the other; return 1 if one of them failed."""
    failed = 0
    with alone(job.data):
        for name in names:
            try:
                get(name, job)
            except (GetDataError, ImportError) as error:  # a package may be missing
                print(f"getdata: {error}", file=sys.stderr)
                failed = 1
    return failed


def parse(arguments):
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="getdata.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="data sets; --list shows them")
    parser.add_argument("--list", action="store_true", help="show names, sizes and what is there")
    parser.add_argument("--verify", action="store_true", help="compare checksums of what is there")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the command line and return the exit status."""
    args = parse(arguments)
    try:
        job = settings()
        if unknown := [name for name in args.names if name not in job.sets]:
            raise UsageError(f"unknown data set {' '.join(unknown)} (known: {' '.join(job.sets)})")
        if args.list:
            show_list(job)
            return 0
        if args.verify:
            return verify(args.names or job.sets, job)
        defaults = [name for name, entry in job.sets.items() if entry.get("default")]
        return get_all(args.names or defaults, job)
    except UsageError as error:
        print(f"getdata: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = f"; make room in {job.data} and run it again to continue" if full else ""
        print(f"getdata: {error}{hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("getdata: interrupted; run it again to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
