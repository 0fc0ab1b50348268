"""Tables and plots of ablation.py's runs, from what `python -m report run` wrote about them."""

import csv
import statistics
from pathlib import Path

from report import provenance
from report.finish_row import scrubbed
from report.json_files import read_json, write_json
from report.records import is_noise

KEPT = ("step", "command", "commit", "dirty", "seed", "date", "versions", "hardware", "threads",
        "wall_seconds", "curve", "final")
COLORS = ("#1f66d0", "#c2570c", "#23804a", "#8a3ffc", "#b3261e", "#5f6368")


def collect(folder: Path, out: Path, names: list[str]) -> dict[str, dict]:
    """What is worth keeping of every finished run, by name; also written to out/runs.json."""
    records = {name: read_json(folder / f"{name}.json") for name in names}
    found = {name: scrubbed({key: record[key] for key in KEPT})
             for name, record in records.items() if record}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "runs.json", list(found.values()))
    return found


def value_at(run: dict, epoch: int, name: str = "valid_ppl") -> float:
    """A number of an epoch's end."""
    return next(point[name] for point in run["curve"] if point["epoch"] == epoch)


def last(run: dict, name: str = "valid_ppl") -> float:
    return run["curve"][-1][name]


def heading(title: str, runs: dict[str, dict], command: str, text: str) -> list[str]:
    some = next(iter(runs.values()))
    minutes = sum(run["wall_seconds"] for run in runs.values()) / 60
    return [f"# {title}", "", f"Written by `{command}`; numbers: [runs.json](runs.json). "
            f"{provenance.describe(some['hardware'])}, {some['threads']} thread, torch "
            f"{some['versions']['torch']}, {minutes:.0f} minutes in all.", "", text, ""]


def table(heads: list[str], rows: list[list]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines] + [""]


# ---------------------------------------------------------------------------------------- causes
def causes(folder: Path, out: Path, variants, more) -> None:
    """out/README.md and out/causes.png about the runs of `variants` and `more`: (name, flags, what
    it shows)."""
    runs = collect(folder, out, [name for name, _, _ in (*variants, *more)])
    variants = [variant for variant in variants if variant[0] in runs]
    more = [variant for variant in more if variant[0] in runs]
    papers = [last(run) for name, run in runs.items() if name.startswith("paper")]
    mean = statistics.mean(papers)
    lines = heading(
        "What explains the published 91.0", runs, "make reproduce-awd-scratch-ablation",
        "A slice of the Penn Treebank and a small model: these numbers rank causes, they are not "
        "those of the full task. Validation perplexity after some epochs, perplexity on training "
        "text (without dropout) at the end, and the difference to the mean of the paper's recipe "
        f"over three seeds, {mean:.1f}. Those three differ by {max(papers) - min(papers):.1f}, so "
        "a difference of that size says nothing.")
    lines += causes_table(runs, variants, mean)
    lines += ["On top of the paper's recipe (first row):", ""]
    lines += table(["run", "flags", "validation", "test"],
                   [[what, f"`{flags}`" if flags else "", f"{runs[name]['final']['valid_ppl']:.1f}",
                     f"{runs[name]['final']['test_ppl']:.1f}"]
                    for name, flags, what in (variants[0], *more)])
    lines += ["![learning curves](causes.png)", ""]
    (out / "README.md").write_text("\n".join(lines))
    draw_causes(runs, variants, out / "causes.png")
    print(f"{out / 'README.md'}: {len(runs)} runs")


