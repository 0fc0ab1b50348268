"""Compiles the Triton kernels for a GPU that need not be there: prints, as JSON, per kernel the
bytes of local memory (spills) and the barriers in its code. Argument: compute capability, 90."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels import forget_mult_triton as forget
from kernels import gates_triton as gates
from kernels import rms_norm_triton as norm

F32, BF16, I32, F64 = "*fp32", "*bf16", "i32", "*fp64"
GATES = {"num_warps": gates.WARPS}, {"BLOCK": gates.BLOCK}
FORGET = {"num_warps": forget.WARPS}, {"BLOCK": forget.BLOCK}
NORM, TILE = [I32, I32, "fp32"], {"ROWS": 2, "BLOCK": 1024, "SUM": tl.float32}
KERNELS = {
    "gates forward": (gates._forward_kernel, [F32] * 8 + [I32] * 3, *GATES,
                      {"HAS_MASK": True, "HAS_PART": True, "HAS_MORE": False}),
    "gates forward, bf16": (gates._forward_kernel, [BF16, F32, BF16, *[F32] * 4, BF16, *[I32] * 3],
                            *GATES, {"HAS_MASK": True, "HAS_PART": True, "HAS_MORE": True}),
    "gates backward": (gates._backward_kernel, [F32] * 10 + [I32] * 5, *GATES,
                       {"HAS_MASK": True, "OF_MASKED": True, "HAS_TOTAL": True, "FILLS": True}),
    "gates backward, bf16": (gates._backward_kernel, [*[F32] * 6, BF16, F32, F32, BF16,
                                                      *[I32] * 5], *GATES,
                             {"HAS_MASK": True, "OF_MASKED": True, "HAS_TOTAL": True,
                              "FILLS": True}),
    "norm forward": (norm._forward_kernel, [F32] * 3 + NORM, {"num_warps": 4}, TILE),
    "norm forward, bf16": (norm._forward_kernel, [BF16, BF16, F32, *NORM], {"num_warps": 4}, TILE),
    "norm backward": (norm._backward_kernel, [F32] * 4 + NORM, {"num_warps": 4}, TILE),
    "norm backward, widest": (norm._backward_kernel, [F32] * 4 + NORM, {"num_warps": 16},
                              {"ROWS": 1, "BLOCK": 8192, "SUM": tl.float32}),
    "forget-mult forward": (forget._forward_kernel, [F32] * 4 + [I32] * 2, *FORGET,
                            {"HAS_C0": True, "SUM": tl.float32}),
    "forget-mult backward": (forget._backward_kernel, [F32] * 8 + [I32] * 2, *FORGET,
                             {"HAS_C0": True, "SUM": tl.float32}),
    "forget-mult backward, 64": (forget._backward_kernel, [F64] * 8 + [I32] * 2, *FORGET,
                                 {"HAS_C0": True, "SUM": tl.float64}),
}


def compiled(kernel, types, options, *constants, capability: int) -> dict:
    fixed = {name: value for each in constants for name, value in each.items()}
    free = [name for name in kernel.arg_names if name not in fixed]
    signature = dict(zip(free, types, strict=True)) | dict.fromkeys(fixed, "constexpr")
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(n),): v
                                           for n, v in fixed.items()})
    made = triton.compile(source, GPUTarget("cuda", capability, 32), options)
    return {"local": local_memory(made.asm["cubin"]),
            "barriers": len(re.findall(r"\bbar(?:rier)?\.", made.asm["ptx"]))}


def local_memory(cubin: bytes) -> int:
    """Bytes of a thread's stack and local memory, which spilt registers go to."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([str(tool), "-res-usage", file.name], capture_output=True, text=True,
                              check=True).stdout
    found = re.findall(r"(?:STACK|LOCAL):(\d+)", said)
    assert found, said
    return sum(map(int, found))


if __name__ == "__main__":
    print(json.dumps({name: compiled(*parts, capability=int(sys.argv[1]))
                      for name, parts in KERNELS.items()}))
