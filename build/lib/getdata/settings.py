"""The environment and the catalogue, read once per run."""

import math
import os
import pathlib
import sys
import tomllib
from dataclasses import dataclass, field

from getdata.errors import UsageError

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
CHECKOUT = (ROOT / "getdata.sh").is_file()
COMMAND = "./getdata.sh" if CHECKOUT else "python -m getdata"  # what a user types


@dataclass
class Job:
    """What one run of getdata works with. Paths are absolute.

    sets, archives: the catalogue's tables by name. data: where data sets go. links: the folder that
    takes the links, or None. mirror: a folder or a URL tried first, or None. timeout: in seconds.
    dead: URL of an archive, or host -> why it failed in this run.
    """

    sets: dict[str, dict]
    archives: dict[str, dict]
    data: pathlib.Path
    links: pathlib.Path | None
    mirror: pathlib.Path | str | None
    timeout: float
    dead: dict[str, Exception] = field(default_factory=dict)

    @property
    def downloads(self) -> pathlib.Path:
        """The folder of half downloads; in a shared data folder it may be another user's."""
        common = self.data / ".downloads"
        if sys.platform == "win32" or usable(common):
            return common
        return self.data / f".downloads-{os.geteuid()}"


def usable(folder: pathlib.Path) -> bool:
    """Can this user write there? A folder that is missing can be made; a link of someone else's,
    which may lead anywhere, is not followed."""
    try:
        owner = folder.lstat().st_uid
    except FileNotFoundError:
        return True
    if folder.is_symlink() and owner != os.geteuid():
        return False
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def read_job() -> Job:
    """The job that the environment describes. Raises UsageError."""
    env = os.environ
    path = pathlib.Path(env.get("GETDATA_CATALOGUE") or HERE / "catalogue.toml")
    try:
        catalogue = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the catalogue {path} cannot be read: {error}") from error
    data, links = places(env.get("DATA_DIR"), env.get("GETDATA_LINKS"))
    return Job(catalogue.get("sets", {}), catalogue.get("archives", {}), data, links,
               mirror_of(env.get("DATA_MIRROR", "")), seconds(env.get("GETDATA_TIMEOUT") or "30"))


def seconds(text: str) -> float:
    """GETDATA_TIMEOUT as a number. Raises UsageError unless it is positive and finite."""
    try:
        if 0 < float(text) < math.inf:
            return float(text)
    except ValueError:
        pass
    raise UsageError(f"GETDATA_TIMEOUT must be a positive number of seconds, not {text!r}")


def places(data_dir: str | None, links: str | None) -> tuple[pathlib.Path, pathlib.Path | None]:
    """(data folder, folder for the links). The repository, if this is one, has both; an installed
    package has neither and uses ./data."""
    root = ROOT if CHECKOUT else None
    default = (root or pathlib.Path.cwd()) / "data"
    data = pathlib.Path(data_dir or default).absolute()
    if links:
        return data, pathlib.Path(links).absolute()
    return data, root if data == default else None


def mirror_of(text: str) -> pathlib.Path | str | None:
    """DATA_MIRROR as a folder, a URL, or None. Raises UsageError if the folder does not exist."""
    text = text.removeprefix("file://")
    if not text or "://" in text:
        return text or None
    mirror = pathlib.Path(text).absolute()
    if not mirror.is_dir():
        raise UsageError(f"DATA_MIRROR: no folder {mirror}")
    return mirror
