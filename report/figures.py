"""The figures in results/figures: a learning curve of each recorded run, and those that put ours
beside what was published or measured by others. Committed data in, SVG out.

    python -m report        draws what has changed
"""

import csv
import re
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from report import plots, published, records
from report.plots import COLORS, GREY, Line
from report.published import Line as Published
from report.records import Draws, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POS = {"sparse-pos-dense": "dense embedding", "sparse-pos-sparse": "sparse, as many parameters",
       "sparse-pos-down": "sparse, vocabulary reversed"}
POS_WORDS = 18131  # CoNLL-2000's vocabulary: parameters = words x mean size


class Shown(NamedTuple):
    """A figure: its file below results/, and what it shows, in a sentence."""

    file: str
    caption: str

    def markdown(self) -> list[str]:
        """Image, text alternative and caption."""
        plain = re.sub(r"[`\[\]]", "", self.caption)
        return [f"![{plain}]({self.file})", "", f"*{self.caption}*", ""]


def rows_of(path: Path) -> list[dict[str, str]]:
    """A CSV file; empty if it is not there."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------ recorded runs
def of_records(found: list[Record], lines: list[Published], results: Path) -> dict[str, Shown]:
    """{path of a record: its learning curve}; none of a run that has but one point. Of several runs
    of a row the newest is drawn."""
    shown = {}
    for record in records.newest(found):
        row = record["row"]
        metric = published.first_metric(lines, published.like(row, record["steps"][0]["like"]))
        name = plots.curve_metric(record["steps"], metric)
        drawn = plots.series(record["steps"], name) if name else []
        if not plots.is_curve(drawn):
            continue
        file = f"figures/{row}.svg"
        label = plots.METRICS[name]
        plots.save_svg(results / file, lambda d=drawn, x=label: plots.picture(d, x),
                       [label, [(line.label, line.points, line.band) for line in drawn]])
        shown[record["path"]] = Shown(file, caption_of(record, label, drawn))
    return shown


def caption_of(record: Record, label: str, drawn: list[Line]) -> str:
    """What a learning curve shows: the run, the first and the last value of its first line."""
    first = drawn[0].points
    what = record["steps"][0].get("shrunk") or record["steps"][0].get("changed")
    size = f" ({what})" if what else ""
    return (f"`{record['row']}`{size}: {label}, {first[0][1]:.4g} after epoch {first[0][0]:g}, "
            f"{first[-1][1]:.4g} after {first[-1][0]:g}"
            f"{'; the mean of the seeds, shaded by their deviation' if drawn[0].band else ''}.")


def beginnings(found: list[Record], row: str, bf16: bool = False) -> list[tuple[int, float, str]]:
    """[(epoch, test perplexity, record)] of a row's first epochs at full size, in float32 or in
    bfloat16; each epoch's own closing test."""
    points = []
    for record in records.newest(found):
        if records.beginning_of(record) != row or records.in_bf16(record) != bf16:
            continue
        for step in record["steps"]:
            if step["curve"] and step["final"].get("test_ppl"):
                points.append((step["curve"][-1]["epoch"], step["final"]["test_ppl"],
                               record["row"]))
    return sorted(points)


# ------------------------------------------------------------------ ours beside what others have
def outsiders_ptb(results: Path, layers: int = 3) -> dict[int, float]:
    """{epoch: test perplexity} of an outsider's run of the published command, or of the same with
    fewer layers."""
    return {int(line["epoch"]): float(line["test_ppl"])
            for line in rows_of(results / "others" / "adabelief_sgd.csv")
            if line["layers"] == str(layers) and int(line["epoch"]) < 100}


def ptb_beside_others(axes: "Axes", found: list[Record], results: Path) -> None:
    """Test perplexity by epoch of the published command: an outsider's log, our first epochs."""
    by_epoch(axes, outsiders_ptb(results))
    for bf16, label, marker, color in ((False, "ours", "o", COLORS[1]),
                                       (True, "ours, in bfloat16", "x", COLORS[0])):
        points = beginnings(found, "awd-ptb", bf16)
        if points:
            axes.plot([p[0] for p in points], [p[1] for p in points], marker, color=color,
                      markersize=6, label=label, zorder=3)
    axes.axhline(58.8, color=COLORS[2], linewidth=1, linestyle="--", label="published, at the end")
    axes.legend(frameon=False)


