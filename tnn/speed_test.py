"""Figure 1: training speed, relative to a softmax transformer, and memory against the length.

    python tnn/speed_test.py                                    (a few minutes on a CPU)
    python tnn/speed_test.py --lengths 512 1024 2048 4096 8192 16384 --batch 8        (one GPU)

The paper's text classification task (IMDB characters): embedding, blocks, classifier; a step is
forward, backward and AdamW on random characters. Every model has the width and depth of the TNN it
is compared with: 64 x 4, the experiment file that the paper names (tno-lra-imdb.yaml), and 128 x 4,
the published run. The models take turns step by step; medians are shown. Writes a table (csv) and
a plot to results/figures.
"""

import argparse
import contextlib
import csv
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("TNN", "transformer", "linear attention", "S4D")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--lengths", type=int, nargs="+", metavar="N",
                   help="sequence lengths (None: 512 1024 2048 on a CPU, to 16384 on a GPU)")
    p.add_argument("--settings", nargs="+", choices=("yaml", "script"), default=["yaml", "script"],
                   help="width and depth: 64 x 4 or 128 x 4")
    p.add_argument("--models", nargs="+", choices=MODELS, metavar="MODEL",
                   help="of: TNN, transformer, linear attention, S4D (None: all; on a CPU without "
                        "S4D, whose kernels are made for a GPU)")
    p.add_argument("--batch", type=int, default=1, help="sequences in a step")
    p.add_argument("--steps", type=int, default=3, help="timed steps of each model")
    p.add_argument("--precision", choices=("32", "bf16"), default="32",
                   help="float32, or bfloat16 by autocast")
    p.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    p.add_argument("--threads", type=int, default=0, help="CPU threads (0: as torch likes)")
    p.add_argument("--out", default=str(ROOT / "results/figures"), metavar="DIR",
                   help="where tnn_speed.csv and tnn_speed.svg go")
    args = p.parse_args(argv)
    if args.lengths is not None and not 1 <= min(args.lengths) <= max(args.lengths) <= 16384:
        p.error("--lengths: from 1 to 16384, for which the position encoding is made")
    if args.batch < 1 or args.steps < 1:
        p.error("--batch and --steps must be at least 1")
    if args.models is not None and "transformer" not in args.models:
        p.error("--models: transformer is what the others are compared with")
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.endings import BadInput, orderly_exit
from harness.memory import keep_freed_memory
from tnn.lra.baselines import Transformer
from tnn.lra.model import LraModel
from tnn.lra.recipes import model_arguments, settings_of
from tnn.lra.utils import make_optimizer

VOCABULARY, CLASSES = 135, 2
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION,
            "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}
COLUMNS = ("settings", "model", "length", "batch", "ms_per_step", "steps_per_second",
           "relative_to_transformer", "memory_mib", "attention", "dtype", "device")


def settle(args: argparse.Namespace) -> None:
    """The values that depend on the machine. Raises BadInput."""
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: PyTorch finds no CUDA device here; use --device cpu")
    if args.lengths is None:
        longest = 2048 if args.device == "cpu" else 16384
        args.lengths = [n for n in (512, 1024, 2048, 4096, 8192, 16384) if n <= longest]
    if args.models is None:
        args.models = [m for m in MODELS if m != "S4D" or args.device != "cpu"]


# ---------------------------------------------------------------------------------- the models
def build(name: str, settings: str, device: str) -> torch.nn.Module:
    """A model of that name with the width and depth of the settings."""
    values = settings_of("imdb", settings)
    torch.manual_seed(0)
    if name == "TNN":
        wanted = argparse.Namespace(task="imdb", n_heads=1, position_dropout=0.1,
                                    mask_padding=False, **values)
        model = LraModel(**model_arguments(wanted), classes=CLASSES, vocabulary=VOCABULARY)
    else:
        model = Transformer(values["d_model"], values["n_layers"], CLASSES, VOCABULARY, mixer=name)
    return model.to(device).train()


def attention_backend(device: str, dtype: torch.dtype) -> str:
    """Which kernel scaled_dot_product_attention takes for these sizes: the first one that it is
    able to run, in torch's own order."""
    if device == "cpu":
        return "flash (CPU)"
    q = torch.randn(1, 4, 64, 16, device=device, dtype=dtype)
    for name, backend in BACKENDS.items():
        with contextlib.suppress(RuntimeError), sdpa_kernel(backend):
            F.scaled_dot_product_attention(q, q, q)
            return name
    return "none"


