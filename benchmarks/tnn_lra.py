"""One training step of the Long Range Arena models: ours against the plain form of the original,
and a softmax transformer (torch's scaled_dot_product_attention) of the same width and depth.

    python benchmarks/tnn_lra.py [--task imdb] [--settings script] [--length 4096] [--batch 4]

The plain form has the same weights and is the equation as the paper's code computes it: transforms
of length 2n along the strided sequence axis, all lags written out, decays computed anew, both
orders of the two-dimensional unit, batch norm on a transposed tensor, gradients by autograd. All
run in one process, in turn, on the same batch; median times, of the processor where one thread
works, so that other programs hardly matter. Before that the two TNNs' gradients
are compared, in double precision and without dropout (they draw different masks).
"""

import argparse
import resource
import sys
import time
import types
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F

from benchmarks.peaks import describe
from harness.memory import keep_freed_memory
from tnn.lra.baselines import Transformer
from tnn.lra.model import GluBlock, LraModel
from tnn.lra.norms import BatchNorm
from tnn.lra.recipes import model_arguments, published_arch, settings_of
from tnn.lra.tasks import TASKS
from tnn.lra.token_mixers import TNO, TNO2d
from tnn.lra.utils import make_optimizer

VOCABULARY = {"listops": 18, "imdb": 135, "aan": 98}
LENGTH = {"listops": 2000, "imdb": 4096, "aan": 4000, "cifar": 1024, "pathfinder": 1024,
          "pathfinderx": 16384}
CLASSES = {"listops": 10, "cifar": 10}


# ----------------------------------------------------------------------------- the plain form
def plain_toeplitz(toep, x, dim=-2):
    """x (b, h, n, d), or a grid with the sequence on another axis; coefficients of length 2n."""
    n = x.shape[dim]
    limit = min(n, toep.max_l) if toep.use_pad else n
    ahead = torch.arange(1, limit, device=x.device).view(-1, 1).float()
    encoder = getattr(toep, toep.key)

    def values(lags):
        t = encoder(lags).view(len(lags), toep.h, toep.dim).transpose(0, 1)
        return t * toep.gamma ** lags.abs().view(1, -1, 1) if toep.use_decay else t

    zero = values(ahead.new_zeros(1, 1))
    gap = zero.new_zeros(toep.h, n - limit, toep.dim)
    t = torch.cat([zero, values(ahead), gap, zero, gap, values(-ahead.flip(0))], dim=1)
    while t.ndim < x.ndim - 1:
        t = t.unsqueeze(2 if dim == -3 else 1)
    spectrum = torch.fft.rfft(t, 2 * n, dim=dim) * torch.fft.rfft(x, 2 * n, dim=dim)
    return torch.fft.irfft(spectrum, 2 * n, dim=dim).narrow(dim, 0, n)


