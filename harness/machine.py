"""What a run computes on: device and processes, random states, memory, sums over processes."""

import math
import os
import random
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from harness import processes
from harness.endings import BadInput
from harness.memory import keep_freed_memory, keep_freed_memory_later
from harness.notices import notice


# ------------------------------------------------------------------------ devices, processes
def make_fabric(args: Namespace, trains: bool = False, **ddp) -> Fabric:
    """Device, precision and processes as the flags of harness.flags say; launches the processes and
    seeds them alike. trains: are there going to be updates? `ddp` are arguments of
    DistributedDataParallel. Raises BadInput."""
    kind = device_of(args)
    # torchrun says how many processes there are on this machine, whatever --devices says.
    local = int(os.environ.get("LOCAL_WORLD_SIZE", getattr(args, "devices", 1)))
    nodes = int(os.environ.get("WORLD_SIZE", local)) // local
    if kind in ("auto", "cuda") and local > torch.cuda.device_count() > 0:
        raise BadInput(f"--devices {local}: this machine has {torch.cuda.device_count()} GPU"
                       f"{'s' * (torch.cuda.device_count() > 1)}")
    if local * nodes > 1:
        processes.end_in_order()
    fabric = Fabric(accelerator=kind, devices=local, num_nodes=nodes, precision=args.precision,
                    strategy=DDPStrategy(**ddp) if local * nodes > 1 else "auto")
    fabric.launch()
    if fabric.device.type == "cpu":
        (keep_freed_memory_later if trains else keep_freed_memory)()
        torch.set_flush_denormal(True)  # products of gates underflow; a denormal costs 100 cycles
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if args.precision == "64":  # else Fabric rounds what a module returns to single precision
        torch.set_default_dtype(torch.float64)
    seed_everything(getattr(args, "seed", 0))
    return fabric


def make_fabric_of_tool(args: Namespace) -> Fabric:
    """make_fabric for a program without a Keeper, which uses a model; what is to be said of the
    flags goes to stderr."""
    slow = set_aside_slow_flags(args)
    fabric = make_fabric(args)
    for line in (*slow.values(), set_tf32(fabric, args)):
        if line:
            notice(line)
    return fabric


def device_of(args: Namespace) -> str:
    """auto, cpu, cuda or mps, as --device and --cuda say. Raises BadInput where there is none."""
    cuda = getattr(args, "cuda", None)
    kind = args.device if cuda is None else "cuda" if cuda else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"{'--cuda' if cuda else '--device cuda'}: PyTorch finds no CUDA device "
                       "here; use --device cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise BadInput("--device mps: PyTorch finds no Apple GPU here; use --device cpu")
    return kind


def set_tf32(fabric: Fabric, args: Namespace) -> str:
    """--tf32: float32 products of a GPU on its tensor cores, their factors rounded to 10 bits; with
    --no-tf32 in full. Returns what to say about it: nothing where there is no such thing."""
    if fabric.device.type != "cuda" or not hasattr(args, "tf32"):
        return ""
    wanted = args.tf32 is not False
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    torch.backends.cudnn.allow_tf32 = wanted
    if torch.cuda.get_device_capability(fabric.device)[0] < 8:
        return ""
    return ("TF32: matrix products round float32 to 10 bits of mantissa (--no-tf32: they do not)"
            if wanted else "")


def rounding(fabric: Fabric) -> dict[str, bool]:
    """Is TF32 in use? For the record of a run on a GPU."""
    if fabric.device.type != "cuda":
        return {}
    return {"tf32": torch.get_float32_matmul_precision() == "high"}


def set_aside_slow_flags(args: Namespace) -> dict[str, str]:
    """Takes back, in `args`, what only makes a run slower on this CPU: bfloat16 without bfloat16
    instructions, and --compile where flags.add_compile says so. Returns what to say, by argument.
    """
    kind, said = device_of(args), dict[str, str]()
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if kind not in ("cpu", "auto") or (kind == "auto" and gpu):
        return said
    if args.precision == "bf16-mixed" and not bf16_pays():
        args.precision = "32"
        said["precision"] = ("--precision bf16-mixed: this CPU has no bfloat16 instructions and is "
                             "faster in float32, which is used")
    slower = getattr(args, "slower_on_cpu", ())
    if "compile" in slower and args.compile is True:
        args.compile = False
        said["compile"] = ("--compile: ignored, since on a CPU it only loses time (--compile force "
                           "compiles all the same)")
    return said


def bf16_pays() -> bool:
    """Whether the CPU multiplies bfloat16 numbers faster than float32 ones. True of CPUs that are
    not x86, of which it is not known."""
    has = torch.cpu.get_capabilities()
    return (has.get("architecture") != "x86_64" or has.get("avx512_bf16", False)
            or has.get("amx_bf16", False))


def share(fabric: Fabric, count: int) -> slice:
    """Which of `count` columns or samples this process has: as even as can be, in order."""
    rank, world = fabric.global_rank, fabric.world_size
    return slice(count * rank // world, count * (rank + 1) // world)


# ------------------------------------------------------------------------------ random states
def seed_everything(seed: int) -> None:
    """Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def own_stream(fabric: Fabric, seed: int) -> None:
    """From here on each process draws its own numbers (dropout masks); the first goes on as it was.
    Call it when the model is built, which must start alike everywhere."""
    if fabric.global_rank:
        torch.manual_seed(seed + fabric.global_rank)


def generator_state(generator: np.random.RandomState) -> list:
    """The state of numpy's generator, as tensors and plain values."""
    kind, keys, *rest = generator.get_state(legacy=True)
    return [kind, torch.from_numpy(keys.astype(np.int64)), *rest]


def set_generator_state(generator: np.random.RandomState, state: list) -> None:
    kind, keys, *rest = state
    # What a process has for itself comes back on its device.
    generator.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))


