"""The Toeplitz operator, forward and backward: ours against the plain form, and dense ones.

    python benchmarks/tnn_operator.py [--lengths 512 2048 8192] [--dense] [--threads 1]

The plain form is the equation by FFT as the paper's code computes it: transforms of length 2n along
the strided sequence axis, gradients by autograd. Both run in one process, in turn, on the same
numbers; the largest difference of outputs and gradients is printed. --dense compares short lengths
with the dense product, which is how DENSE_UP_TO of tnn/network/toeplitz.py was chosen; --cut
compares all lags with those that decay has not made vanish, decay included.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.peaks import describe
from tnn.network import toeplitz as operator
from tnn.network.toeplitz_operator import lags_until, powers

HEADS, CHANNELS, TOKENS = 1, 1536, 4096  # the published layer; batch = TOKENS / n, at least 1


def plain(x, t):
    """x (b, h, n, d), t (h, n, d) causal -> (b, h, n, d)."""
    n = x.shape[-2]
    spectrum = torch.fft.rfft(t, 2 * n, dim=-2) * torch.fft.rfft(x, 2 * n, dim=-2)
    return torch.fft.irfft(spectrum, 2 * n, dim=-2)[..., :n, :]


def step(product, x, t, w):
    """Seconds, and the output and gradients."""
    x, t = x.clone().requires_grad_(), t.clone().requires_grad_()
    start = time.perf_counter()
    y = product(x, t)
    y.backward(w)
    return time.perf_counter() - start, (y.detach(), x.grad, t.grad)


def median(values):
    return sorted(values)[len(values) // 2]


def cut_forms(n: int) -> dict:
    """{name: product of x and coefficients without decay}"""
    lags = min(lags_until(0.99), n)
    damping = powers(torch.full((HEADS, CHANNELS), 0.99), n)
    return {"all lags": lambda x, r: operator.toeplitz_product(x, r * damping),
            "cut": lambda x, r: operator.toeplitz_product(x, r[:, :lags] * damping[:, :lags],
                                                          lags=lags)}


def compare(forms: dict, n: int, repeats: int, device, batch: int | None = None,
            decay: float = 0.99) -> list[float]:
    """Median seconds of each form, printed with the ratio to the first one."""
    batch = batch or max(TOKENS // n, 1)
    torch.manual_seed(n)
    x, w = (torch.randn(batch, HEADS, n, CHANNELS, device=device) for _ in range(2))
    t = torch.randn(HEADS, n, CHANNELS, device=device) * decay ** torch.arange(
        n, device=device).unsqueeze(-1)
    seconds, results = {name: [] for name in forms}, {}
    for _ in range(repeats + 1):
        for name, product in forms.items():
            elapsed, results[name] = step(product, x, t, w)
            seconds[name].append(elapsed)
    times = [median(s[1:]) for s in seconds.values()]
    first, last = results.values()
    error = max(((a - b).abs().max() / a.abs().max()).item()
                for a, b in zip(first, last, strict=True))
    told = "  ".join(f"{name} {1000 * s:8.1f} ms"
                     for name, s in zip(forms, times, strict=True))
    print(f"  n {n:6}  batch {batch:3}  {told}  ratio {times[0] / times[1]:5.2f}x  "
          f"largest relative difference {error:.0e}", flush=True)
    return times


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192])
    p.add_argument("--dense", action="store_true", help="short lengths, dense against FFT")
    p.add_argument("--repeats", type=int, default=5, help="timed steps (median is shown)")
    p.add_argument("--threads", type=int, default=1, help="CPU threads")
    p.add_argument("--device", default="cpu")
    p.add_argument("--cut", action="store_true", help="far lags kept against left out")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    describe(args.device)
    print(f"{HEADS} head, {CHANNELS} channels, float32, forward and backward, causal")
    if args.dense:
        for n in (1, 4, 8, 16, 32, 64, 128):
            for batch in (8, 64):
                operator.DENSE_UP_TO = 0
                compare({"dense": operator.toeplitz_plain, "FFT": operator.toeplitz_product}, n,
                        args.repeats, args.device, batch)
        return
    for n in args.lengths:
        if args.cut:
            compare(cut_forms(n), n, args.repeats, args.device, decay=1)
            continue
        compare({"plain": plain, "ours": operator.toeplitz_product}, n, args.repeats, args.device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory of the process: {peak >> 10} MiB")


if __name__ == "__main__":
    main()
