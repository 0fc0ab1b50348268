"""A CUDA device that is only pretended: tensors whose device is cuda:0 and whose numbers live on
the CPU, in torch's own autograd and autocast.

Every operation passes through `run`, which notes what a real device would refuse (a CPU tensor
beside a CUDA one, a type that a library lacks), where the host would wait for the device, and how
many operations would be launched. What it cannot see: whether kernels are correct on a device,
races between streams, NCCL, memory, speed.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

from tests.cuda_pretended.ledger import LEDGER

CUDA = torch.device("cuda", 0)
TAPE: list = []  # of the graph that is being recorded, if there is one (graphs.py)
aten = torch.ops.aten

# Operations after which the host knows a number or a shape that the device has computed.
SYNCS = {aten._local_scalar_dense.default: "item()", aten.nonzero.default: "nonzero",
         aten.masked_select.default: "masked_select", aten.equal.default: "equal",
         aten._unique2.default: "unique", aten.unique_dim.default: "unique",
         aten.bincount.default: "bincount", aten.is_nonzero.default: "bool()"}
COPIES = (aten.copy_.default, aten._to_copy.default)
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default,
            aten.index_put.default)
# From half to single precision and back in one operation on CUDA alone.
HALF_TO_FLOAT = (aten._log_softmax.default, aten._softmax.default)
FLOAT_TO_HALF = (aten._log_softmax_backward_data.default, aten._softmax_backward_data.default)
# With torch.use_deterministic_algorithms these raise on CUDA.
NOT_DETERMINISTIC = (aten.cumsum.default, aten.kthvalue.default, aten.histc.default,
                     aten.put_.default, aten.upsample_bilinear2d_backward.default,
                     aten._adaptive_avg_pool2d_backward.default,
                     aten.reflection_pad1d_backward.default, aten.nll_loss2d_forward.default)
# Views whose numbers are changed where they are read: below autograd nobody would change them.
READ_OTHERWISE = {aten._conj.default: torch.conj_physical, aten._neg_view.default: torch.neg}
# Views and allocations: no kernel is launched.
FREE = {"view", "detach", "alias", "t", "transpose", "permute", "expand", "slice", "select",
        "unsqueeze", "squeeze", "split", "split_with_sizes", "_unsafe_view", "as_strided", "chunk",
        "unbind", "_reshape_alias", "empty", "new_empty", "empty_like", "empty_strided",
        "new_empty_strided", "view_as_real", "view_as_complex", "diagonal", "unfold", "resize_",
        "set_", "lift_fresh", "is_same_size", "_local_scalar_dense"}


class PretendedTensor(torch.Tensor):
    """A tensor on cuda:0; `elem` holds its numbers."""

    elem: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, elem, requires_grad=False):
        assert type(elem) is not PretendedTensor
        made = torch.Tensor._make_wrapper_subclass(
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(),
            dtype=elem.dtype, layout=elem.layout, device=CUDA, requires_grad=requires_grad)
        made.elem = elem
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    def __tensor_flatten__(self):
        return ["elem"], None

    @staticmethod
    def __tensor_unflatten__(inner, meta, size, stride):
        return PretendedTensor(inner["elem"])

    def __repr__(self):
        return f"PretendedTensor({self.elem!r})"

    def __reduce_ex__(self, protocol):
        return self.detach().elem.detach().__reduce_ex__(protocol)

    def untyped_storage(self):
        return self.elem.untyped_storage()

    def tolist(self):
        LEDGER.sync("tolist")
        return self.detach().elem.tolist()

    def new_tensor(self, data, *, dtype=None, device=None, requires_grad=False):
        LEDGER.sync("new_tensor: host to device")
        made = torch.tensor(data, dtype=dtype or self.dtype)
        return PretendedTensor(made, requires_grad)

    def new(self, *args, **kwargs):
        LEDGER.sync("new: host to device")
        return PretendedTensor(self.elem.new(*args, **kwargs))

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")

    __array__ = numpy


def unwrap(x):
    return x.elem if isinstance(x, PretendedTensor) else x


def wrap(x):
    plain = isinstance(x, torch.Tensor) and not isinstance(x, PretendedTensor)
    return PretendedTensor(x) if plain else x


class Stream:
    """The random numbers of the device, which are another stream than the CPU's."""

    state: torch.Tensor | None = None

    @classmethod
    def seed(cls, seed: int) -> None:
        generator = torch.Generator()
        generator.manual_seed(int(seed) ^ 0x5EED)
        cls.state = generator.get_state()

    @classmethod
    def get(cls) -> torch.Tensor:
        if cls.state is None:
            cls.seed(torch.initial_seed())
        return cls.state.clone()

    @classmethod
    def set(cls, state: torch.Tensor) -> None:
        if isinstance(state, PretendedTensor) or state.dtype != torch.uint8:
            raise TypeError("RNG state must be a torch.ByteTensor on the CPU")
        cls.state = state.clone()