def random_states(fabric: Fabric) -> dict:
    """Those of Python, numpy's global generator, torch and the run's GPU."""
    version, words, gauss = random.getstate()
    cuda = torch.cuda.get_rng_state() if fabric.device.type == "cuda" else None
    return {"python": [version, list(words), gauss], "torch": torch.get_rng_state(), "cuda": cuda,
            "numpy": generator_state(np.random.mtrand._rand)}


def set_random_states(states: dict, fabric: Fabric) -> None:
    """Goes back to where random_states was called. Streams that `states` lacks stay as they are."""
    if "python" in states:
        version, words, gauss = states["python"]
        random.setstate((version, tuple(words), gauss))
    if "numpy" in states:
        set_generator_state(np.random.mtrand._rand, states["numpy"])
    torch.set_rng_state(states["torch"])
    if fabric.device.type == "cuda" and states.get("cuda") is not None:
        torch.cuda.set_rng_state(states["cuda"])


# -------------------------------------------------------------------- over all processes
def to_device(value, device: torch.device | str):
    """The same value with every tensor in it (lists, tuples, dictionaries) on that device."""
    if isinstance(value, Tensor):
        return value.detach().to(device)
    if isinstance(value, dict):
        return {key: to_device(each, device) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(each, device) for each in value)
    return value


def gather(fabric: Fabric, value) -> list:
    """Every process's value, in order of rank, tensors on the CPU: sent as they are, each process
    would open a context on every other's GPU."""
    value = to_device(value, "cpu")
    if fabric.world_size == 1:
        return [value]
    found: list = [None] * fabric.world_size
    dist.all_gather_object(found, value)
    return found


@contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """Raises BadInput in all processes alike, if one of them did in the block."""
    problem = None
    try:
        yield
    except BadInput as error:
        problem = error
    for text in gather(fabric, str(problem or "")):
        if text:
            raise BadInput(text) from problem


def weighted(value: Tensor, weight: float) -> Tensor:
    """value * weight, without an operation where that is the value itself."""
    return value if weight == 1 else value * weight


def mean(fabric: Fabric, value: Tensor) -> float:
    """Mean over the processes."""
    if fabric.world_size == 1:
        return value.item()
    averaged = fabric.all_reduce(value.detach(), reduce_op="mean")
    assert isinstance(averaged, Tensor)
    return averaged.item()


def total(fabric: Fabric, *values: float) -> list[float]:
    """Sums over the processes, in double precision where the device has it."""
    if fabric.world_size == 1:
        return list(values)
    dtype = torch.float32 if fabric.device.type == "mps" else torch.float64
    sums = torch.tensor(values, dtype=dtype, device=fabric.device)
    return fabric.all_reduce(sums, reduce_op="sum").tolist()


def greatest(fabric: Fabric, value: int) -> int:
    """The largest of the processes' numbers."""
    if fabric.world_size == 1:
        return value
    found = torch.tensor(value, device=fabric.device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found.item())


# -------------------------------------------------------------------- optimisers, gradients
def fused(kind: Callable, fabric: Fabric, params, **options) -> torch.optim.Optimizer:
    """An optimiser of torch.optim, on a GPU the one that is a single pass over all weights, where
    there is one. Raises what the optimiser raises."""
    if fabric.device.type == "cuda":
        params = list(params)
        with suppress(TypeError, RuntimeError):
            return kind(params, **options, fused=True)
    return kind(params, **options)


def scaler_of(fabric: Fabric):
    """The gradient scaler of --precision 16-mixed, else None."""
    return getattr(fabric.strategy.precision, "scaler", None)


def gradient_norm(fabric: Fabric, module: nn.Module, loss: Tensor | float, where: str) -> Tensor:
    """The norm of all gradients of `module`, looked at before they are clipped, which would spread
    a nan. Raises FloatingPointError if it or the loss is not finite, naming the first such
    parameter; `where` says at which update.

    With 16-mixed only the loss is looked at: its gradients are scaled up until they overflow, and
    the scaler leaves such updates out.
    """
    loss = loss.detach() if isinstance(loss, Tensor) else torch.tensor(float(loss))
    norm = torch.zeros_like(loss)
    if scaler_of(fabric) is None:
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in module.parameters() if p.grad is not None])
    if not torch.isfinite(norm + loss.to(norm.device)):
        spoilt = ((name, math.inf) for name, p in module.named_parameters()
                  if p.grad is not None and not p.grad.isfinite().all())
        refuse_not_finite(loss.item(), norm.item(), spoilt, where)
    return norm


def refuse_not_finite(loss: float, norm: float, norms: Iterable[tuple[str, float]], where: str
                      ) -> None:
    """Raises FloatingPointError if the loss or the norm of all gradients is not finite. norms: of
    each parameter's gradient, by its name."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    if not math.isfinite(loss):
        what = "the loss"
    else:
        name = next((name for name, norm in norms if not math.isfinite(norm)), None)
        what = "the norm of the gradient" if name is None else f"the gradient of {name}"
    raise FloatingPointError(f"{what} is not finite at {where}; stopped before the update. Files "
                             "written so far are good; a smaller --lr or --clip may help")
