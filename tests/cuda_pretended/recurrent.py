"""cuDNN's LSTM and GRU on the pretended device: torch's own on the CPU, and what cuDNN asks for."""

import torch

from tests.cuda_pretended.device import TAPE, PretendedTensor
from tests.cuda_pretended.ledger import LEDGER

REAL = {}
HALF = (torch.float16, torch.bfloat16)


def install() -> None:
    for which in ("lstm", "gru"):
        REAL[which] = getattr(torch._C._VariableFunctions, which)
        call = emulated(which)
        torch._VF.__dict__[which] = call
        setattr(torch, which, call)
    torch.nn.modules.rnn.RNNBase.flatten_parameters = flatten_parameters


def emulated(which: str):
    def call(*args):
        if not isinstance(args[0], PretendedTensor):
            return REAL[which](*args)
        if isinstance(args[1], torch.Tensor) and args[1].dtype == torch.int64:
            x, sizes, hx, weights, biases, layers, _, train, both = args
            first = False
            if isinstance(sizes, PretendedTensor):
                LEDGER.problem(f"cuDNN {which}: batch_sizes on cuda")
        else:
            x, hx, weights, biases, layers, _, train, both, first = args
            sizes = None
        states = hx if isinstance(hx, tuple) else (hx,)
        x, states, weights = checked(which, x, states, weights, train)
        LEDGER.operations[f"cudnn_{which} {x.dtype}"] += 1
        with torch.autocast("cuda", enabled=False):
            return computed(which, x, states, weights, (sizes, biases, layers, both, first))
    return call


def checked(which, x, states, weights, train):
    """The arguments as cuDNN gets them; notes what it refuses or copies."""
    for t in (*states, *weights):
        if not isinstance(t, PretendedTensor):
            LEDGER.problem(f"cuDNN {which}: a CPU tensor {tuple(t.shape)}")
    if torch.is_autocast_enabled("cuda"):
        # Autocast lists _cudnn_rnn under float16, and means it, whatever its own dtype is.
        LEDGER.problem(f"cuDNN {which}: autocast makes it float16")
        x, *rest = (t.to(torch.float16) for t in (x, *states, *weights))
        states, weights = rest[:len(states)], rest[len(states):]
    elif not one_chunk(weights):
        LEDGER.warn(f"cuDNN {which}: weights are not one chunk of memory: copied at each call")
    if len(kinds := {t.dtype for t in (x, *states, *weights)}) > 1:
        LEDGER.problem(f"cuDNN {which}: several dtypes {sorted(map(str, kinds))}")
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *states, *weights))
    if wanted != bool(train):
        LEDGER.problem(f"cuDNN {which}: train={bool(train)} where a gradient is "
                       f"{'wanted' if wanted else 'not wanted'}")
    return x, states, weights


def one_chunk(weights) -> bool:
    start = weights[0].elem.untyped_storage().data_ptr()
    return all(w.elem.is_contiguous() and w.elem.untyped_storage().data_ptr() == start
               for w in weights)


def computed(which, x, states, weights, how):
    """In float32 where the CPU has no half precision; the results in x's dtype."""
    wide = [t.float() if t.dtype in HALF else t for t in (x, *states, *weights)]
    return tuple(out.to(x.dtype) for out in Recurrent.apply(which, how, *wide))


class Recurrent(torch.autograd.Function):
    """One operation forward and one backward, as in cuDNN."""

    @staticmethod
    def forward(ctx, which, how, x, *rest):
        memory = [t.detach().elem.detach() for t in (x, *rest)]
        count = 2 if which == "lstm" else 1
        sizes, biases, layers, both, first = how

        def compute():
            plain = [t.clone().requires_grad_() for t in memory]
            with torch.enable_grad():
                hx = tuple(plain[1:1 + count]) if count == 2 else plain[1]
                end = (biases, layers, 0.0, True, both)
                out = (REAL[which](plain[0], hx, plain[1 + count:], *end, first) if sizes is None
                       else REAL[which](plain[0], sizes, hx, plain[1 + count:], *end))
            ctx.plain, ctx.out = plain, out
            return [o.detach() for o in out]
        return tuple(map(PretendedTensor, launched(compute)))

    @staticmethod
    def backward(ctx, *grads):
        LEDGER.operations["cudnn_backward"] += 1
        given = [torch.zeros_like(o) if g is None else g.elem
                 for g, o in zip(grads, ctx.out, strict=True)]

        def compute():
            return torch.autograd.grad(ctx.out, ctx.plain, given, materialize_grads=True,
                                       allow_unused=True, retain_graph=True)
        return (None, None, *map(PretendedTensor, launched(compute)))


def launched(compute) -> list[torch.Tensor]:
    """Copies of what compute() gives, done again when a graph that records this is replayed."""
    results = [value.clone() for value in compute()]
    if TAPE:
        TAPE[0].launched(compute, results, results)
    return results


def flatten_parameters(self) -> None:
    """nn.LSTM's own: one piece of memory for all weights, where they are parameters of one type."""
    weights = self._flat_weights
    if (len(weights) != len(self._flat_weights_names)
            or not all(isinstance(w, PretendedTensor) for w in weights)
            or len({w.dtype for w in weights}) > 1):
        return
    with torch.no_grad():
        flat = torch.cat([w.elem.reshape(-1) for w in weights])
        for w, piece in zip(weights, flat.split([w.numel() for w in weights]), strict=True):
            w.elem = piece.view(w.shape)
