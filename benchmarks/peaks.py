"""What a benchmark says of its machine: CPU, instructions, load, and the GFLOP/s of large products
by each library. A share of "the peak" is of the best one in that arithmetic.

    python benchmarks/peaks.py [--threads 1 2]
"""

import argparse
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn

from kernels import cpu
from kernels.product import Linear, packed_weight, product_with_packed

SIZE = 1536
TOLD = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16")


def peaks(device: torch.device | str = "cpu", rounds: int = 4) -> dict[str, float]:
    """{"MKL float32": FLOP/s, ...}: the best of some rounds, the libraries in turn. bfloat16 only
    where there are instructions for it."""
    a = torch.randn(SIZE, SIZE, device=device)
    b = a.bfloat16()
    if torch.device(device).type != "cpu":
        jobs = {"float32": lambda: a @ a, "bfloat16": lambda: b @ b}
    else:
        multiply = torch.ops.mkldnn._linear_pointwise
        jobs = {"MKL float32": lambda: a @ a,
                "oneDNN float32": lambda: multiply(a, a.t(), None, "none", [], "")}
        if cpu.bf16_pays():
            packed = packed_weight(b, SIZE)
            jobs["oneDNN bfloat16"] = ((lambda: b @ b) if packed is None else
                                       (lambda: product_with_packed(b, packed)))
    best = dict.fromkeys(jobs, float("inf"))
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()[0, 0].item()
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: 2 * SIZE**3 / seconds for name, seconds in best.items()}


def best(found: dict[str, float], arithmetic: str = "float32") -> float:
    """FLOP/s of the best library in this arithmetic."""
    return max((rate for name, rate in found.items() if name.endswith(arithmetic)), default=0.0)


def describe(device: torch.device | str = "cpu", measure: bool = True) -> dict[str, float]:
    """Prints the machine and, with `measure`, its peaks; returns them."""
    if torch.device(device).type == "cpu":
        name = torch.cpu.get_capabilities().get("cpu_name", "unknown")
        flags = [flag for flag in TOLD if cpu.has(flag)]
        chosen = "oneDNN" if cpu.onednn_is_faster() else "MKL"
        what = f"{cpu.vendor()} {name} ({', '.join(flags)}), {torch.get_num_threads()} threads"
        more = f"large float32 products by {chosen}, load {os.getloadavg()[0]:.1f}"
    else:
        what, more = torch.cuda.get_device_name(device), "float32 as " + (
            torch.get_float32_matmul_precision())
    print(f"torch {torch.__version__}, {what}, {more}")
    found = peaks(device) if measure else {}
    if found:
        print("products: " + ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s"
                                       for name, rate in found.items()), flush=True)
    return found


def take_turns(steppers: dict[str, Any], rounds: int, threads: int) -> dict[str, float]:
    """Median seconds of each one's step(). They take turns; a first round, which compiles and
    allocates, does not count. With one thread it is processor time."""
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for round_ in range(rounds + 1):
        for name, stepper in steppers.items():
            start = clock()
            stepper.step()
            if round_:
                seconds[name].append(clock() - start)
    return {name: sorted(found)[len(found) // 2] for name, found in seconds.items()}


def memory_alone(steps: Callable[..., None], *given) -> float:
    """The MiB that a process of its own needs at most for steps(*given). To be called while this
    process is small: a child's count begins with its parent's."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_memory,
                                                           args=(there, steps, *given))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"the process that measures the memory of {given} failed")
    return here.recv()


def _memory(answer, steps, *given) -> None:
    steps(*given)
    answer.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def by_faster_library(module: nn.Module) -> nn.Module:
    """The same module, its linear layers by kernels.product.linear: a peer that makes use of the
    faster library too."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = Linear
    return module


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    for threads in p.parse_args().threads:
        torch.set_num_threads(threads)
        describe()


if __name__ == "__main__":
    main()