# ---------------------------------------------------------------------------------- the timing
def step(model, optimizer, x, y, lengths, precision: str) -> float:
    """Seconds of one update."""
    device = x.device.type
    start = time.perf_counter()
    autocast = (torch.autocast(device, torch.bfloat16) if precision == "bf16"
                else contextlib.nullcontext())
    with autocast:
        loss = F.cross_entropy(model(x, lengths), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Memory:
    """MiB: on a GPU the most that was allocated during the block, on a CPU what autograd keeps for
    the backward pass (the process's size would depend on what ran before)."""

    def __init__(self, device: str):
        self.cuda, self.kept = device == "cuda", {}

    def __enter__(self):
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def _note(self, tensor):
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter):
            self.kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def __exit__(self, *error):
        self.hooks.__exit__(*error)
        kept = sum(self.kept.values())
        self.mib = (torch.cuda.max_memory_allocated() if self.cuda else kept) / 2**20


def measure(args: argparse.Namespace, settings: str, n: int) -> list[dict]:
    """One row for each model at one length."""
    x = torch.randint(3, VOCABULARY, (args.batch, n), device=args.device)
    y = torch.randint(CLASSES, (args.batch,), device=args.device)
    lengths = torch.full((args.batch,), n, device=args.device)
    seconds, memories, models = {}, {}, {}
    for name in args.models:  # one alone, for its memory; also the warm-up
        model = build(name, settings, args.device)
        optimizer = make_optimizer(model, 1e-3, 0.0)
        with Memory(args.device) as memory:
            try:
                step(model, optimizer, x, y, lengths, args.precision)
            except torch.OutOfMemoryError:
                memories[name] = float("inf")
                continue
        memories[name], models[name], seconds[name] = memory.mib, (model, optimizer), []
    for _ in range(args.steps):
        for name, (model, optimizer) in models.items():
            seconds[name].append(step(model, optimizer, x, y, lengths, args.precision))
    medians = {name: sorted(s)[len(s) // 2] for name, s in seconds.items()}
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    found = []
    for name in args.models:
        s = medians.get(name, float("nan"))
        found.append(dict(zip(COLUMNS, (
            settings, name, n, args.batch, 1000 * s, 1 / s,
            medians.get("transformer", float("nan")) / s, memories[name],
            attention_backend(args.device, dtype), str(dtype).split(".")[1], args.device),
            strict=True)))
    return found


# ---------------------------------------------------------------------------------- the figure
def write_table(rows: list[dict], path: Path) -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
                        for row in rows)


def draw(rows: list[dict], path: Path) -> None:
    """Speed relative to the transformer over the length; the area of a circle is the memory."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    groups = list(dict.fromkeys(row["settings"] for row in rows))
    figure, axes = plt.subplots(1, len(groups), figsize=(5.5 * len(groups), 4), squeeze=False)
    for axis, group in zip(axes[0], groups, strict=True):
        mine = [row for row in rows if row["settings"] == group and row["memory_mib"] < 1e9]
        largest = max(row["memory_mib"] for row in mine)
        for name in dict.fromkeys(row["model"] for row in mine):
            points = [row for row in mine if row["model"] == name]
            n = [row["length"] for row in points]
            speed = [row["relative_to_transformer"] for row in points]
            line, = axis.plot(n, speed, label=name)
            area = [max(300 * row["memory_mib"] / largest, 4) for row in points]
            axis.scatter(n, speed, area, color=line.get_color(), alpha=0.4)
        width = settings_of("imdb", group)
        axis.set(xscale="log", yscale="log", xlabel="sequence length",
                 title=f"{width['n_layers']} x {width['d_model']} ({group} settings)",
                 ylabel="training speed / that of the transformer")
        axis.set_xticks(sorted({row["length"] for row in mine}))
        axis.get_xaxis().set_major_formatter(matplotlib.ticker.ScalarFormatter())
        axis.minorticks_off()
        axis.legend()
    figure.suptitle("Training step on IMDB characters; circles: memory")
    figure.tight_layout()
    figure.savefig(path)


def main(argv: list[str] | None = None) -> list[dict]:
    args = parse_args(argv)
    with orderly_exit("speed_test.py"):
        settle(args)
        if args.threads:
            torch.set_num_threads(args.threads)
        if args.device == "cpu":
            keep_freed_memory()
            torch.set_flush_denormal(True)
        where = (torch.cuda.get_device_name() if args.device == "cuda"
                 else f"CPU, {torch.get_num_threads()} threads")
        print(f"torch {torch.__version__}, {where}, batch {args.batch}, median of {args.steps}")
        rows = []
        for settings in args.settings:
            for n in args.lengths:
                for row in measure(args, settings, n):
                    rows.append(row)
                    print("{settings:6} {model:16} n {length:5}  {ms_per_step:9.1f} ms/step  "
                          "{steps_per_second:8.3f} steps/s  {relative_to_transformer:6.2f} x the "
                          "transformer's speed  {memory_mib:8.0f} MiB  {attention} {dtype}".format(
                              **row), flush=True)
        out = Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        write_table(rows, out / "tnn_speed.csv")
        draw(rows, out / "tnn_speed.svg")
        print(f"{out / 'tnn_speed.csv'}, {out / 'tnn_speed.svg'}")
    return rows


if __name__ == "__main__":
    main()
