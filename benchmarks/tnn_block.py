"""One layer and a whole small language model, forward and backward, against the length.

    python benchmarks/tnn_block.py                       table; results/figures/tnn-speed-length.png
    python benchmarks/tnn_block.py --lengths 512 --repeats 5 --no-figure

Forms, all of width 512 and about 3.15 M parameters a layer, causal, float32:

    ours     tnn.TnnBlock as published (inner width 1536, position encoder 64 x 6, decay 0.99)
    plain    the same layer and weights, written as the equations: transforms of length 2n along the
             strided sequence axis, gradients by autograd
    dense    the same with the Toeplitz matrices themselves (only where they fit into memory)
    softmax  pre-norm transformer layer: 8 heads of torch's scaled_dot_product_attention, hidden
             width 2048, relu
    softmax+ the same, its linear layers by the library that kernels/product.py chooses
    GEMM     the softmax layer without the attention: what no mixer can be faster than

They run in turn, in one process; the median is shown. Time is the processor's, with one thread:
what a machine with nothing else to do needs. ours and plain must give the same outputs and
gradients. The peak memory of one step of a layer is measured in a process of its own.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peaks import by_faster_library, describe
from benchmarks.tnn_operator import median
from benchmarks.tnn_operator import plain as plain_product
from harness.memory import keep_freed_memory
from tnn import TnnBlock, toeplitz_plain

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEADS, HIDDEN, TOKENS = 512, 8, 2048, 4096  # batch = TOKENS / n, at least 1
VOCABULARY, LAYERS, NARROW = 8000, 2, 256  # the small language model
DENSE_LIMIT = 512  # 1.6 GB of matrices; at 2048 they would take 26 GB
COLORS = {"ours": "#1f66d0", "plain": "#8a3ffc", "softmax": "#c2570c", "softmax+": "#e0a000",
          "dense": "#23804a", "GEMM": "#888888"}


class Written(nn.Module):
    """A TnnBlock's layer written as its equations, with its weights."""

    def __init__(self, block, product):
        super().__init__()
        self.block, self.product = block, product

    def forward(self, x):
        gtu, glu, dropped = self.block.self_attn.gtu, self.block.glu, self.block._dropped
        y = self._norm(x)
        u, v = F.silu(gtu.u_proj(y)), F.silu(gtu.v_proj(y))
        mixed = self.product(v.unsqueeze(1), gtu.toep.coefficients(x.shape[1])).squeeze(1)
        x = x + dropped(gtu.o(u * mixed))
        y = self._norm(x)
        return x + dropped(glu.l3(F.silu(glu.l1(y)) * glu.l2(y)))

    @staticmethod
    def _norm(x):
        return x / (x.norm(dim=-1, keepdim=True) * x.shape[-1] ** -0.5 + 1e-8)


class Softmax(nn.Module):
    """A pre-norm transformer layer; without attention the values alone are mixed by nothing."""

    def __init__(self, width, attention=True):
        super().__init__()
        self.attention, self.heads = attention, max(width * HEADS // WIDTH, 1)
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.o = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.l1 = nn.Linear(width, HIDDEN * width // WIDTH)
        self.l2 = nn.Linear(HIDDEN * width // WIDTH, width)

    def forward(self, x):
        q, k, v = self.qkv(self.n1(x)).chunk(3, -1)
        if self.attention:
            q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2) for a in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            mixed = mixed.transpose(1, 2).flatten(-2)
        else:
            mixed = q + k + v
        x = x + self.o(mixed)
        return x + self.l2(F.relu(self.l1(self.n2(x))))


class LanguageModel(nn.Module):
    """Embedding, layers, final norm, tied output: the loss of predicting the next token."""

    def __init__(self, layers):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, NARROW)
        nn.init.normal_(self.embedding.weight, std=NARROW**-0.5)
        self.layers, self.norm = nn.ModuleList(layers), nn.LayerNorm(NARROW)

    def forward(self, tokens):
        x = self.embedding(tokens) * NARROW**0.5
        for layer in self.layers:
            x = layer(x)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), tokens.roll(-1, 1).flatten())


def published(width):
    """The layer of tnn_v2_decay_99_pre."""
    return TnnBlock(width, causal=True, use_decay=True, gamma=0.99, rpe_embedding=64,
                    rpe_layers=6)


def layers(width, n, only=None):
    """{form: layer}; ours, plain and dense share their weights."""
    torch.manual_seed(1)
    block = published(width)
    forms = {"ours": lambda: block, "plain": lambda: Written(block, plain_product),
             "dense": lambda: Written(block, toeplitz_plain), "softmax": lambda: Softmax(width),
             "softmax+": lambda: by_faster_library(Softmax(width)),
             "GEMM": lambda: by_faster_library(Softmax(width, attention=False))}
    wanted = [only] if only else [f for f in forms if f != "dense" or n <= DENSE_LIMIT]
    return {form: forms[form]() for form in wanted}


