"""Learning curves: which numbers to draw, and the picture, by matplotlib."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# name in a step's curve -> how to call it; the order is the order of preference
METRICS = {
    "valid_ppl": "validation perplexity",
    "valid_bpc": "validation bits per character",
    "valid_acc": "validation accuracy, %",
    "test_acc": "test accuracy, %",
    "train_acc": "training accuracy, %",
    "valid_loss": "validation loss",
    "test_loss": "test loss",
    "train_loss": "training loss",
}
COLORS = ("#1f66d0", "#c2570c", "#23804a", "#8a3ffc")
GREY = "#808890"  # readable on white and on black

Line = tuple[str, list[tuple[float, float]]]  # (step, [(epoch, value), ...])


def curve_metric(steps: list[dict], metric: str | None = None) -> str | None:
    """The curve to draw for some steps: the row's own metric if there is one, else the first."""
    names = sorted(METRICS, key=lambda name: not name.endswith(f"_{metric}"))
    for name in names:
        if any(point.get(name) is not None for step in steps for point in step["curve"]):
            return name
    return None


def series(steps: list[dict], name: str) -> list[Line]:
    """The lines to draw; a later step continues where the one before it ended."""
    lines, offset = [], 0
    for step in steps:
        points = [(offset + point["epoch"], point[name]) for point in step["curve"]
                  if point.get(name) is not None]
        if points:
            lines.append((step["step"], points))
            offset = points[-1][0]
    return lines


def needs_log_axis(values: list[float]) -> bool:
    """Do values span so much that only a logarithmic axis shows the end of training?"""
    return min(values) > 0 and max(values) / min(values) > 8


def picture(lines: list[Line], label: str, title: str | None = None) -> "Figure":
    """A figure of series()."""
    from matplotlib.figure import Figure  # slow to import: not where nothing is drawn

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for i, (name, points) in enumerate(lines):
        marker = "o" if len(points) < 30 else None
        axes.plot(*zip(*points, strict=True), color=COLORS[i % len(COLORS)], label=name,
                  marker=marker, markersize=4)
    if needs_log_axis([y for _, points in lines for _, y in points]):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="epoch", ylabel=label, title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def save_png(lines: list[Line], label: str, title: str, path: Path) -> None:
    """The picture as a file; the same input gives the same bytes."""
    picture(lines, label, title).savefig(path, dpi=120, metadata={"Software": None})


def svg_address(lines: list[Line], label: str) -> str:
    """The picture as a data: address, for a page that refers to no other file."""
    from matplotlib import rc_context

    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color",
                         "ytick.color", "grid.color"), GREY)
    file = io.BytesIO()
    # svg.fonttype none: text stays text, in the reader's font; the salt makes the ids repeatable
    with rc_context({**ink, "svg.fonttype": "none", "svg.hashsalt": "report"}):
        picture(lines, label).savefig(file, format="svg", transparent=True,
                                      metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