def one_layer_beside_others(axes: "Axes", found: list[Record], results: Path) -> None:
    """The same for one layer, of which we have several seeds."""
    by_epoch(axes, outsiders_ptb(results, 1))
    ours = one_layer(found)
    axes.errorbar(list(ours), [draws.mean for draws in ours.values()],
                  [draws.deviation for draws in ours.values()], fmt="o", color=COLORS[1],
                  markersize=5, capsize=3, label="ours, mean and deviation of the seeds", zorder=3)
    axes.legend(frameon=False)


def by_epoch(axes: "Axes", others: dict[int, float]) -> None:
    """An outsider's log, on a logarithmic axis of epochs."""
    axes.plot(*zip(*others.items(), strict=True), color=GREY,
              label="an outsider's log of the original")
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    plots.finish(axes, "test perplexity", "epoch (of 500)", [58.8, 600])


def one_layer(found: list[Record]) -> dict[int, Draws]:
    """{epoch: test perplexities of the seeds} of awd-ptb-layer1, each epoch's own closing test."""
    epochs: dict[int, list[float]] = {}
    for record in records.newest(found):
        for step in record["steps"] if record["row"] == "awd-ptb-layer1" else ():
            if step["curve"] and (value := step["final"].get("test_ppl")):
                epochs.setdefault(step["curve"][-1]["epoch"], []).append(value)
    return {epoch: Draws(values) for epoch, values in sorted(epochs.items())}


def wt2_by_others(axes: "Axes", results: Path) -> None:
    """Validation perplexity by epoch of another implementation, for whoever runs awd-wt2."""
    for model, color in (("1150", COLORS[0]), ("600", COLORS[1])):
        points = [(int(line["epoch"]), float(line["valid_ppl"]))
                  for line in rows_of(results / "others" / "gluon_wt2.csv")
                  if line["model"] == model]
        axes.plot(*zip(*points, strict=True), color=color, label=f"gluon-nlp, 3 x {model}")
    axes.axhline(68.7, color=COLORS[2], linewidth=1, linestyle="--", label="published (68.7)")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    plots.finish(axes, "validation perplexity", "epoch (of 750)", [60, 700])
    axes.legend(frameon=False)


def figure_three(axes: "Axes", found: list[Record]) -> None:
    """Demeester et al., Figure 3, on CoNLL-2000: accuracy against embedding parameters."""
    newest = {record["row"]: record for record in found}
    widest = None
    for (row, label), color in zip(POS.items(), COLORS, strict=False):
        record = newest.get(f"{row}-conll2000")
        if record is None:
            continue
        sizes = {int(name.removeprefix("size")): records.draws(steps, "test_acc")
                 for name, steps in records.groups(record["steps"]).items()}
        widest = widest or sizes.get(20)  # at full density there is nothing sparse
        if widest:
            sizes[20] = widest
        xs = sorted(sizes)
        axes.errorbar([POS_WORDS * x / 1000 for x in xs], [sizes[x].mean for x in xs],
                      [sizes[x].deviation for x in xs], color=color, label=label, marker="o",
                      markersize=4, capsize=3)
    axes.set_xscale("log")
    axes.set_xticks([50, 100, 200, 300])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    plots.finish(axes, "test accuracy, %", "embedding parameters, thousands", [50, 95])
    axes.set_ylim(30, 98)
    axes.legend(frameon=False, loc="lower right")


def speed_by_length(axes: "Axes", results: Path) -> None:
    """Training steps a second against the length, of tnn_speed.csv, the experiment file's sizes."""
    for model, color in (("TNN", COLORS[0]), ("transformer", COLORS[1]),
                         ("linear attention", GREY)):
        points = [(int(line["length"]), float(line["steps_per_second"]))
                  for line in rows_of(results / "figures" / "tnn_speed.csv")
                  if line["model"] == model and line["settings"] == "yaml"]
        axes.plot(*zip(*points, strict=True), color=color, label=model, marker="o", markersize=4)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    plots.finish(axes, "training steps a second", "length, tokens", [0.2, 50])
    axes.legend(frameon=False)


def single(draw: Callable[["Axes"], None]) -> "Figure":
    """A figure of one drawing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    draw(figure.subplots())
    return figure


def front(found: list[Record], results: Path) -> "Figure":
    """The README's picture: the three drawings side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.7), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    ptb_beside_others(left, found, results)
    left.set_title("AWD-LSTM, Penn Treebank, full size", fontsize=11)
    figure_three(middle, found)
    middle.set_title("Predefined sparseness: Figure 3 redrawn", fontsize=11)
    speed_by_length(right, results)
    right.set_title("TNN against length, one CPU core", fontsize=11)
    return figure


