"""torch.cuda as it is with one GPU, for the pretended device; and Triton's kernels on it."""

import contextlib
import ctypes
import os

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from tests.cuda_pretended import device, graphs, recurrent
from tests.cuda_pretended.device import CUDA, Mode, PretendedTensor, Stream
from tests.cuda_pretended.ledger import LEDGER

MODES = []


class Properties:
    name, total_memory, major, minor = "Pretended H200", 141 << 30, 9, 0
    multi_processor_count = 132


class CudaStream:
    def __init__(self, *args, **kwargs):
        self.device = CUDA

    def synchronize(self):
        LEDGER.sync("stream.synchronize")

    def record_event(self, *args):
        return self

    def wait_stream(self, stream):
        pass

    wait_event = wait_stream

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


def install() -> None:
    """From here on, in this process, there is a CUDA device. PRETEND_LIB is the built stub.c, which
    must be preloaded; PRETEND_DEVICES how many devices there are (1)."""
    # While PyTorch sees no device it takes a guard that does nothing.
    torch._C._ensureCUDADeviceGuardSet()
    ctypes.CDLL(os.environ["PRETEND_LIB"]).pretend_devices(127)
    pretend_queries()
    pretend_random_numbers()
    pretend_streams()
    pretend_tensors()
    recurrent.install()
    graphs.install()
    pretend_triton()
    register_optimizer_step_post_hook(lambda *args: LEDGER.end_of_update())
    import lightning_fabric.accelerators.cuda as fabric
    fabric._check_cuda_matmul_precision = lambda device: None
    mode = Mode()
    mode.__enter__()
    MODES.append(mode)


def pretend_queries() -> None:
    cuda = torch.cuda
    devices = int(os.environ.get("PRETEND_DEVICES", "1"))
    answers = {
        "is_available": True, "is_initialized": True, "device_count": devices,
        "_device_count_nvml": devices, "current_device": 0, "get_device_capability": (9, 0),
        "get_device_name": Properties.name, "get_device_properties": Properties,
        "is_bf16_supported": True, "_is_in_bad_fork": False, "_lazy_init": None, "set_device": None,
        "empty_cache": None, "reset_peak_memory_stats": None}
    for name, answer in answers.items():
        setattr(cuda, name, lambda *args, answer=answer, **kwargs: answer)
    for name in ("max_memory_allocated", "memory_allocated", "memory_reserved",
                 "max_memory_reserved"):
        setattr(cuda, name, lambda *args: 0)
    cuda.synchronize = lambda *args: LEDGER.sync("cuda.synchronize")
    cuda.device_of = lambda tensor: contextlib.nullcontext()
    cuda.nvtx = None


def pretend_random_numbers() -> None:
    for module in (torch.cuda, torch.cuda.random):
        module.get_rng_state = lambda *args, **kwargs: Stream.get()
        module.set_rng_state = lambda state, *args, **kwargs: Stream.set(state)
        module.get_rng_state_all = lambda: [Stream.get()]
        module.set_rng_state_all = lambda states: Stream.set(states[0])
        module.manual_seed = module.manual_seed_all = Stream.seed


def pretend_streams() -> None:
    torch.cuda.Stream = CudaStream
    torch.cuda.current_stream = lambda *args: CudaStream()
    torch.cuda.stream = lambda stream: stream
    torch.Tensor.record_stream = lambda self, stream: None


def pretend_tensors() -> None:
    torch.Tensor.pin_memory = lambda self, *args: self
    torch.Tensor.cuda = lambda self, device=None, non_blocking=False, memory_format=None: self.to(
        CUDA, non_blocking=non_blocking)
    of_cpu = torch.Tensor.new_tensor

    def new_tensor(self, *args, **kwargs):
        if isinstance(self, PretendedTensor):
            return PretendedTensor.new_tensor(self, *args, **kwargs)
        return of_cpu(self, *args, **kwargs)
    torch.Tensor.new_tensor = new_tensor
    torch.tensor, torch.as_tensor = made_there(torch.tensor), made_there(torch.as_tensor)


def made_there(make):
    """torch.tensor(data, device="cuda") is a tensor on the CPU, copied."""
    def made(data, *args, device=None, **kwargs):
        if device is not None and torch.device(device).type == "cuda":
            return make(data, *args, **kwargs).to(CUDA)
        return make(data, *args, **kwargs)
    return made


def pretend_triton() -> None:
    """The kernels run in Triton's interpreter, on the numbers behind the tensors, and in one block
    where that can be: as many take as many times as long."""
    import triton
    from triton.runtime import interpreter
    from triton.runtime.interpreter import InterpretedFunction

    from kernels import forget_mult_triton, gates_triton, rms_norm_triton
    forget_mult_triton.BLOCK, rms_norm_triton.TILE = 1 << 12, 1 << 15
    launch = gates_triton._launch

    def launch_at_once(kernel, mask, c, arrays, places=(), **options):
        count = places[1] if places else c.numel()
        gates_triton.BLOCK = min(1 << 15, 1 << (count - 1).bit_length())
        launch(kernel, mask, c, arrays, places, **options)
    gates_triton._launch = launch_at_once
    # The interpreter puts its functions into triton.language at each call, of a kernel and of what
    # it calls, and takes them out again: a fifth of the time. Nothing is compiled here: they stay.
    for function in (gates_triton._forward_kernel, triton.language.zeros):  # tl's names, and core's
        patched = interpreter._patch_lang(function.fn)
    patched.restore = lambda: None
    interpreter._patch_lang = lambda fn: patched
    real = InterpretedFunction.run

    def run(self, *args, **kwargs):
        LEDGER.operations[f"triton {self.__name__}"] += 1
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
        if not all(isinstance(t, PretendedTensor) for t in tensors):
            LEDGER.problem(f"triton {self.__name__}: a CPU tensor")
        plain = [a.elem if isinstance(a, PretendedTensor) else a for a in args]
        named = {n: a.elem if isinstance(a, PretendedTensor) else a for n, a in kwargs.items()}
        if device.TAPE:
            device.TAPE[0].keep(tensors)
            device.TAPE[0].again.append(lambda: real(self, *plain, **named))
        return real(self, *plain, **named)
    InterpretedFunction.run = run
