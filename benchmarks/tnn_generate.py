"""Generation of one sequence, tokens/s against how much is already there: recurrences against
computing everything anew.

    python benchmarks/tnn_generate.py [--rounds 5]      table; results/figures/tnn-generation.png

A TnnModel with random weights (width 256, 3 layers, 5000 words) has read a prompt of n tokens and
adds 256 more, greedily: eight inner blocks of the recurrences. window and etsc are
tnn/network/recurrence.py; full is the recomputation, of 8 tokens. Their texts must be the same.
softmax is a transformer of as many weights that keeps its keys and values. Time is the processor's,
with one thread, the median of rounds in which all take turns.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peaks import describe
from kernels.product import Linear, linear
from tnn import TnnModel
from tnn.network.recurrence import MEMORIES

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY, WIDTH, LAYERS = 5000, 256, 3
NEW, FULL = 256, 8  # tokens; by recomputation
COLORS = {"window": "#1f66d0", "etsc": "#23804a", "full": "#c2570c", "softmax": "#888888"}


class Transformer(nn.Module):
    """The peer: pre-norm softmax attention and an MLP of four times the width, as many weights a
    layer as TnnLayer, called as TnnModel is; a memory holds a layer's keys and values."""

    HEADS = 4

    def __init__(self, vocabulary: int, width: int, layers: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(nn.ModuleDict({
            "norm1": nn.LayerNorm(width), "qkv": Linear(width, 3 * width),
            "o": Linear(width, width), "norm2": nn.LayerNorm(width),
            "mlp": nn.Sequential(Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width)),
        }) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def memories(self, longest: int) -> list[dict]:
        d = self.embedding.embedding_dim // self.HEADS
        return [{"kv": torch.empty(2, 1, self.HEADS, longest, d), "n": 0} for _ in self.layers]

    def forward(self, tokens, memories, last):
        x = self.embedding(tokens)
        for layer, memory in zip(self.layers, memories, strict=True):
            q, k, v = layer["qkv"](layer["norm1"](x)).unflatten(-1, (3, self.HEADS, -1)).permute(
                2, 0, 3, 1, 4)                                                 # (1, heads, n, d)
            n, memory["n"] = memory["n"], memory["n"] + x.shape[1]
            memory["kv"][:, :, :, n:memory["n"]] = torch.stack([k, v])
            k, v = memory["kv"][:, :, :, :memory["n"]]
            y = F.scaled_dot_product_attention(q, k, v, is_causal=n == 0)
            x = x + layer["o"](y.transpose(1, 2).flatten(2))
            x = x + layer["mlp"](layer["norm2"](x))
        return linear(self.norm(x[:, -1:] if last else x), self.embedding.weight)


@torch.no_grad()
def run(model, prompt, memory: str) -> tuple[float, float, list[int]]:
    """Seconds to read the prompt, seconds per further token (mean), and the tokens."""
    memories, count = None, FULL if memory == "full" else NEW
    start = time.process_time()
    longest = prompt.shape[1] + count
    if memory == "softmax":
        memories = model.memories(longest)
    elif memory != "full":
        memories = [MEMORIES[memory](tno, longest) for tno in model.operators()]
    tokens, new = prompt, model(prompt, memories, last=True)[:, -1].argmax(-1, keepdim=True)
    reading, start = time.process_time() - start, time.process_time()
    for _ in range(count):
        tokens = torch.cat([tokens, new], dim=1)
        logits = model(tokens if memories is None else new, memories, last=True)
        new = logits[:, -1].argmax(-1, keepdim=True)
    step = (time.process_time() - start) / count
    return reading, step, tokens[0, prompt.shape[1]:].tolist()


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
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--figure", action=argparse.BooleanOptionalAction, default=True)
    args = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = TnnModel(VOCABULARY, WIDTH, LAYERS).eval()
    peer = Transformer(VOCABULARY, WIDTH, LAYERS).eval()
    describe()
    print(f"float32; width {WIDTH}, {LAYERS} layers, {VOCABULARY} words")
    table = {}
    for n in args.lengths:
        prompt = torch.randint(VOCABULARY, (1, n))
        rounds = [{memory: run(peer if memory == "softmax" else model, prompt, memory)
                   for memory in COLORS} for _ in range(args.rounds)]
        if len({tuple(rounds[0][memory][2][:FULL]) for memory in (*MEMORIES, "full")}) > 1:
            raise SystemExit(f"n = {n}: the memories give different texts")
        reading, step = ({memory: statistics.median(each[memory][i] for each in rounds)
                          for memory in COLORS} for i in (0, 1))
        table[n] = {memory: 1 / seconds for memory, seconds in step.items()}
        told = "  ".join(f"{memory} {rate:7.1f} (prompt {1000 * reading[memory]:6.0f} ms)"
                         for memory, rate in table[n].items())
        print(f"  n {n:6}  tokens/s: {told}   window / softmax "
              f"{table[n]['window'] / table[n]['softmax']:.2f}", flush=True)
    if args.figure:
        draw(table, ROOT / "results" / "figures" / "tnn-generation.png")


if __name__ == "__main__":
    main()