class Mode(TorchDispatchMode):
    """Catches what has no CUDA tensor among its arguments, such as torch.zeros(device="cuda")."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """One operation: on CPU tensors as ever, on CUDA ones noted and then done on the CPU."""
    flat, _ = tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    on_device = [t for t in tensors if isinstance(t, PretendedTensor)]
    name = func._schema.name.split("::")[1]
    if "pack_padded_sequence" in name or "pad_packed_sequence" in name:
        return packed_sequence(func, name, args, kwargs)
    if on_device and func in READ_OTHERWISE:
        return PretendedTensor(READ_OTHERWISE[func](unwrap(args[0])))
    asked = kwargs.get("device")
    target = None if asked is None else torch.device(asked).type
    if not on_device and target != "cuda":
        return func(*args, **kwargs)
    if func in COPIES:
        note_copy(func, args, kwargs, on_device, target)
    else:
        note_mixing(func, name, args, tensors, on_device, target)
    note_kind(func, name, tensors, on_device, kwargs)
    if name not in FREE:
        LEDGER.operations[name] += 1
    recorded = TAPE and name not in FREE
    if recorded:
        TAPE[0].starts(func, args, kwargs)
    out = compute(func, args, kwargs)
    if func is aten._to_copy.default:
        out = as_copied(out, tensors, on_device, target)
    if recorded:
        TAPE[0].add(func, args, kwargs, tree_map_only(PretendedTensor, unwrap, out))
    if func is aten._to_copy.default:
        return out
    if func in (aten._local_scalar_dense.default, aten.equal.default, aten.is_same_size.default):
        return out
    return handed_back(func, name, args, kwargs, tree_map_only(torch.Tensor, wrap, out), on_device)


def compute(func, args, kwargs):
    """On the CPU; what draws random numbers draws them from the device's stream."""
    plain = {name: tree_map_only(PretendedTensor, unwrap, value) for name, value in kwargs.items()}
    if plain.get("device") is not None:
        plain["device"] = torch.device("cpu")
    plain.pop("pin_memory", None)
    args = tree_map_only(PretendedTensor, unwrap, args)
    if func in HALF_TO_FLOAT and args[2]:
        args = (args[0].float(), args[1], False)
    if func in FLOAT_TO_HALF and args[3] != args[0].dtype:
        return func(*args[:3], args[0].dtype).to(args[3])
    draws = torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None
    if not draws:
        return func(*args, **plain)
    host = torch.get_rng_state()
    torch.set_rng_state(Stream.get())
    try:
        return func(*args, **plain)
    finally:
        Stream.state = torch.get_rng_state()
        torch.set_rng_state(host)


def as_copied(out, tensors, on_device, target):
    """The result of .to(): a tensor of the CPU, or one of the device with memory of its own."""
    if on_device and target == "cpu":
        return out
    if out.data_ptr() and any(out.data_ptr() == unwrap(t).data_ptr() for t in tensors):
        out = out.clone()
    return PretendedTensor(out)