def layer_step(layer, x, w):
    """Seconds of forward and backward, and the output and gradients of input and parameters."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    start = time.process_time()
    y = layer(x)
    y.backward(w)
    return time.process_time() - start, [y.detach(), x.grad, *grads(layer)]


def model_step(model, tokens):
    model.zero_grad()
    start = time.process_time()
    loss = model(tokens)
    loss.backward()
    return time.process_time() - start, [loss.detach(), *grads(model)]


def grads(module):
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def in_turn(forms: dict, step, repeats: int) -> dict[str, float]:
    """Median seconds of each form. Raises if ours and plain differ."""
    seconds, results = {form: [] for form in forms}, {}
    for i in range(repeats + 1):  # the first one warms up
        for form, module in forms.items():
            if form == "dense" and i > 1:  # many times slower than the others: once will do
                continue
            elapsed, results[form] = step(module)
            seconds[form].append(elapsed)
    for a, b in zip(results["ours"], results["plain"], strict=True):
        difference = (a - b).norm() / b.norm()
        if not difference < 1e-4:
            raise SystemExit(f"ours and plain differ by {difference:.1e}")
    return {form: median(s[1:]) for form, s in seconds.items()}


def measure(n: int, repeats: int) -> tuple[dict, dict]:
    """{form: tokens/s} of a layer and of the language model."""
    batch = max(TOKENS // n, 1)
    x, w = torch.randn(2, batch, n, WIDTH)
    block = in_turn(layers(WIDTH, n), lambda layer: layer_step(layer, x, w), repeats)
    models = {}
    for _ in range(LAYERS):
        for form, layer in layers(NARROW, n).items():
            if form != "dense":
                models.setdefault(form, []).append(layer)
    torch.manual_seed(2)
    models = {form: LanguageModel(stack) for form, stack in models.items()}
    for model in models.values():
        model.embedding.weight.data.copy_(models["ours"].embedding.weight.data)
    tokens = torch.randint(VOCABULARY, (batch, n))
    model = in_turn(models, lambda m: model_step(m, tokens), repeats)
    return ({form: batch * n / s for form, s in block.items()},
            {form: batch * n / s for form, s in model.items()})


def memory(form: str, n: int) -> None:
    """Prints the MiB by which one step of a layer raises this process's peak."""
    layer = layers(WIDTH, n, form)[form]
    x = torch.randn(max(TOKENS // n, 1), n, WIDTH)
    before = peak()
    layer_step(layer, x, torch.ones_like(x))
    print((peak() - before) >> 10)


def peak() -> int:
    """KiB. getrusage's figure begins with that of the process that started this one."""
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])


def memory_elsewhere(form: str, n: int) -> int:
    done = subprocess.run([sys.executable, __file__, "--memory", form, "--lengths", str(n)],
                          capture_output=True, text=True, check=True)
    return int(done.stdout)


def tell(what: str, n: int, values: dict) -> None:
    told = "  ".join(f"{form} {v:7.0f}" for form, v in values.items())
    ratios = "  ".join(f"ours / {other} {values['ours'] / values[other]:4.2f}"
                       for other in ("plain", "softmax", "softmax+"))
    bound = values["GEMM"] / values["softmax+"]
    print(f"  {what:5}  n {n:6}  tokens/s: {told}   {ratios} (at most {bound:4.2f})", flush=True)


def draw(table: dict, path: Path) -> None:
    """table {what: {n: {form: value}}} -> tokens/s of layer and model, and memory, against n."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(table), figsize=(4 * len(table), 3.4),
                                   layout="constrained")
    for ax, (what, rows) in zip(axes, table.items(), strict=True):
        for form, color in COLORS.items():
            points = [(n, values[form]) for n, values in rows.items() if form in values]
            if points:
                ax.plot(*zip(*points, strict=True), marker="o", markersize=4, color=color,
                        label=form, linestyle="--" if form == "GEMM" else "-")
        ax.set(xlabel="length n", title=what, xticks=list(rows))
        ax.set_xscale("log", base=2)
        ax.set_xticks(list(rows), [str(n) for n in rows])
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
    axes[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192])
    p.add_argument("--repeats", type=int, default=3, help="timed steps (median is shown)")
    p.add_argument("--figure", action=argparse.BooleanOptionalAction, default=True)
    p.add_argument("--memory", metavar="FORM", help="one step of a layer, only its peak memory")
    args = p.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if args.memory:
        return memory(args.memory, args.lengths[0])
    describe()
    print(f"float32, forward and backward; layer of width {WIDTH}; language model: {LAYERS} layers "
          f"of width {NARROW}, {VOCABULARY} words")
    table = {"layer, tokens/s": {}, "language model, tokens/s": {}, "layer, peak MiB": {}}
    for n in args.lengths:
        block, model = measure(n, args.repeats)
        peaks = {form: memory_elsewhere(form, n) for form in block if form != "GEMM"}
        for rows, values in zip(table.values(), (block, model, peaks), strict=True):
            rows[n] = values
        tell("layer", n, block)
        tell("model", n, model)
        print(f"  peak   n {n:6}  MiB:      "
              + "  ".join(f"{form} {v:7}" for form, v in peaks.items()), flush=True)
    if args.figure:
        draw(table, ROOT / "results" / "figures" / "tnn-speed-length.png")


if __name__ == "__main__":
    main()
