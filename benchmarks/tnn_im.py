"""TNN-ViT tiny, a training step on 8 images of 224 x 224: against the plain form, and DeiT-tiny.

    python benchmarks/tnn_im.py [--threads 1 2] [--repeats 15]
    python benchmarks/tnn_im.py --lengths 14 32 64 128      dense or FFT: DENSE_UP_TO

The plain form is the model as the paper's code computes it: the same weights, Toeplitz products by
FFT of length 2n along the strided axes, every operation by autograd. DeiT-tiny is timm's, with its
own attention kernel; DeiT-tiny+ the same, its linear layers by the library that kernels/product.py
chooses. A step is forward, backward and AdamW; all models take turns in one process.
Times are those of the process's own work where there is one thread, so that another program on the
machine does not count; otherwise of the clock.
"""

import argparse
import copy
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import timm
import torch
from torch.nn.functional import cross_entropy

from benchmarks.peaks import by_faster_library, describe
from harness.memory import keep_freed_memory
from tnn.im.model import Gtu2d, TnnVit, build, stacked_channels_first, stacked_matrices
from tnn.network.fused_grid import gated_grid
from tnn.network.glu import GLU
from tnn.network.grid import along_both
from tnn.network.norms import rms_normalized

ARCH = "tnn_vit_e3g1_tiny_rpe_l1_90_prenorm"


# ---------------------------------------------------------------------------------- plain form
def by_fft(toep, x, dim):
    """The operator as published: x (b, H, W, E) along axis dim, which has length n."""
    n = x.shape[dim]
    t = toep.coefficients(n)[0]                                        # lags 0..n-1, -(n-1)..-1
    column = torch.cat([t[:n], t[:1], t[n:]])                          # (2n, E)
    spectrum = torch.fft.rfft(column[:, None] if dim == -3 else column, dim=0)
    return torch.fft.irfft(torch.fft.rfft(x, 2 * n, dim=dim) * spectrum, 2 * n, dim=dim).narrow(
        dim, 0, n)


def plain_unit(unit, x):
    u, v = (torch.nn.functional.silu(f(x)) for f in (unit.u_proj, unit.v_proj))
    return unit.o(u * (by_fft(unit.toep2, v, -3) + by_fft(unit.toep1, v, -2)))


def plain_forward(model: TnnVit, images):
    x = model.to_patch_embedding(images).contiguous()
    for block in model.layers:
        x = x + plain_unit(block.token_mixer, rms_normalized(x))
        x = x + GLU.forward(block.feature_mixer, rms_normalized(x))
    return model.head[1](rms_normalized(x.mean((1, 2))))


# ------------------------------------------------------------------------------------- timing
def median(values):
    return sorted(values)[len(values) // 2]


def clock():
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


def stepper(model, forward, images, labels):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)

    def step():
        optimizer.zero_grad()
        loss = cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()
    return step


def compare_steps(repeats: int) -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(8, 3, 224, 224), torch.randint(1000, (8,))
    ours, deit = build(ARCH), timm.create_model("deit_tiny_patch16_224")
    plain, deit_plus = copy.deepcopy(ours), by_faster_library(copy.deepcopy(deit))
    with torch.no_grad():
        error = (ours(images) - plain_forward(plain, images)).abs().max().item()
    forms = {"plain": stepper(plain, lambda x: plain_forward(plain, x), images, labels),
             "DeiT-tiny": stepper(deit, deit, images, labels),
             "DeiT-tiny+": stepper(deit_plus, deit_plus, images, labels),
             "ours": stepper(ours, ours, images, labels)}
    seconds = {name: [] for name in forms}
    for round_ in range(repeats + 2):
        for name, step in forms.items():
            start = clock()()
            step()
            if round_ >= 2:
                seconds[name].append(clock()() - start)
    rates = {name: 8 / median(s) for name, s in seconds.items()}
    told = "  ".join(f"{name} {rate:6.2f} images/s" for name, rate in rates.items())
    ratios = "  ".join(f"ours / {name} {rates['ours'] / rates[name]:.2f}x" for name in rates
                       if name != "ours")
    print(f"threads {torch.get_num_threads()}  {told}  {ratios}  largest difference of "
          f"logits to plain {error:.0e}", flush=True)


def compare_lengths(lengths: list[int], repeats: int) -> None:
    """The mixing of one unit, forward and backward, on n x n patches, 192 channels."""
    for n in lengths:
        torch.manual_seed(0)
        unit = Gtu2d(64, 1, use_decay=True, rpe_embedding=48, rpe_layers=1)
        batch = max(3136 // n ** 2, 1)
        x = torch.randn(n, batch, n, 64).transpose(0, 1).requires_grad_()

        def dense(unit=unit, x=x, n=n, batch=batch):
            z = stacked_channels_first(x.transpose(0, 1).flatten(0, 2), unit.u_proj, unit.v_proj)
            T = [stacked_matrices([toep], n)[0] for toep in (unit.toep2, unit.toep1)]
            return gated_grid(z.view(2, -1, n, batch, n), *T)

        def fft(unit=unit, x=x, n=n, batch=batch):
            z = stacked_channels_first(x.transpose(0, 1).flatten(0, 2), unit.u_proj, unit.v_proj)
            u, v = torch.nn.functional.silu(z.view(2, -1, n, batch, n)).unbind(0)
            return u * along_both(v, unit.toep2, unit.toep1, dense_up_to=0)

        seconds = {"dense": [], "FFT": []}
        for _ in range(repeats + 1):
            for name, form in (("dense", dense), ("FFT", fft)):
                start = clock()()
                form().square().sum().backward()
                seconds[name].append(clock()() - start)
        d, f = (1000 * median(s[1:]) for s in seconds.values())
        print(f"  n {n:4}  dense {d:8.1f} ms  FFT {f:8.1f} ms  ratio {f / d:5.2f}", flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--threads", type=int, nargs="+", default=[1], help="CPU threads")
    p.add_argument("--repeats", type=int, default=15, help="timed steps (median is shown)")
    p.add_argument("--lengths", type=int, nargs="+", default=[], help="dense against FFT instead")
    args = p.parse_args()
    keep_freed_memory()
    torch.set_flush_denormal(True)
    print(f"timm {timm.__version__}, float32, {ARCH}, batch 8, 224 x 224, forward, backward, AdamW")
    for threads in args.threads:
        torch.set_num_threads(threads)
        describe()
        if args.lengths:
            compare_lengths(args.lengths, args.repeats)
        else:
            compare_steps(args.repeats)


if __name__ == "__main__":
    main()
