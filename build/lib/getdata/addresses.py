"""Where to look for a file: the mirror, the data folder itself, then the catalogue's URLs.

`job` is the Job of settings.py.
"""

import collections
from urllib.parse import quote, unquote, urlsplit

from getdata.errors import Unreachable
from getdata.settings import COMMAND
from getdata.unpack import stays_packed

# One place to get a file from. place: a local path or a URL; archive: its name in the catalogue,
# None for the file itself; listed: False for a guess at a name that a mirror may not have.
Address = collections.namedtuple("Address", "place archive listed")


def base_name(address):
    """Return the file name at the end of a URL or of ARCHIVE!MEMBER."""
    return unquote(address.rpartition("!")[2].rpartition("/")[2])


def offline_names(file, job):
    """Return the (file name, archive or None) under which a mirror may have a file, best first."""
    sources = file.get("from", [])
    names = []
    for name in [*file.get("names", []), *map(base_name, sources)]:
        if name == base_name(file["to"]) and stays_packed(name):
            names.append((name, None))
        else:
            bare = name.removesuffix(".gz")
            names += [(bare + end, None) for end in ("", ".xz", ".gz", ".zip")]
    for archive in (source.partition("!")[0] for source in sources):
        if archive in job.archives:
            names += [(n, archive) for n in (archive, *job.archives[archive].get("also", []))]
    return dict.fromkeys(names)


def offline(name, entry, file, job):
    """Yield the addresses of a file in the mirror and, placed by hand, in the data folder."""
    names = offline_names(file, job)
    unpacked = [(s.partition("!")[2], None) for s in file.get("from", []) if "!" in s]
    folders = dict.fromkeys([name, *entry.get("mirror", []), entry["folder"], ""])
    for base, subs in ((job.mirror, folders), (job.data, [""])):
        # an archive that is unpacked already; a URL is not asked for one more guess per file
        for file_name, archive in names if isinstance(base, str) else (*names, *unpacked):
            for sub in subs:
                if isinstance(base, str):
                    place = "/".join(filter(None, (base.rstrip("/"), sub, quote(file_name))))
                    yield Address(place, archive, False)
                elif base and (base / sub / file_name).is_file():
                    yield Address(base / sub / file_name, archive, True)


def online(file, job):
    """Yield the catalogue's addresses of a file, in its order."""
    for source in file.get("from", []):
        archive = source.partition("!")[0]
        if archive in job.archives:
            for url in job.archives[archive]["urls"]:
                yield Address(url, archive, True)
        else:
            yield Address(source, None, True)


def part_path(address, name, job):
    """Return where a download stands until it is checked; sets share the archives."""
    file_name = address.archive or f"{name}-{base_name(address.place)}"
    return job.downloads / (file_name + ".part")


def known_dead(address, job):
    """Return why an address is not worth asking again in this run, None if it is."""
    return job.dead.get(str(address.place)) or job.dead.get(urlsplit(str(address.place)).netloc)


def remember_dead(address, error, job):
    """Spare later files an archive that was no good and a host that cannot be reached."""
    if address.archive:
        job.dead[str(address.place)] = error
    if isinstance(error, Unreachable):
        job.dead[urlsplit(address.place).netloc] = error


def by_hand(name, entry, file, job):
    """Return the instruction for a file that no address gave."""
    sources = [base_name(source.partition("!")[0]) for source in file.get("from", [])]
    either = " or ".join(dict.fromkeys(sources or file["names"]))
    hint = f"\n  note: {' '.join(entry['manual'].split())}" if "manual" in entry else ""
    return f"  by hand: put {either} into {job.data} and run {COMMAND} {name} again{hint}"
