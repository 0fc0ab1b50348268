"""Learning curves: which numbers to draw, as SVG (no libraries) or PNG (matplotlib)."""

import math
from html import escape

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
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 240, 50, 14, 14, 36


def curve_metric(steps, metric=None):
    """The curve to draw for some steps: the row's own metric if there is one, else the first."""
    names = sorted(METRICS, key=lambda name: not name.endswith(f"_{metric}"))
    for name in names:
        if any(point.get(name) is not None for step in steps for point in step["curve"]):
            return name
    return None


def series(steps, name):
    """[(step, [(epoch, value), ...])]; a later step continues where the one before it ended."""
    lines, offset = [], 0
    for step in steps:
        points = [(offset + point["epoch"], point[name]) for point in step["curve"]
                  if point.get(name) is not None]
        if points:
            lines.append((step["step"], points))
            offset = points[-1][0]
    return lines


def is_wide(low, high):
    """Whether values span so much that only a logarithmic axis shows the end of training."""
    return low > 0 and high / low > 8


def linear_ticks(low, high, count=5):
    """Round numbers between low and high."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    for factor in (1, 2, 5, 10):
        if (high - low) / (factor * step) <= count:
            step *= factor
            break
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low, high):
    """1, 2, 5, 10, 20 ... between low and high; only powers of ten when that is many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    tens = [tick for tick in ticks if math.log10(tick) % 1 < 1e-9]
    return tens if len(ticks) > 6 and len(tens) > 1 else ticks


def axis(values, start, end, wide=False):
    """(function value -> pixel, ticks) for an axis from pixel start to pixel end."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - max(abs(low), 1) * 0.05, high + max(abs(high), 1) * 0.05
    scale = math.log10 if wide else float
    span = scale(high) - scale(low)

    def place(value):
        return round(start + (scale(value) - scale(low)) / span * (end - start), 1)

    return place, log_ticks(low, high) if wide else linear_ticks(low, high)


def svg(lines, label):
    """One inline SVG picture of series(); scales to the width it is given."""
    xs = [x for _, points in lines for x, _ in points]
    ys = [y for _, points in lines for _, y in points]
    x_at, x_ticks = axis(xs, LEFT, WIDTH - RIGHT)
    y_at, y_ticks = axis(ys, HEIGHT - BOTTOM, TOP, is_wide(min(ys), max(ys)))
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_at(tick)}" '
                     f'y2="{y_at(tick)}"/><text x="{LEFT - 6}" y="{y_at(tick) + 4}" '
                     f'text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        if tick == int(tick):
            parts.append(f'<text x="{x_at(tick)}" y="{HEIGHT - BOTTOM + 18}" '
                         f'text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">epoch</text>')
    for i, (name, points) in enumerate(lines):
        parts += svg_line(name, points, COLORS[i % len(COLORS)], x_at, y_at)
    return "".join(parts) + "</svg>"


def svg_line(name, points, color, x_at, y_at):
    """The strokes of one series; with few points also dots that tell their value."""
    path = " ".join(f"{x_at(x)},{y_at(y)}" for x, y in points)
    yield f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>'
    for x, y in points if len(points) <= 60 else points[-1:]:
        yield (f'<circle cx="{x_at(x)}" cy="{y_at(y)}" r="3" fill="{color}">'
               f"<title>{escape(name)}, epoch {x}: {y:g}</title></circle>")


def save_png(lines, label, title, path):
    """The same picture with matplotlib; the same input gives the same bytes."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for i, (name, points) in enumerate(lines):
        marker = "o" if len(points) < 30 else None
        axes.plot(*zip(*points, strict=True), color=COLORS[i % len(COLORS)], label=name,
                  marker=marker, markersize=4)
    values = [y for _, points in lines for _, y in points]
    if is_wide(min(values), max(values)):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="epoch", ylabel=label, title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)
