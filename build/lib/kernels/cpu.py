"""What the CPU at hand is good at: the facts that the choice of a library depends on.

They are the CPU's vendor and instructions, never a measurement: the same machine always computes
the same bits.
"""

import functools
from pathlib import Path

import torch


@functools.cache
def vendor() -> str:
    """"AuthenticAMD", "GenuineIntel", or what else the CPU calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    name = str(torch.cpu.get_capabilities().get("cpu_name", ""))
    return {"AMD": "AuthenticAMD", "Int": "GenuineIntel"}.get(name[:3], name)


@functools.cache
def has(*instructions: str) -> bool:
    """Whether it has any of these, by torch's names: "avx512_f", "avx512_bf16", "amx_bf16" ..."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in instructions)


def bf16_pays() -> bool:
    """Whether its instructions multiply bfloat16 numbers faster than float32 ones. Elsewhere
    PyTorch's products take many times as long in bfloat16."""
    return has("avx512_bf16", "amx_bf16")


def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies large float32 matrices faster than MKL.

    On AMD's CPUs MKL goes no further than AVX2. Where they have AVX-512 oneDNN takes half the time
    (GFLOP/s of one thread: 225 against 106); where they have not it takes 1.0 to 1.3 times as long
    (Zen 3: 82 against 90). On Intel's own, MKL is at home.
    """
    return vendor() == "AuthenticAMD" and has("avx512_f")
