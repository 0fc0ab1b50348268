"""Get the files of a data set into a folder, each from the first address that has it.

`job` is the Job of settings.py, `entry` the data set's table in the catalogue, `folder` a new one.
"""

import os
import pathlib

from getdata.addresses import by_hand, known_dead, offline, online, part_path, remember_dead
from getdata.checksums import is_known, largest_right, size_of
from getdata.download import download_checked
from getdata.errors import AddressFailed, GetDataError, WrongFile
from getdata.parts import tidy, validator_path
from getdata.unpack import stays_packed, unpack, unpack_archive


def take(path, address, file, todo, folder, job):
    """Put what a fetched file holds into folder: one file, or all of todo that an archive has.

    Raises WrongFile if `file` is not in it as it should be.
    """
    if not address.archive:
        unpack(path, folder / file["to"], file)
        return
    wanted, members = {}, {}
    for other in todo:
        for source in other.get("from", []):
            archive, _, member = source.partition("!")
            if archive == address.archive and not (folder / other["to"]).exists():
                wanted[member] = (folder / other["to"], other)
                members[other["to"]] = member
    found = unpack_archive(path, wanted, job.archives[address.archive])
    if members[file["to"]] not in found:
        raise WrongFile(f"the archive has no member {members[file['to']]}")


def get_from(address, name, entry, file, todo, folder, job):
    """Get a file from one address into folder. Raises AddressFailed."""

    def take_from(path):
        take(path, address, file, todo, folder, job)

    if isinstance(address.place, pathlib.Path):
        return take_from(address.place)
    part = part_path(address, name, job)
    whole = part.with_suffix("")  # an archive that a data set before this one has used
    if address.archive and os.access(whole, os.R_OK):
        try:
            return take_from(whole)
        except WrongFile:  # it was right for the other data set only
            whole.unlink()
    if address.listed:
        print(f"{name}: fetching {address.place}", flush=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    facts = download_facts(address, entry, file, job)
    download_checked(address.place, part, facts, job.timeout, take_from)
    validator_path(part).unlink(missing_ok=True)
    os.replace(part, whole)
    if not address.archive:
        whole.unlink()


def download_facts(address, entry, file, job):
    """Return the facts of what an address sends: bytes only if no other size is right, and largest,
    the most bytes that can be right."""
    facts = dict(job.archives[address.archive] if address.archive else file)
    if address.archive:
        repacked_is_fine = is_known(file)  # then the checksum of the file inside decides
        largest = largest_right(facts.get("bytes"), facts.get("size"))
        largest += sum(each.get("bytes", 0) for each in entry["files"])  # packed without packing
    else:
        repacked_is_fine = stays_packed(address.place) and not stays_packed(file["to"])
        largest = largest_right(facts.get("bytes"), entry.get("size"))
    if repacked_is_fine:
        facts.pop("bytes", None)
    return facts | {"largest": facts.get("bytes", largest)}


def arrived(name, entry, files, job):
    """Return how many bytes of files stand there as half downloads that can be continued."""
    parts = {}
    for file in files:
        for address in online(file, job):
            part = part_path(address, name, job)
            parts[part] = max(parts.get(part, 0),
                              download_facts(address, entry, file, job)["largest"])
    for part, largest in parts.items():
        tidy(part, largest)
    return sum(map(size_of, parts))


def obtain(name, entry, files, folder, job):
    """Get the files into folder, each from the first address that has it.

    Raises GetDataError, naming each address and why, and what can be done by hand.
    """
    for file in files:
        if (folder / file["to"]).exists():  # came with another file's archive
            continue
        failures = []
        for address in (*offline(name, entry, file, job), *online(file, job)):
            why = known_dead(address, job)
            if not why:
                try:
                    get_from(address, name, entry, file, files, folder, job)
                    break
                except AddressFailed as error:
                    why = error
                    remember_dead(address, error, job)
            guessed = not address.listed and not isinstance(why, WrongFile)
            failures.append(f"  {job.mirror if guessed else address.place}: {why}")
        else:
            if isinstance(job.mirror, pathlib.Path) and str(job.mirror) not in "".join(failures):
                failures.insert(0, f"  {job.mirror}: no such file")
            lines = [f"{name}: no address gave {file['to']}", *dict.fromkeys(failures)]
            raise GetDataError("\n".join([*lines, by_hand(name, entry, file, job)]))
        if not is_known(file) and not is_known(job.archives.get(address.archive, {})):
            print(f"{name}: {file['to']}: no checksum is published; used unverified")
