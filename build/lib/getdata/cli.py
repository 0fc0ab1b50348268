"""./getdata.sh [NAME ...]   fetch data sets into data/ and link them to where the scripts look

  ./getdata.sh                     what the original got: ptb ptbc wt2 wt103 enwik8
  ./getdata.sh ptb mnist           these only (names: ./getdata.sh --list)
  ./getdata.sh --verify            read everything again and compare the checksums
  DATA_MIRROR=../mirror ./getdata.sh wt2      try this folder (or URL) before the internet

A download goes to data/.downloads/NAME.part and is continued from there after an interruption. It
is checked before it is used: by the checksums of the files inside where they are known, else by the
archive's. If an address fails or gives a wrong file, the next one is tried; if all fail, put a file
of that name into data/ yourself and run the command again. A second run downloads nothing. If one
data set fails, the others are fetched all the same. No download takes more than about twice the
size that the catalogue gives, or 4 GiB where it gives none. A file of yours that is in the way of
one of getdata's is kept as NAME.old. data/, or a folder in it, may be a link to another disk.

lra is the Long Range Arena's release (7.7 GB), of which ListOps is unpacked; the archive stays in
data/. It holds two folders pathfinder128: the scripts read the inner one, lra_release/lra_release/
pathfinder128, as the release's own dataset_setup.sh does (more in tnn/lra/README.md).

pydoc, pydoc-char, tagging, digits, listops, pathfinder and aan-small are built without network; the
texts among them come from this interpreter's library, so they differ between Python versions.

environment:
  DATA_DIR           where the data goes (data/ of the repository); no links are made if it is set
  DATA_MIRROR        folder or URL tried first; flat or in folders, packed (.xz .gz .zip) or not
  GETDATA_LINKS      folder that takes the links instead of the repository
  GETDATA_TIMEOUT    seconds to connect, to the answer and without progress, before an address is
                     given up (30)
  GETDATA_CATALOGUE  another catalogue than getdata/catalogue.toml

exit status: 0 all there, 1 something failed, 2 wrong usage or a missing package, 130 interrupted
(run again to continue)
"""

import argparse
import contextlib
import sys

from getdata.checksums import mismatch
from getdata.errors import FORBIDDEN, FULL, GetDataError, UsageError
from getdata.folder_record import lacking, read_record, try_to_write_record
from getdata.install import get, state
from getdata.lock import data_folder_locked
from getdata.settings import COMMAND, read_job


def parse(arguments):
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog=COMMAND.removeprefix("./"), description=__doc__.replace("./getdata.sh", COMMAND),
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="data sets; --list shows them")
    parser.add_argument("--list", action="store_true", help="show names, sizes and what is there")
    parser.add_argument("--verify", action="store_true", help="compare checksums of what is there")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the command line and return the exit status."""
    args = parse(arguments)
    try:
        job = read_job()
    except UsageError as error:
        return complain(error, 2)
    try:
        return run(args, job)
    except UsageError as error:
        return complain(error, 2)
    except (OSError, ImportError) as error:
        return complain(explained(error, job), 2 if isinstance(error, ImportError) else 1)
    except KeyboardInterrupt:
        return complain("interrupted; run it again to continue", 130)


def explained(error, job):
    """Return an error with what to do about it."""
    if isinstance(error, ImportError):
        return (f"{error.name} is not installed: pip install 'sequence-papers[data]' (in a "
                "checkout: make setup)")
    if isinstance(error, OSError) and error.errno in FULL:
        return f"{error}; make room in {job.data} and run it again to continue"
    if isinstance(error, OSError) and error.errno in FORBIDDEN:
        return f"{error}; DATA_DIR=FOLDER names another folder for the data"
    return error


def complain(reason, code):
    """Print one line and return the exit status."""
    print(f"getdata: {reason}", file=sys.stderr)
    return code


def run(args, job):
    """Do what was asked for; return the exit status. Raises UsageError."""
    if unknown := [name for name in args.names if name not in job.sets]:
        raise UsageError(f"unknown data set {' '.join(unknown)} (known: {' '.join(job.sets)})")
    if args.verify and not args.list:
        return verify(args.names or job.sets, job)
    if args.list:
        for name, entry in job.sets.items():
            print(list_line(name, entry, job))
        return 0
    defaults = [name for name, entry in job.sets.items() if entry.get("default")]
    return get_all(args.names or defaults, job)


def get_all(names, job):
    """Get data sets, each whether or not another one fails; return the exit status."""
    entries = [job.sets[name] for name in names]
    complete = not any(lacking(entry, job.data / entry["folder"]) for entry in entries)
    failed = {}  # name -> exit status
    with contextlib.nullcontext() if complete else data_folder_locked(job):
        for name in names:
            try:
                get(name, job)
            except (GetDataError, OSError, ImportError) as error:  # scikit-learn may be missing
                code = 2 if isinstance(error, ImportError) else 1
                failed[name] = complain(explained(error, job), code)
    if failed and len(names) > 1:
        complain(f"{len(names) - len(failed)} of {len(names)} data sets are there, "
                 f"not {' '.join(failed)}", 1)
    return max(failed.values(), default=0)


def list_line(name, entry, job):
    """Return the line of --list: name, size of the download, state and meaning of a data set."""
    size = entry.get("size")
    text = "?" if size is None else f"{size / 1e6:,.2f} MB" if size else "-"
    return f"{name:15}{text:>12}  {state(name, entry, job):8} {entry['about']}"


def verify(names, job):
    """Read the recorded files again; return 1 if some are damaged, which the next run replaces."""
    damaged = 0
    for name in names:
        folder = job.data / job.sets[name]["folder"]
        record = read_record(folder)
        bad = [path for path, facts in record.items() if not intact(folder / path, facts)]
        for path in bad:
            print(f"{name}: {path} is damaged: run {COMMAND} {name}")
        if bad:
            try_to_write_record(folder, {p: facts for p, facts in record.items() if p not in bad})
        if record and not bad:
            print(f"{name}: {len(record)} files as recorded")
        damaged += len(bad)
    return 1 if damaged else 0


def intact(path, facts):
    """Tell whether a file is there and has the recorded size and checksum."""
    return path.is_file() and mismatch(path, facts) is None