def plain_unit(self, x, padding=None):
    b, n, _ = x.shape
    u, v = F.silu(self.u_proj(x)), F.silu(self.v_proj(x))
    if isinstance(self, TNO2d):
        side = int(n ** 0.5)
        v = v.view(b, side, n // side, self.toep1.h, -1).permute(0, 3, 1, 2, 4)
        rows, columns = (lambda z: plain_toeplitz(self.toep1, z),
                         lambda z: plain_toeplitz(self.toep2, z, dim=-3))
        m = (columns(rows(v)) + rows(columns(v))).permute(0, 2, 3, 1, 4).reshape(b, n, -1)
        m = F.dropout(m, self.dropout, self.training)
    else:
        v = v.view(b, n, self.toep.h, -1).transpose(1, 2)
        m = plain_toeplitz(self.toep, v).transpose(1, 2).reshape(b, n, -1)
    return self.o(u * m)


def plain_batch_norm(self, x, padding=None):
    return super(BatchNorm, self).forward(x.transpose(1, 2)).transpose(1, 2)


def plain_glu(self, x):
    gate = F.dropout(F.silu(self.l1(x)), self.dropout, self.training)
    return self.l3(gate * self.l2(x))


def make_plain(model):
    forms = {TNO: plain_unit, BatchNorm: plain_batch_norm, GluBlock: plain_glu}
    for module in model.modules():
        for kind, form in forms.items():
            if isinstance(module, kind):
                module.forward = types.MethodType(form, module)
    return model


# ------------------------------------------------------------------------------- the benchmark
def build(args):
    """The three models by name."""
    settings = settings_of(args.task, args.settings, published_arch(args.task))
    wanted = argparse.Namespace(task=args.task, n_heads=1, position_dropout=0.1,
                                mask_padding=False, **settings)
    vocabulary = VOCABULARY.get(args.task)
    task = dict(classes=CLASSES.get(args.task, 2), vocabulary=vocabulary,
                d_input=None if vocabulary else 1)
    models = {}
    for name in ("plain", "ours"):
        torch.manual_seed(0)
        models[name] = LraModel(**model_arguments(wanted), **task)
    make_plain(models["plain"])
    models["transformer"] = Transformer(settings["d_model"], settings["n_layers"], **task)
    return {name: model.to(args.device).train() for name, model in models.items()}


def clock(x):
    """Seconds: of the processor for one thread, else on the wall."""
    alone = x.device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()


def step(model, optimizer, x, y, lengths):
    """Seconds of one update."""
    start = clock(x)
    loss = F.cross_entropy(model(x, lengths), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return clock(x) - start


def gradient(model, x, y, lengths):
    """All gradients of a step in double precision without dropout, as one vector."""
    model.double()
    x = x.double() if x.is_floating_point() else x
    rates = [(m, name) for m in model.modules() for name in ("dropout", "rate")
             if isinstance(getattr(m, name, None), float)]
    kept = [getattr(m, name) for m, name in rates]
    for m, name in rates:
        setattr(m, name, 0.0)
    F.cross_entropy(model(x, lengths), y).backward()
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    for (m, name), rate in zip(rates, kept, strict=True):
        setattr(m, name, rate)
    model.float()
    return found


def median(values):
    return sorted(values)[len(values) // 2]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--task", default="imdb", choices=TASKS)
    p.add_argument("--settings", default="script", choices=("script", "yaml"))
    p.add_argument("--length", type=int, default=0, help="0: the task's own")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--repeats", type=int, default=5, help="timed steps (median is shown)")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--device", default="cpu")
    p.add_argument("--only", nargs="+", choices=("plain", "ours", "transformer"))
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    torch.set_flush_denormal(True)
    n, b = args.length or LENGTH[args.task], args.batch
    models = build(args)
    models = {k: v for k, v in models.items() if not args.only or k in args.only}
    torch.manual_seed(2)
    pairs = 2 if args.task == "aan" else 1
    x = (torch.randint(3, VOCABULARY[args.task], (pairs * b, n)) if args.task in VOCABULARY
         else torch.randn(b, n, 1)).to(args.device)
    y = torch.randint(CLASSES.get(args.task, 2), (b,)).to(args.device)
    lengths = torch.full((pairs * b,), n, device=args.device)
    optimizers = {name: make_optimizer(model, 1e-3, 0.0) for name, model in models.items()}
    describe(args.device)
    print(f"{args.task}, {args.settings} settings, n {n}, batch {b}, float32, forward, backward, "
          "AdamW")
    if {"plain", "ours"} <= models.keys():
        plain, ours = (gradient(models[name], x, y, lengths) for name in ("plain", "ours"))
        print(f"  gradients of plain and ours: relative difference "
              f"{((plain - ours).norm() / plain.norm()).item():.1e}")
    seconds = {name: [] for name in models}
    for _ in range(args.repeats + 1):
        for name, model in models.items():
            seconds[name].append(step(model, optimizers[name], x, y, lengths))
    for name in models:
        time_ = median(seconds[name][1:])
        ratio = ("" if "ours" not in models else
                 f"  ours is {time_ / median(seconds['ours'][1:]):5.2f}x as fast")
        print(f"  {name:12} {1000 * time_:9.1f} ms/step {pairs * b * n / time_:10.0f} tokens/s"
              f"{ratio}", flush=True)
    print(f"  peak memory of the process: "
          f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")


if __name__ == "__main__":
    main()