def ours_at_the_beginning(found: list[Record], results: Path) -> str:
    """'ours (epoch 1: 325.41 and 340.06, theirs 337.22). ...': the test perplexities of our first
    epochs, and how far the last one is from theirs."""
    epochs: dict[int, list[float]] = {}
    for epoch, value, _ in beginnings(found, "awd-ptb"):
        epochs.setdefault(epoch, []).append(value)
    rounded = [f"{value:.2f} after epoch {epoch}"
               for epoch, value, _ in beginnings(found, "awd-ptb", bf16=True)]
    return compared({epoch: (" and ".join(f"{x:.2f}" for x in values), statistics.mean(values))
                     for epoch, values in epochs.items()}, outsiders_ptb(results)) + (
        f" In bfloat16: {', '.join(rounded)}." if rounded else "")


def compared(ours: dict[int, tuple[str, float]], theirs: dict[int, float]) -> str:
    """ours: {epoch: (as written, mean)}."""
    both = [epoch for epoch in ours if epoch in theirs]
    if not both:
        return "ours."
    text = "; ".join(f"epoch {epoch}: {ours[epoch][0]}, theirs {theirs[epoch]:.2f}"
                     for epoch in both)
    more = 100 * (ours[both[-1]][1] / theirs[both[-1]] - 1)
    last = (f" After epoch {both[-1]} ours is {abs(more):.0f} % {'below' if more < 0 else 'above'} "
            "theirs, which is not explained." if abs(more) > 3 else "")
    return f"ours ({text}).{last}"


def beside_others(found: list[Record], results: Path) -> Iterator[tuple[str, Shown]]:
    """(name, figure) of the figures of several runs, as far as their data are there; draws them."""
    pos = [record for record in found if record["row"] in {f"{row}-conll2000" for row in POS}]
    tables = {name: rows_of(results / name) for name in (
        "others/adabelief_sgd.csv", "others/gluon_wt2.csv", "figures/tnn_speed.csv")}
    begun = beginnings(found, "awd-ptb") + beginnings(found, "awd-ptb", bf16=True)
    kinds = {
        "ptb": ([begun, tables["others/adabelief_sgd.csv"]],
                lambda: single(lambda axes: ptb_beside_others(axes, found, results)),
                "AWD-LSTM on the Penn Treebank with the published command, test perplexity: an "
                "outsider's log of the original (before its switch to averaging) and "
                f"{ours_at_the_beginning(found, results)} At the first epoch a few per cent say "
                "nothing: our two runs of the same command and seed, with one thread and with two, "
                "differ by as much."),
        "layer1": ([one_layer(found), tables["others/adabelief_sgd.csv"]],
                   lambda: single(lambda axes: one_layer_beside_others(axes, found, results)),
                   "The same command with `--nlayers 1`, test perplexity: the outsider's log and "
                   + compared({epoch: (draws.write("ppl"), draws.mean)
                               for epoch, draws in one_layer(found).items()},
                              outsiders_ptb(results, 1))),
        "wt2": ([tables["others/gluon_wt2.csv"]],
                lambda: single(lambda axes: wt2_by_others(axes, results)),
                "WikiText-2, validation perplexity of another implementation (gluon-nlp): how a "
                "healthy run of awd-wt2 looks. None of it is ours."),
        "figure3": ([pos],
                    lambda: single(lambda axes: figure_three(axes, found)),
                    "Figure 3 of Demeester et al. redrawn on CoNLL-2000 (a fifth of the published "
                    "text): test accuracy against embedding parameters; three seeds at size 5 "
                    "(bars: their standard deviation), one elsewhere."),
        "length": ([tables["figures/tnn_speed.csv"]],
                   lambda: single(lambda axes: speed_by_length(axes, results)),
                   "Training steps a second of the Long Range Arena's text model against the "
                   "length, on one CPU core, batch 1: at 8192 tokens TNN is 15.7 times as fast as "
                   "the transformer. The paper's Figure 1 is of a GPU."),
    }
    for name, (inputs, build, caption) in kinds.items():
        if all(inputs):
            file = f"figures/{name}.svg"
            plots.save_svg(results / file, build, inputs)
            yield name, Shown(file, caption)
    if begun and pos and all(tables.values()):
        plots.save_svg(results / "figures" / "front.svg", lambda: front(found, results),
                       [begun, pos, tables])
