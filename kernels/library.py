"""The compiled CPU kernels: what the library of build.py holds and how to call it.

Without a compiler everything still works, more slowly, on torch's own operations; one warning says
so. KERNELS=0 in the environment switches the kernels off.
"""

import ctypes
import functools
import os
import subprocess
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from kernels import build

SUFFIX = {torch.float32: "f32", torch.float64: "f64"}

# Operation -> its arguments and the types of SUFFIX that it exists for. n is a size or a number of
# threads (a C long), d a double, p an array (a tensor or None); "-> n" returns a size.
SIGNATURES = {
    "forget_mult_forward": ("nn pppp n", ("f32", "f64")),
    "forget_mult_backward": ("nn ppppp ppp n", ("f32", "f64")),
    "qrnn_forward": ("nnnn ppd ppp n", ("f32", "f64")),
    "qrnn_backward": ("nnnn ppd pppp pp n", ("f32", "f64")),
    "lstm_room": ("nn -> n", ("f32", "f64")),
    "lstm_forward": ("nnn ppp pppp n n", ("f32", "f64")),
    "lstm_backward": ("nnn ppp pp ppp p n", ("f32", "f64")),
    "lstm_bf16_room": ("nn -> n", ("f32",)),
    "lstm_bf16_forward": ("nnn ppp pppp n n", ("f32",)),
    "lstm_bf16_backward": ("nnn ppp pp ppp p n", ("f32",)),
    "has_bf16_instructions": ("-> n", ("f32",)),
    "gates_forward": ("nnn ppp pp n", ("f32", "f64")),
    "gates_backward": ("nnnn pppp pp ppp n", ("f32", "f64")),
    "narrow_gates_forward": ("nnnn pp p pp n", ("f32", "f64")),
    "narrow_gates_backward": ("nnnn pp p pp p n", ("f32", "f64")),
    "narrow_gates_parts": ("n -> n", ("f32", "f64")),
    "draw_mask": ("n dd pp", ("f32",)),
    "rms_norm_forward": ("nnd n pp ppp n", ("f32",)),
    "rms_norm_backward": ("nnd n ppp ppp n", ("f32",)),
    "add_bf16": ("n ppp n", ("f32",)),
    "gated_grid_forward": ("nnnn ppp p n", ("f32", "f64")),
    "gated_grid_backward": ("nnnn ppp pppp n", ("f32", "f64")),
    "silu_product_forward": ("nn ppp n", ("f32", "f64")),
    "silu_product_backward": ("nn ppppp n", ("f32", "f64")),
    "gated_step": ("nnnd pppppp pp ppp nnnn n", ("f32",)),
}
_TYPES = {"n": ctypes.c_long, "d": ctypes.c_double, "p": ctypes.c_void_p}


def exporting() -> bool:
    """Whether a graph is recorded that another program will run: torch.export, torch.onnx.export
    or torch.jit.trace. It must hold torch's own operations alone, so the plain forms are used."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def available(*tensors: Tensor) -> bool:
    """Whether the kernels can work on these tensors: on the CPU, of one type that they know, with
    a library that loads, and not while exporting."""
    first = tensors[0]
    if first.dtype not in SUFFIX or os.environ.get("KERNELS", "1") == "0" or exporting():
        return False
    same = all(t.device.type == "cpu" and t.dtype == first.dtype for t in tensors)
    return same and loaded() is not None


def available_to_compiler(first: Tensor) -> bool:
    """`available`, in a form that torch.compile traces."""
    return first.device.type == "cpu" and first.dtype in SUFFIX and _ready()


def _ready() -> bool:
    return os.environ.get("KERNELS", "1") != "0" and loaded() is not None


# What torch.compiler.assume_constant_result does, which would import half of torch for it: the
# function is called once while tracing.
_ready._dynamo_marked_constant = True  # type: ignore[attr-defined]


def has_bf16_instructions() -> bool:
    """Whether the library multiplies bfloat16 numbers with AVX-512 BF16. Elsewhere it can, by
    shifting bits, but gains nothing."""
    found = available(torch.empty(0)) and function("has_bf16_instructions", torch.float32)()
    return bool(found)


def call(operation: str, *args) -> None:
    """Run an operation on torch's number of threads, which is its last argument; arrays are
    contiguous CPU tensors of one type, or None."""
    tensors = [a for a in args if isinstance(a, Tensor)]
    for t in tensors:
        assert t.device.type == "cpu"
        assert t.dtype == tensors[0].dtype
        assert t.is_contiguous()
    values = [a.data_ptr() if isinstance(a, Tensor) else a for a in args]
    function(operation, tensors[0].dtype)(*values, torch.get_num_threads())


def function(operation: str, dtype: torch.dtype):
    """The C function itself, for arrays of dtype."""
    return getattr(loaded(), f"{operation}_{SUFFIX[dtype]}")


@functools.cache
def loaded() -> ctypes.CDLL | None:
    """The loaded library, or None (with one warning) where it cannot be built."""
    try:
        found = build.load()
    except (build.BuildError, OSError, subprocess.SubprocessError) as error:
        warnings.warn(
            f"kernels: no compiled CPU kernels ({error}). On a CPU, QRNN recurrences will take 2 "
            "to 3 times as long and dropout masks 10 times; LSTM layers use torch's own code, "
            "about as fast. To get the kernels, set CXX to a C++17 compiler with OpenMP.",
            stacklevel=2,
        )
        return None
    return declared(found, SIGNATURES)


def declared(found: ctypes.CDLL, operations: Iterable[str]) -> ctypes.CDLL:
    """`found`, with the types of these operations set."""
    for operation in operations:
        signature, suffixes = SIGNATURES[operation]
        arguments, _, result = signature.replace(" ", "").partition("->")
        for suffix in suffixes:
            entry = getattr(found, f"{operation}_{suffix}")
            entry.restype = _TYPES[result] if result else None
            entry.argtypes = [_TYPES[letter] for letter in arguments]
    return found
