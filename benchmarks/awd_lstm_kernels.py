"""Times the recurrences of kernels/ on this CPU against plain torch.

    python benchmarks/awd_lstm_kernels.py [--repeats 15]

Forward and backward together, medians of repeats that alternate between the variants, so that a
busy machine slows all of them alike; the ratio comes last. About a minute on two idle cores.
Sizes: the published QRNN (T = 70, B = 20, H = 1550) and LSTM (400, 1150, 1150, 400).
"""

import argparse
import platform
import statistics
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from harness.memory import keep_freed_memory
from kernels import forget_mult as recurrence
from kernels import library, qrnn_gates
from kernels.lstm import lstm

T, B, H = 70, 20, 1550
LSTM_SIZES = [(400, 1150), (1150, 1150), (1150, 400)]


def compare(title, variants, repeats):
    """Print the median of each variant in milliseconds and how often the last one fits into it."""
    times = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if repeat:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    print(title)
    medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    for name, median in medians.items():
        print(f"  {name:36}{median:10.2f} ms{median / list(medians.values())[-1]:8.2f} x")


def step(run, leaves, grad):
    """A function that runs forward and backward once."""

    def both():
        torch.autograd.grad(run(*leaves), leaves, grad)

    return both


class InPlaceLoop(torch.autograd.Function):
    """forget_mult as it runs without a compiler."""

    @staticmethod
    def forward(ctx, f, x, c0):
        c = recurrence._in_place_forward(f, x, c0)
        ctx.save_for_backward(f, x, c0, c)
        return c

    @staticmethod
    def backward(ctx, dc):
        f, x, c0, c = ctx.saved_tensors
        return recurrence._in_place_backward(f, x, c0, c, dc)


def forget_mult(repeats):
    torch.manual_seed(0)
    leaves = [torch.rand(T, B, H), torch.randn(T, B, H), torch.randn(B, H)]
    leaves = [t.requires_grad_() for t in leaves]
    grad = torch.randn(T, B, H)
    variants = {
        "loop of small autograd operations": step(recurrence.forget_mult_plain, leaves, grad),
        "loop in place, one Function": step(InPlaceLoop.apply, leaves, grad),
        "compiled": step(recurrence.forget_mult, leaves, grad),
    }
    compare(f"forget-mult (T,B,H) = ({T},{B},{H})", variants, repeats)


def torch_activations(*arguments):
    """qrnn_gates as it runs without a compiler, but for the recurrence."""
    return qrnn_gates.qrnn_gates_plain(*arguments, recurrence=recurrence.forget_mult)


def gates(repeats):
    torch.manual_seed(0)
    leaves = [torch.randn(T, B, 3 * H, requires_grad=True), torch.randn(B, H, requires_grad=True)]
    grad = torch.randn(T, B, H)
    variants = {
        name: step(lambda y, c, run=run: run(y, c, None, 1.0, 3)[0], leaves, grad)
        for name, run in (
            ("torch activations, forget_mult", torch_activations),
            ("one compiled pass", qrnn_gates.qrnn_gates),
        )
    }
    compare(f"QRNN gates (T,B,3H) = ({T},{B},{3 * H})", variants, repeats)


def lstm_stack(repeats, batch):
    torch.manual_seed(0)
    layers = [torch.nn.LSTM(*sizes) for sizes in LSTM_SIZES]
    x = torch.randn(T, batch, LSTM_SIZES[0][0], requires_grad=True)
    leaves = [x] + [p for layer in layers for p in layer.parameters()]
    grad = torch.randn(T, batch, LSTM_SIZES[-1][1])

    def through(call):
        def run(x, *_):
            for layer in layers:
                zeros = x.new_zeros(1, batch, layer.hidden_size)
                x, _ = call(layer, x, (zeros, zeros))
            return x

        return run

    variants = {
        "nn.LSTM": step(through(lambda layer, x, h: layer(x, h)), leaves, grad),
        "kernels.lstm": step(
            through(lambda layer, x, h: lstm(x, h, *layer.parameters())), leaves, grad
        ),
    }
    compare(f"LSTM stack {LSTM_SIZES}, T = {T}, B = {batch}", variants, repeats)


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="timed repeats (default: 15)")
    repeats = parser.parse_args().repeats
    keep_freed_memory()  # as training does
    print(f"{processor()}, {torch.get_num_threads()} threads, {platform.system()}")
    print(f"Python {platform.python_version()}, torch {torch.__version__}")
    if library.loaded() is None:
        raise SystemExit("The kernels could not be built; there is nothing to compare.")
    forget_mult(repeats)
    gates(repeats)
    for batch in (20, 80):
        lstm_stack(max(3, repeats // 3), batch)


if __name__ == "__main__":
    main()
