"""Learning curves: which numbers to draw, and the pictures, by matplotlib, as SVG."""

import base64
import hashlib
import html
import io
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from report.json_files import write_text
from report.records import groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# name in a step's curve -> how to call it; the order is the order of preference
METRICS = {
    "valid_ppl": "validation perplexity",
    "valid_bpc": "validation bits per character",
    "valid_acc": "validation accuracy, %",
    "test_acc": "test accuracy, %",
    "train_acc": "training accuracy, %",
    "valid_loss": "validation loss, nats",
    "test_loss": "test loss, nats",
    "train_loss": "training loss, nats",
}
# All have a contrast of 3 and more on white and on the page's dark cards (tested).
COLORS = ("#3d85d8", "#c96a1e", "#2f9960", "#9a6bff")
GREY = "#808890"
STYLES = ("-", "--", ":")  # for more lines than colours
DRAWN_BY = 5  # of what draws: a new number draws all committed figures again


class Line(NamedTuple):
    """A curve. band: standard deviation over seeds at each point, if it is a mean. look: number of
    its colour and of its style, where they are not given in turn."""

    label: str
    points: list[tuple[float, float]]
    band: list[float] | None = None
    look: tuple[int, int] | None = None


def curve_metric(steps: list[dict], metric: str | None = None) -> str | None:
    """The curve to draw for some steps: the row's own metric if there is one, else the first."""
    names = sorted(METRICS, key=lambda name: not name.endswith(f"_{metric}"))
    for name in names:
        if any(point.get(name) is not None for step in steps for point in step["curve"]):
            return name
    return None


def series(steps: list[dict], name: str) -> list[Line]:
    """The lines to draw. Fine-tuning continues the training before it; every other step begins at
    0, and steps that differ by their seed are one line: their mean. Of a run recorded at several of
    its epochs the longest line is drawn, which holds the others."""
    lines, end = [], 0.0
    for label, alike in groups(steps).items():
        curves = [[(point["epoch"], point[name]) for point in step["curve"]
                   if point.get(name) is not None] for step in alike]
        curves = [points for points in curves if points]
        if not curves:
            continue
        line = mean_of(label, curves)
        if label == "finetune" and lines:
            start = lines[-1].points[-1]
            line = line._replace(points=[start, *((end + x, y) for x, y in line.points)])
        end = line.points[-1][0]
        lines.append(line)
    return [line for line in lines if not any(is_beginning(line, other) for other in lines)]


def is_beginning(line: Line, other: Line) -> bool:
    """Does the other line go on from the end of this one?"""
    count = len(line.points)
    return count < len(other.points) and other.points[:count] == line.points


def mean_of(label: str, curves: list[list[tuple[float, float]]]) -> Line:
    """One line for the curves of several seeds, as far as all of them go."""
    if len(curves) == 1:
        return Line(label, curves[0])
    columns = list(zip(*curves, strict=False))
    points = [(column[0][0], statistics.mean(y for _, y in column)) for column in columns]
    return Line(f"{label}, {len(curves)} seeds", points,
                [statistics.stdev(y for _, y in column) for column in columns])


def is_curve(lines: list[Line]) -> bool:
    """Is there more than one point to draw?"""
    return any(len(line.points) > 1 for line in lines)


def needs_log_axis(label: str, values: list[float]) -> bool:
    """Do values span so much that only a logarithmic axis shows the end of training? Accuracies
    are on linear axes always."""
    return "%" not in label and min(values) > 0 and max(values) / min(values) > 8


def draw(axes: "Axes", lines: list[Line], label: str, xlabel: str = "epoch") -> None:
    """Draws the lines, names the axes, gives each at least three ticks."""
    for i, line in enumerate(lines):
        number, style = line.look or (i, i // len(COLORS))
        color = COLORS[number % len(COLORS)]
        xs, ys = zip(*line.points, strict=True)
        marker = "o" if len(xs) < 30 else None
        axes.plot(xs, ys, STYLES[style % len(STYLES)], color=color, label=line.label,
                  marker=marker, markersize=4)
        if line.band:
            axes.fill_between(xs, [y - s for y, s in zip(ys, line.band, strict=True)],
                              [y + s for y, s in zip(ys, line.band, strict=True)],
                              color=color, alpha=0.2, linewidth=0)
    finish(axes, label, xlabel, [y for line in lines for _, y in line.points])
    if len(lines) > 1:
        axes.legend(frameon=False)


def finish(axes: "Axes", label: str, xlabel: str, values: list[float]) -> None:
    """Titles, grid and ticks of axes that show `values`."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    if needs_log_axis(label, values):
        axes.set_yscale("log")
        subs = (1, 2, 5) if max(values) / min(values) > 50 else (1, 1.5, 2, 3, 5, 7)
        axes.yaxis.set_major_locator(LogLocator(10, subs=subs))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, min_n_ticks=3))
    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=xlabel in ("epoch", "updates"),
                                                 min_n_ticks=3))
    axes.set(xlabel=xlabel, ylabel=label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def picture(lines: list[Line], label: str, xlabel: str = "epoch",
            size: tuple[float, float] = (6.4, 3.6)) -> "Figure":
    """A figure of series()."""
    from matplotlib.figure import Figure  # slow to import: not where nothing is drawn

    figure = Figure(figsize=size, layout="constrained")
    draw(figure.subplots(), lines, label, xlabel)
    return figure


def svg(build: Callable[[], "Figure"], transparent: bool = False, description: str = "") -> str:
    """The figure as SVG text; the same input and matplotlib give the same text."""
    from matplotlib import rc_context

    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color",
                         "ytick.color", "grid.color"), GREY) if transparent else {}
    file = io.StringIO()
    # svg.fonttype none: text stays text, in the reader's font; the salt makes the ids repeatable
    with rc_context({**ink, "svg.fonttype": "none", "svg.hashsalt": "report",
                     "font.family": "sans-serif",
                     "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"]}):
        build().savefig(file, format="svg", transparent=transparent,
                        metadata={"Date": None, "Creator": None, "Description": description})
    return file.getvalue()


def save_svg(path: Path, build: Callable[[], "Figure"], inputs: Any) -> None:
    """Writes the figure unless the file is of the same inputs: another matplotlib, which would
    draw other bytes, changes nothing in a clean tree."""
    text = json.dumps([DRAWN_BY, inputs], sort_keys=True, default=str)
    mark = f"inputs {hashlib.sha256(text.encode()).hexdigest()}"
    if path.is_file() and mark in path.read_text(encoding="utf-8"):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, svg(build, description=html.escape(mark)))


def svg_address(build: Callable[[], "Figure"]) -> str:
    """The figure as a data: address, for a page that refers to no other file."""
    text = svg(build, transparent=True)
    return f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"
