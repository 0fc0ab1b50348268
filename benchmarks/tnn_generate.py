"""Generation of one sequence, tokens/s against how much is already there: recurrences against
computing everything anew.

    python benchmarks/tnn_generate.py          table; results/figures/tnn-generation.png

A TnnModel with random weights (width 256, 3 layers, 5000 words) has read a prompt of n tokens and
adds 20 more, greedily. window and etsc are tnn/network/recurrence.py, full the recomputation.
The text must be the same. Time is the processor's, with one thread: what a machine with nothing
else to do needs.
"""

import argparse
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.tnn_operator import median
from tnn import TnnModel
from tnn.network.recurrence import MEMORIES

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY, WIDTH, LAYERS, NEW = 5000, 256, 3, 20
COLORS = {"window": "#1f66d0", "etsc": "#23804a", "full": "#c2570c"}


@torch.no_grad()
def run(model, prompt, memory: str) -> tuple[float, float, list[int]]:
    """Seconds to read the prompt, seconds per further token (median), and the tokens."""
    memories = None
    start = time.process_time()
    if memory != "full":
        longest = prompt.shape[1] + NEW
        memories = [MEMORIES[memory](tno, longest) for tno in model.operators()]
    tokens = prompt
    new = model(tokens, memories)[:, -1].argmax(-1, keepdim=True)
    reading, steps = time.process_time() - start, []
    for _ in range(NEW):
        start = time.process_time()
        tokens = torch.cat([tokens, new], dim=1)
        logits = model(tokens if memories is None else new, memories)
        new = logits[:, -1].argmax(-1, keepdim=True)
        steps.append(time.process_time() - start)
    return reading, median(steps), tokens[0, prompt.shape[1]:].tolist()


def draw(table: dict, path: Path) -> None:
    """table {n: {memory: tokens/s}}"""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.4, 3.4), layout="constrained")
    for memory, color in COLORS.items():
        axes.plot(list(table), [row[memory] for row in table.values()], marker="o", markersize=4,
                  color=color, label=memory)
    axes.set(xlabel="tokens already there", ylabel="tokens/s")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(table), [str(n) for n in table])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 2048, 8192])
    p.add_argument("--figure", action=argparse.BooleanOptionalAction, default=True)
    args = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = TnnModel(VOCABULARY, WIDTH, LAYERS).eval()
    print(f"torch {torch.__version__}, CPU, 1 thread, float32; width {WIDTH}, {LAYERS} layers, "
          f"{VOCABULARY} words")
    table = {}
    for n in args.lengths:
        prompt = torch.randint(VOCABULARY, (1, n))
        results = {memory: run(model, prompt, memory) for memory in COLORS}
        if len({tuple(text) for _, _, text in results.values()}) > 1:
            raise SystemExit(f"n = {n}: the memories give different texts")
        table[n] = {memory: 1 / step for memory, (_, step, _) in results.items()}
        told = "  ".join(f"{memory} {rate:7.1f} (prompt {1000 * results[memory][0]:6.0f} ms)"
                         for memory, rate in table[n].items())
        print(f"  n {n:6}  tokens/s: {told}   window / full "
              f"{table[n]['window'] / table[n]['full']:.1f}", flush=True)
    if args.figure:
        draw(table, ROOT / "results" / "figures" / "tnn-generation.png")


if __name__ == "__main__":
    main()
