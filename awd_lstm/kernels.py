"""Builds, loads and calls the CPU kernels of kernels.cpp (float32 and float64).

They are compiled on first use with the system's compiler, for the CPU at hand, and kept in a cache
folder: no build step and no torch headers. Without a compiler everything still works, more slowly,
on torch's own operations; one warning says so.

    AWD_LSTM_KERNELS=0        do not use the kernels
    AWD_LSTM_CACHE=<folder>   where the library is kept (default: awd_lstm in $XDG_CACHE_HOME or
                              ~/.cache)
    CXX=<command>             the compiler (default: the first of c++, g++, clang++)
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch

SOURCES = [Path(__file__).with_name(name) for name in ("kernels.cpp", "kernels_simd.h",
                                                     "kernels_random.h")]
# Of -ffast-math only what leaves results alone (no errno, no floating-point traps): NaN must pass
# through, and sums must keep their order.
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-fopenmp", "-shared", "-fPIC"]
SUFFIX = {torch.float32: "f32", torch.float64: "f64"}

# The arguments of each operation, before the number of threads: n a size, d a number, p an array
# (a tensor or None).
SIGNATURES = {
    "forget_mult_forward": "nn pppp",
    "forget_mult_backward": "nn ppppp ppp",
    "qrnn_forward": "nnnn ppd ppp",
    "qrnn_backward": "nnnn ppd pppp pp",
    "lstm_forward": "nnn ppp pppp n",
    "lstm_backward": "nnn ppp pp ppp p",
}
_TYPES = {"n": ctypes.c_long, "d": ctypes.c_double, "p": ctypes.c_void_p}


class BuildError(RuntimeError):
    """No usable compiler, or the compiler refused."""


def available(*tensors):
    """Whether the kernels can work on these tensors: on the CPU, of one type that they know, and
    with a library that loads."""
    first = tensors[0]
    if first.dtype not in SUFFIX or os.environ.get("AWD_LSTM_KERNELS", "1") == "0":
        return False
    same = all(t.device.type == "cpu" and t.dtype == first.dtype for t in tensors)
    return same and library() is not None


def call(operation, *args):
    """Run an operation of SIGNATURES; arrays are contiguous CPU tensors of one type, or None."""
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    for t in tensors:
        assert t.device.type == "cpu"
        assert t.dtype == tensors[0].dtype
        assert t.is_contiguous()
    values = [a.data_ptr() if isinstance(a, torch.Tensor) else a for a in args]
    function = getattr(library(), f"{operation}_{SUFFIX[tensors[0].dtype]}")
    function(*values, torch.get_num_threads())


@functools.cache
def library():
    """The loaded library, or None (with one warning) where it cannot be built."""
    try:
        loaded = _load(_compiler())
    except (BuildError, OSError, subprocess.SubprocessError) as error:
        warnings.warn(
            f"awd_lstm: no compiled CPU kernels ({error}). On a CPU, QRNN recurrences will take "
            "2 to 3 times as long; LSTM layers use torch's own code, which is about as fast. To "
            "get the kernels, set CXX to a C++17 compiler with OpenMP.",
            stacklevel=2,
        )
        return None
    for operation, letters in SIGNATURES.items():
        for suffix in SUFFIX.values():
            function = getattr(loaded, f"{operation}_{suffix}")
            function.restype = None
            function.argtypes = [_TYPES[c] for c in letters.replace(" ", "") + "n"]
    loaded.draw_mask_f32.restype = None
    loaded.draw_mask_f32.argtypes = [_TYPES[c] for c in "nddpp"]
    return loaded


def lanes(dtype):
    """Elements in one vector register; packed matrices are padded to a multiple of it."""
    return getattr(library(), f"lanes_{SUFFIX[dtype]}")()


def _compiler():
    """The compiler's command as a list."""
    commands = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for command in map(shlex.split, commands):
        if shutil.which(command[0]):
            return command
    raise BuildError(f"no C++ compiler: tried {', '.join(commands)}")


def _load(compiler):
    """Load the library from the cache folder, building it there first; or in a temporary folder,
    where the cache cannot be written."""
    name = f"kernels-{_key(compiler)}.so"
    folder = _cache_folder()
    try:
        if (folder / name).exists():
            return ctypes.CDLL(str(folder / name))
    except OSError:
        pass  # a damaged file: build it again
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _build(compiler, folder, name, keep=True)
    except OSError:  # the folder cannot be written
        return _build(compiler, None, name, keep=False)


def _build(compiler, folder, name, keep):
    """Compile in a new folder inside `folder`, then move the result into place in one step, because
    several processes may be doing the same. A loaded library stays usable without its file."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        built = Path(scratch) / name
        command = [*compiler, *FLAGS, str(SOURCES[0]), "-o", str(built)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if result.returncode or not built.exists():
            errors = [line for line in result.stderr.splitlines() if "error" in line.lower()]
            reason = errors[0].strip() if errors else f"exit status {result.returncode}"
            raise BuildError(f"'{' '.join(compiler)}' failed: {reason}")
        if keep:
            os.replace(built, folder / name)
            built = folder / name
        return ctypes.CDLL(str(built))


def _cache_folder():
    if os.environ.get("AWD_LSTM_CACHE"):
        return Path(os.environ["AWD_LSTM_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "awd_lstm"


def _key(compiler):
    """A hash of all that the library depends on; machines with different CPUs may share a home."""
    command = [*compiler, "--version"]
    version = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    parts = [*(source.read_text() for source in SOURCES), *compiler, *FLAGS, version, _cpu()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        known = ("model name", "flags", "Features", "CPU part")
        return "\n".join(line for line in lines if line.startswith(known))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
