"""Forward and backward of TrellisNet's levels at word-PTB size: ours against plain conv1d.

    python benchmarks/trellisnet_step.py [--small] [--repeats 3] [--threads N] [--fir] [--bf16]
                                         [--checkpoint K] [--compile]

The plain form is the algorithm of the original: channels first, one conv1d a level over all
positions, the input's convolution once, autograd's own backward. Both run in one process in turn,
on the same weights, with a random linear function of the scored outputs as the loss; the largest
difference of a gradient is printed. That process keeps freed memory, for both forms. Each form
also runs one step in a process of its own, which gives its peak memory; there plain has the C
library's default allocation, as the original has, and its time is given as well: most of what the
original loses against its products are page faults. A step at full size takes 18 s (ours) and
30 s (plain; 42 s with default allocation) on one core; --small needs seconds.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F

from benchmarks.peaks import best, describe
from harness.memory import keep_freed_memory
from trellisnet.gates import compiled_gates
from trellisnet.levels import trellis_levels

FULL = dict(emsize=400, hidden=1400, nout=400, levels=58, length=110, start=58, batch=4,
            aux_levels=(11, 23, 35, 47), kernel=2)  # word_ptb.py's defaults, 1000 + 400 channels
SMALL = FULL | dict(emsize=100, hidden=350, nout=100, levels=24, length=50, start=24,
                     aux_levels=(11, 23))


def plain_conv1d(x, weight1, weight2, bias, h0, c0, mask, levels, nout, start, aux_levels):
    """Dilation 1; x (N, E, L), h0, c0 and mask (N, H, 1) -> output (L-start, N, nout), and those of
    the auxiliary levels."""
    length, pad = x.shape[2], weight2.shape[2] - 1
    h = x.new_zeros(len(x), weight2.shape[1], length)
    c = torch.zeros_like(h)
    term = F.conv1d(F.pad(x, (pad, 0)), weight1)
    outputs = []
    for _ in range(levels):
        padded = F.pad(h, (pad, 0))
        if pad:
            padded[:, :, :pad] = h0
        a = F.conv1d(padded * mask, weight2, bias) + term
        i, o, g, f = a.chunk(4, dim=1)
        c_below = torch.cat([c0, c[:, :, :-1]], dim=2)
        c = f.sigmoid() * c_below + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h[:, -nout:, start:].permute(2, 0, 1))
    return outputs[-1], torch.stack([outputs[level] for level in aux_levels])


class Step:
    """The data of a step, and the two forms of it: seconds and gradients."""

    def __init__(self, size: dict, args):
        self.size, self.args, self.device = size, args, torch.device(args.device)
        gen = torch.Generator().manual_seed(1)
        s = argparse.Namespace(**size)

        def randn(*shape, scale=1.0):
            return (scale * torch.randn(*shape, generator=gen)).to(self.device).requires_grad_()

        four = 4 * s.hidden
        self.x = randn(s.length, s.batch, s.emsize)
        # Tap-major in memory, as the network keeps its parameters; plain gets its own copies.
        self.weight1 = randn(s.kernel, four, s.emsize, scale=s.emsize**-0.5)
        self.weight2 = randn(s.kernel, four, s.hidden, scale=s.hidden**-0.5)
        self.bias = randn(four, scale=0.1)
        self.h0, self.c0 = (randn(s.batch, s.hidden, scale=0.1) for _ in range(2))
        keep = torch.rand(s.batch, s.hidden, generator=gen) > 0.28
        self.mask = keep.to(self.device) / 0.72
        shape = (s.length - s.start, s.batch, s.nout)
        self.factors = [randn(*shape).detach(), randn(len(s.aux_levels), *shape).detach()]

    def ours(self):
        s, args = argparse.Namespace(**self.size), self.args
        leaves = [self.x, self.weight1, self.weight2, self.bias, self.h0, self.c0]
        x, w1, w2, *state = leaves

        def forward():
            return trellis_levels(
                x, w1.permute(1, 2, 0), w2.permute(1, 2, 0), *state, self.mask, (1,) * s.levels,
                s.nout, s.start, s.aux_levels, checkpoint=args.checkpoint, fir=args.fir,
                fuse=compiled_gates() if args.compile else None)[:2]

        return self.timed(forward, leaves)

    def plain(self):
        s = argparse.Namespace(**self.size)
        given = [self.x.permute(1, 2, 0), self.weight1.permute(1, 2, 0),
                 self.weight2.permute(1, 2, 0), self.bias, self.h0[..., None], self.c0[..., None]]
        leaves = [t.detach().contiguous().requires_grad_() for t in given]

        def forward():
            return plain_conv1d(*leaves, self.mask[..., None], s.levels, s.nout, s.start,
                                s.aux_levels)

        seconds, grads = self.timed(forward, leaves)
        dx, dw1, dw2, dbias, dh0, dc0 = grads
        return seconds, [dx.permute(2, 0, 1), dw1.permute(2, 0, 1), dw2.permute(2, 0, 1), dbias,
                         dh0[..., 0], dc0[..., 0]]

    def timed(self, forward, leaves):
        """(seconds forward, seconds backward), gradients."""
        times = [self.now()]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.bf16):
            outputs = forward()
        loss = sum((a * b).sum() for a, b in zip(outputs, self.factors, strict=True))
        times.append(self.now())
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        times.append(self.now())
        return (times[1] - times[0], times[2] - times[1]), grads

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return clock()


def clock() -> float:
    """Seconds. With one thread those of the processor: what else the machine does counts less."""
    return time.process_time() if torch.get_num_threads() == 1 and not torch.cuda.is_available() \
        else time.perf_counter()


def needed_flops(size: dict) -> float:
    """Products of forward and backward at the positions that the scored outputs see."""
    s = argparse.Namespace(**size)
    first = [max(0, s.start - (s.kernel - 1) * (s.levels - 1 - level)) for level in range(s.levels)]
    rows = [(s.length - t) * s.batch for t in first]
    hidden = sum(rows[1:]) * s.hidden  # under the first level there is only the initial state
    return 3 * 2 * s.kernel * 4 * s.hidden * (hidden + rows[0] * s.emsize)


def median(values):
    return sorted(values)[len(values) // 2]


def alone(form: str) -> tuple[float, float, float]:
    """A process that runs one step of this form: MiB before and at the peak, seconds.

    To be called while this process is small: a child's count starts at its parent's.
    """
    env = dict(os.environ)
    if form == "plain":
        env["MALLOC_MMAP_MAX_"] = "65536"  # glibc's default; keep_freed_memory respects it
    run = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", form],
                         capture_output=True, text=True, check=True, env=env)
    return json.loads(run.stdout)


def used_memory(step: Step) -> float:
    if step.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def compare(step: Step, repeats: int, runs_alone: dict) -> None:
    flops = needed_flops(step.size)
    arithmetic = "bfloat16" if step.args.bf16 else "float32"
    peak = best(describe(step.device), arithmetic) or math.nan  # without bfloat16 instructions
    print(f"{flops / 1e12:.3f} TFLOP needed")
    times = {"plain": [], "ours": []}
    for repeat in range(repeats):
        grads = {}
        for form, taken in times.items():
            seconds, grads[form] = getattr(step, form)()
            taken.append(seconds)
            print(f"  step {repeat}: {form:5} {sum(seconds):.3f} s", flush=True)
        worst = max((ours - (0 if plain is None else plain)).abs().max() / ours.abs().max()
                    for plain, ours in zip(grads["plain"], grads["ours"], strict=True)
                    if ours.any())
        print(f"  step {repeat}: largest relative difference of a gradient {worst.item():.1e}")
    total = {}
    for form, taken in times.items():
        total[form] = median([sum(t) for t in taken])
        print(f"  {form:5}  forward {median([t[0] for t in taken]):.3f} s, backward "
              f"{median([t[1] for t in taken]):.3f} s, both {total[form]:.3f} s, "
              f"{flops / total[form] / peak:.0%} of the best product's rate in {arithmetic}")
    for form, (before, peak, _) in runs_alone.items():
        print(f"  {form:5}  peak memory {peak:.0f} MiB, {peak - before:.0f} of them for the step")
    if runs_alone:
        (before, peak, seconds), (our_before, our_peak, _) = runs_alone.values()
        print(f"  memory {our_peak / peak:.0%} of plain's, "
              f"{(our_peak - our_before) / (peak - before):.0%} of what is for the step")
        print(f"  ratio  {seconds / total['ours']:.2f}x plain with default allocation "
              f"({seconds:.3f} s)")
    print(f"  ratio  {total['plain'] / total['ours']:.2f}x")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--small", action="store_true", help="a quarter of the width, 24 levels")
    p.add_argument("--repeats", type=int, default=3, help="timed steps (the median is shown)")
    p.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's default)")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--fir", action="store_true", help="ours with three products in place of four")
    p.add_argument("--checkpoint", type=int, default=0, help="ours keeps every K-th level only")
    p.add_argument("--compile", action="store_true", help="ours with compiled gates")
    p.add_argument("--bf16", action="store_true", help="both under bfloat16 autocast")
    p.add_argument("--no-alone", dest="alone", action="store_false",
                   help="skip the two further processes, that is the peak memory")
    p.add_argument("--only", choices=("plain", "ours"), help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()  # as training does; for both forms
    torch.set_flush_denormal(True)
    size = SMALL if args.small else FULL
    if args.only:
        step = Step(size, args)
        before = used_memory(step)
        seconds, _ = getattr(step, args.only)()
        print(json.dumps([before, used_memory(step), sum(seconds)]))
        return
    print(", ".join(f"{name} {value}" for name, value in size.items()), flush=True)
    runs_alone = {form: alone(form) for form in ("plain", "ours")} if args.alone else {}
    compare(Step(size, args), args.repeats, runs_alone)


if __name__ == "__main__":
    main()