def causes_table(runs: dict, variants, mean: float) -> list[str]:
    curve = runs[variants[0][0]]["curve"]
    epochs = dict.fromkeys(curve[k]["epoch"] for k in (0, (len(curve) - 1) // 2, -1))
    rows = []
    for name, flags, what in variants:
        run = runs[name]
        rows.append([what, f"`{flags}`" if flags else "", f"{run['final']['params']:,}",
                     *(f"{value_at(run, epoch):.1f}" for epoch in epochs),
                     f"{last(run, 'train_ppl'):.1f}", f"{last(run) - mean:+.1f}"])
    heads = [f"epoch {epoch}" for epoch in epochs]
    return table(["run", "flags", "parameters", *heads, "train", "difference"], rows)


def draw_causes(runs: dict, variants, path: Path) -> None:
    """Left the curves of a few, right the last value of all."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    shown = ("paper", "lr0.4", "untied", "tied-normal", "published", "published-lr30")
    for name, color in zip(shown, COLORS, strict=True):
        if name not in runs:
            continue
        curve = runs[name]["curve"]
        left.plot([point["epoch"] for point in curve], [point["valid_ppl"] for point in curve],
                  color=color, label=name, marker="o", markersize=3)
    left.set(xlabel="epoch", ylabel="validation perplexity", yscale="log")
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("{x:g}")
    left.legend(frameon=False)
    left.grid(alpha=0.3, which="both")
    names = [name for name, _, _ in variants][::-1]
    values = [last(runs[name]) for name in names]
    bars = right.barh(names, values, color=[COLORS[0] if name.startswith("paper") else COLORS[5]
                                            for name in names])
    right.bar_label(bars, fmt="%.0f", padding=3)
    right.set(xlabel="validation perplexity after the last epoch", xlim=(0, max(values) * 1.12))
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


# ---------------------------------------------------------------------------------------- parity
def parity(folder: Path, out: Path, seeds) -> None:
    """out/README.md: this directory beside awd_lstm/main.py."""
    runs = collect(folder, out, [f"{kind}-{seed}" for kind in KINDS for seed in seeds])
    rows, toolkit = [], []
    for kind, what in KINDS.items():
        values = [last(runs[f"{kind}-{seed}"]) for seed in seeds if f"{kind}-{seed}" in runs]
        if len(values) < len(seeds):
            continue
        toolkit = toolkit or values
        rows.append([what, *(f"{v:.2f}" for v in values), f"{statistics.mean(values):.2f}",
                     difference(values, toolkit)])
    lines = heading("The readable AWD-LSTM beside awd_lstm/main.py", runs,
                 "make reproduce-awd-scratch-parity",
                 "Same settings, a slice of the Penn Treebank, all dropouts on, two epochs; "
                 "validation perplexity after the last. The twin (twin.py) starts from the "
                 "toolkit's weights and draws its masks: what is left is a difference in rounding. "
                 "Left to itself (if there is such a row), with weights and masks of its own, it "
                 "differs by chance, as the seeds do among themselves. +- is the standard error "
                 "of the difference.")
    lines += table(["", *(f"seed {seed}" for seed in seeds), "mean", "difference to the toolkit"],
                   rows)
    command = runs[f"toolkit-{seeds[0]}"]["command"]
    lines += [f"The toolkit's command: `{' '.join(command)}`", ""]
    (out / "README.md").write_text("\n".join(lines))
    print("\n".join(table(["", *seeds, "mean", ""], rows)))


def difference(values: list[float], toolkit: list[float]) -> str:
    """'-4.5 +- 8.3: noise' for the means of two sets of seeds."""
    gap = statistics.mean(values) - statistics.mean(toolkit)
    if values == toolkit:
        return "0"
    error = (statistics.variance(values) / len(values)
             + statistics.variance(toolkit) / len(toolkit)) ** 0.5
    return f"{gap:+.1f} +- {error:.1f}{': noise' if is_noise(values, toolkit) else ''}"


KINDS = {"toolkit": "awd_lstm/main.py (nn.LSTM)", "twin": "scratch, same weights and masks",
         "scratch": "scratch, left to itself"}


# ------------------------------------------------------------------------------ published curves
def curves(table_path: Path, records: Path, path: Path) -> None:
    """The published code's validation perplexity over its 500 epochs, and that of every recorded
    run of the row awd-scratch-ptb."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    with table_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name, label, color in (("val_ppl_tied", "published code, tied", COLORS[5]),
                               ("val_ppl", "published code (91.0)", COLORS[1])):
        axes.plot([int(row["epoch"]) for row in rows], [float(row[name]) for row in rows],
                  color=color, label=label)
    for number, file in enumerate(sorted(records.glob("*.json"))):
        for step in read_json(file)["steps"]:
            if step["step"] == "main":
                axes.plot([point["epoch"] for point in step["curve"]],
                          [point["valid_ppl"] for point in step["curve"]], color=COLORS[0],
                          linestyle=("-", "--", ":")[number % 3], label=f"ours, {file.stem}")
    axes.axhline(61.2, color=COLORS[2], linewidth=1, label="authors (61.2)")
    axes.set(xlabel="epoch", ylabel="validation perplexity, Penn Treebank", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    print(path)