def handed_back(func, name, args, kwargs, out, on_device):
    """What an operation in place returns is its argument itself."""
    if (func._schema.is_mutable and name.endswith("_") and args
            and isinstance(args[0], torch.Tensor) and isinstance(out, PretendedTensor)):
        if isinstance(args[0], PretendedTensor) and args[0].shape == out.shape:
            return args[0]
        if not isinstance(args[0], PretendedTensor):
            return args[0]
    if on_device and name not in ("set_", "resize_"):
        return return_and_correct_aliasing(func, args, kwargs, out)
    return out


def packed_sequence(func, name, args, kwargs):
    """The lengths belong on the CPU, wherever the data are."""
    if name == "_pack_padded_sequence" and isinstance(args[1], PretendedTensor):
        LEDGER.problem("the lengths of a packed sequence are on cuda")
    on_device = isinstance(args[0], PretendedTensor)
    if on_device:
        LEDGER.operations[name] += 1
    out = func(*tree_map_only(PretendedTensor, unwrap, args), **kwargs)
    if not on_device:
        return out
    return wrap(out) if isinstance(out, torch.Tensor) else (wrap(out[0]), *out[1:])


# ------------------------------------------------------------------------------------ notes
def note_copy(func, args, kwargs, on_device, target):
    """Copies between host and device wait, unless they are asynchronous and from pinned memory."""
    if func is aten.copy_.default:
        into, source = args[0], args[1]
        if isinstance(into, PretendedTensor) == isinstance(source, PretendedTensor):
            return
        asynchronous = kwargs.get("non_blocking", len(args) > 2 and args[2])
        to_device = isinstance(into, PretendedTensor)
    else:
        if bool(on_device) == (target != "cpu"):
            return
        source, asynchronous, to_device = args[0], kwargs.get("non_blocking"), not on_device
    if to_device and asynchronous:
        return
    LEDGER.sync("host to device" if to_device else "device to host")
    if not to_device and asynchronous:
        LEDGER.problem("an asynchronous copy to the host, which is read before it has arrived")


def note_mixing(func, name, args, tensors, on_device, target):
    if func in INDEXING:
        indices = [t for t in args[1] if t is not None]
        if any(not isinstance(t, PretendedTensor) and t.dim() for t in indices):
            LEDGER.sync("a CPU tensor as an index: host to device")
        if any(t.dtype in (torch.bool, torch.uint8) for t in indices):
            LEDGER.sync("boolean index (nonzero)")
        if not isinstance(args[0], PretendedTensor):
            LEDGER.problem(f"{func}: a CPU tensor indexed with a cuda one")
        if len(args) > 2 and not isinstance(args[2], PretendedTensor) and args[2].dim():
            LEDGER.problem(f"{func}: CPU values put into a cuda tensor")
        return
    others = [t for t in tensors if not isinstance(t, PretendedTensor) and t.device.type == "cpu"]
    # A CPU scalar may stand beside CUDA tensors: it is passed by value.
    if on_device and target != "cpu" and (whole := [t for t in others if t.dim()]):
        LEDGER.problem(f"{func}: a CPU tensor {tuple(whole[0].shape)} beside a cuda one")


def note_kind(func, name, tensors, on_device, kwargs):
    """What only some types, or only some operations, can do."""
    if on_device and func in SYNCS:
        LEDGER.sync(SYNCS[func])
    if name == "repeat_interleave" and on_device and kwargs.get("output_size") is None:
        LEDGER.sync("repeat_interleave")
    types = {t.dtype for t in on_device}
    if name.startswith("_fft_") and torch.bfloat16 in types:
        LEDGER.problem(f"{func}: cuFFT has no bfloat16")
    if name.startswith("_fft_") and torch.float16 in types and any(
            size & (size - 1) for t in on_device for size in t.shape[-1:]):
        LEDGER.problem(f"{func}: cuFFT takes float16 in powers of two only")
    if types & {torch.uint16, torch.uint32, torch.uint64} and name not in FREE \
            and func not in COPIES:
        LEDGER.problem(f"{func}: unsigned {sorted(map(str, types))} on cuda")
    if (torch.are_deterministic_algorithms_enabled() and func in NOT_DETERMINISTIC and tensors
            and tensors[0].is_floating_point()):
        LEDGER.problem(f"{func} has no deterministic CUDA implementation")
