"""Runs the grid of Figure 3 (Demeester et al. 2018) and draws it from the recorded runs.

    python figure.py            # what is missing of the grid, one run after another, then the plot
    python figure.py --draw     # the plot alone, from results/records

Test accuracy against the number of embedding parameters, three curves: a dense embedding of some
size; a sparse one of 20 dimensions and the same number of parameters; the same with the vocabulary
the wrong way round, so that frequent words get the short vectors. The published figure is of the
whole Wall Street Journal part of the Penn Treebank, which is not free; here CoNLL-2000 (211,727
tokens of it) stands in. Every run is the published command with another size, order or seed.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORD = [sys.executable, "-m", "report"]
SCRIPT = "sparse_seq/sequence_labeling/main.py"
SETTINGS = ["--nhid", "10", "--epochs", "50", "--dropouti", "0.2", "--wdrop", "0.2",
            "--data", "data/pos/conll2000"]
WIDEST = 20
KINDS = {"dense": "dense", "sparse": "sparse, 20 dimensions",
         "down": "sparse, 20 dimensions, order reversed"}
SHRUNK = "CoNLL-2000 instead of the whole Wall Street Journal part; published hyperparameters"
OUTPUT = ROOT / "results" / "figures" / "sparse-pos-figure3.png"


def row(kind: str) -> str:
    return f"sparse-pos-{kind}-conll2000"


def grid(sizes: list[int], seeds: int, sweep_seeds: int) -> list[tuple[str, int, int]]:
    """(kind, mean embedding size, seed), the published size 5 first. At 20 all three are dense."""
    first = [(kind, 5, seed) for seed in range(1, seeds + 1) for kind in KINDS]
    rest = [(kind, size, seed) for seed in range(1, sweep_seeds + 1) for size in sizes
            for kind in KINDS if size != 5 and (size < WIDEST or kind == "dense")]
    return [*first, *rest]


def command(kind: str, size: int, seed: int) -> list[str]:
    """The published command line, for a size and a seed."""
    if kind == "dense":
        own = ["--emsize", str(size)]
    else:
        own = ["--emsize", str(WIDEST), "--emb_density", f"{size / WIDEST:g}",
               "--emb_blocks", str(WIDEST)]
        own += ["--vocab_order", "down"] if kind == "down" else []
    return [SCRIPT, *own, *SETTINGS, "--seed", str(seed), "--save", f"size{size}-seed{seed}",
            "--log-dir", "metrics"]


def run_grid(points: list[tuple[str, int, int]]) -> None:
    """Runs and records what is not done yet. Ends the process where a run fails."""
    for kind, size, seed in points:
        name = f"size{size}-seed{seed}"
        done = subprocess.run(
            [*RECORD, "run", row(kind), name, "--like", f"sparse-pos-{kind}", "--shrunk", SHRUNK,
             "--resume-flag=--resume", "--resume-if", f"{name}/state.pt", "--",
             *command(kind, size, seed)], cwd=ROOT, check=False)
        if done.returncode:
            sys.exit(done.returncode)
    for kind in KINDS:
        if any(point[0] == kind for point in points):
            subprocess.run([*RECORD, "finish", row(kind)], cwd=ROOT, check=True)


def recorded() -> dict[str, dict[int, list[float]]]:
    """{kind: {mean size: test accuracies, one per seed}} of the newest record of each kind."""
    found = {}
    for kind in KINDS:
        paths = sorted((ROOT / "results" / "records" / row(kind)).glob("*.json"),
                       key=lambda path: json.loads(path.read_text())["date"])
        points = defaultdict(list)
        for step in json.loads(paths[-1].read_text())["steps"] if paths else []:
            size = int(re.match(r"size(\d+)-", step["step"])[1])
            points[size].append(step["final"]["test_acc"])
        found[kind] = dict(sorted(points.items()))
    for kind in ("sparse", "down"):  # at full density there is nothing sparse
        if found[kind] and WIDEST in found["dense"]:
            found[kind][WIDEST] = found["dense"][WIDEST]
    return found


def draw(points: dict[str, dict[int, list[float]]], words: int, path: Path) -> None:
    """The plot: mean over seeds, every single run as a dot."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    for (kind, label), color in zip(KINDS.items(), ("#1f66d0", "#c2570c", "#23804a"), strict=True):
        sizes = list(points[kind])
        axes.plot([words * s / 1000 for s in sizes],
                  [statistics.mean(points[kind][s]) for s in sizes], color=color, label=label)
        for size in sizes:
            axes.plot([words * size / 1000] * len(points[kind][size]), points[kind][size], ".",
                      color=color)
    axes.set(xlabel="embedding parameters (thousands)", ylabel="test accuracy, %",
             title="CoNLL-2000 tagging, BiLSTM 10+10, 50 epochs")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def table(points: dict[str, dict[int, list[float]]]) -> str:
    """Mean (and deviation over seeds) per size and kind."""
    sizes = sorted({size for kind in points.values() for size in kind})
    lines = ["| mean size | " + " | ".join(KINDS.values()) + " |",
             "| ---: |" + " --- |" * len(KINDS)]
    for size in sizes:
        cells = []
        for kind in KINDS:
            values = points[kind].get(size, [])
            text = f"{statistics.mean(values):.2f}" if values else "-"
            if len(values) > 1:
                text += f" +- {statistics.stdev(values):.2f} ({len(values)})"
            cells.append(text)
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--draw", action="store_true", help="only draw what is recorded")
    p.add_argument("--sizes", type=int, nargs="+", default=[2, 3, 4, 5, 10, 20],
                   help="mean embedding sizes")
    p.add_argument("--seeds", type=int, default=3, help="runs at size 5")
    p.add_argument("--sweep-seeds", type=int, default=3, help="runs at the other sizes")
    p.add_argument("--words", type=int, default=18131, help="size of the vocabulary, for the axis")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if not args.draw:
        run_grid(grid(args.sizes, args.seeds, args.sweep_seeds))
    points = recorded()
    if not any(points.values()):
        sys.exit("figure.py: no recorded run; without --draw they are made (some hours)")
    draw(points, args.words, OUTPUT)
    print(f"{table(points)}\n{OUTPUT}")


if __name__ == "__main__":
    main()
