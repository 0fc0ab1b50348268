"""Compiles the C++ files of cpp/ into one library, keeps it in a cache folder, and loads it.

They are compiled on first use with the system's compiler, for the CPU at hand: no build step at
installation, and no torch headers. What is loaded is run, so a library is taken from the cache only
if it is whole and no other user could have put it there.

    KERNELS_CACHE=<folder>   where the library is kept (default: sequence-papers in
                             $XDG_CACHE_HOME or ~/.cache)
    CXX=<command>            the compiler (default: the first of c++, g++, clang++)
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from pathlib import Path

FOLDER = Path(__file__).with_name("cpp")
# Of -ffast-math only what leaves results alone (no errno, no floating-point traps): NaN must pass
# through, and sums must keep their order.
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-fopenmp", "-shared", "-fPIC"]


class BuildError(RuntimeError):
    """No usable compiler, or the compiler refused."""


def load() -> ctypes.CDLL:
    """The library, from the cache folder or compiled now (some seconds).

    Where the cache cannot be used, one warning says why and the library is compiled in a temporary
    folder. Raises BuildError, OSError or subprocess.SubprocessError if there is no library to have.
    """
    compiler = _compiler()
    stem = f"kernels-{_key(compiler)}"
    try:
        folder = _cache_folder()
        path = _kept(folder, stem) or _keep(folder, stem, compiler)
    except OSError as error:
        warnings.warn(
            f"kernels: no cache ({error}), so the CPU kernels are compiled at each start. "
            "KERNELS_CACHE=<folder> names another place.",
            stacklevel=2,
        )
        with tempfile.TemporaryDirectory() as scratch:
            # A loaded library stays usable without its file.
            return ctypes.CDLL(str(_compile(compiler, Path(scratch) / f"{stem}.so")))
    return ctypes.CDLL(str(path))


# -------------------------------------------------------------------------------- the cache folder
def _cache_folder() -> Path:
    """The cache folder, made if need be, readable by this user alone. OSError if others may write
    to it: they could leave a library of theirs under the right name."""
    if os.environ.get("KERNELS_CACHE"):
        folder = Path(os.environ["KERNELS_CACHE"])
    else:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = Path(home) / "sequence-papers"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_if_others_can_write(folder)
    return folder


def _refuse_if_others_can_write(path: Path) -> None:
    if not hasattr(os, "geteuid"):
        return  # Windows: no owner or mode bits to judge by
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"other users may write to {path}; chmod go-w makes it yours alone")


def _kept(folder: Path, stem: str) -> Path | None:
    """The library if the folder holds a whole one, else None."""
    for path in sorted(folder.glob(f"{stem}-*.so")):
        _refuse_if_others_can_write(path)
        if path.name == _name(stem, path):
            return path
    return None


def _keep(folder: Path, stem: str, compiler: list[str]) -> Path:
    """Compile in a new folder inside the cache, then move the result into place in one step, since
    several processes may be doing the same."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        built = _compile(compiler, Path(scratch) / f"{stem}.so")
        built.chmod(0o700)  # the linker goes by the umask, which may let the group write
        path = folder / _name(stem, built)
        os.replace(built, path)
    return path


def _name(stem: str, library: Path) -> str:
    """The file name under which this content is kept. It ends with the content's size and SHA-256:
    a half-written, damaged or foreign file does not bear its own name and is never loaded."""
    content = library.read_bytes()
    return f"{stem}-{len(content)}-{hashlib.sha256(content).hexdigest()}.so"


def _key(compiler: list[str]) -> str:
    """A hash of all that the library depends on; machines with different CPUs may share a home."""
    command = [*compiler, "--version"]
    version = subprocess.run(command, capture_output=True, timeout=60).stdout
    files = [path for suffix in ("*.cpp", "*.h") for path in sorted(FOLDER.glob(suffix))]
    settings = [*compiler, *FLAGS, *platform.libc_ver(), _cpu()]
    parts = [*(path.read_bytes() for path in files), version, *(s.encode() for s in settings)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        known = ("model name", "flags", "Features", "CPU part")
        return "\n".join(line for line in lines if line.startswith(known))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"


# -------------------------------------------------------------------------------------- compiling
def _compiler() -> list[str]:
    """The compiler's command, split into words."""
    named = os.environ.get("CXX", "")
    try:
        commands = [shlex.split(named)] if named.strip() else [["c++"], ["g++"], ["clang++"]]
    except ValueError as error:
        raise BuildError(f"CXX={named!r} is not a command line: {error}") from None
    for command in commands:
        if shutil.which(command[0]):
            return command
    raise BuildError(f"no C++ compiler: tried {', '.join(map(shlex.join, commands))}")


def _compile(compiler: list[str], library: Path) -> Path:
    sources = map(str, sorted(FOLDER.glob("*.cpp")))
    command = [*compiler, *FLAGS, *sources, "-o", str(library)]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600)
    if result.returncode or not library.exists():
        errors = [line for line in result.stderr.splitlines() if "error" in line.lower()]
        reason = errors[0].strip() if errors else f"exit status {result.returncode}"
        raise BuildError(f"'{shlex.join(compiler)}' failed: {reason}")
    return library
