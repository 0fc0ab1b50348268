"""Draws architecture.png: the layer, its token mixer, and the Toeplitz operator within it.

    python tnn/lm/figure.py
"""

import argparse
from itertools import pairwise
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "architecture.png",
                   metavar="PNG", help="file to write (tnn/architecture.png)")
    return p.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before matplotlib is imported

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.patches import FancyBboxPatch

PLAIN, MIXER, OPERATOR, NORM = "#f4f4f4", "#dce8fa", "#fbe3d3", "#e2f1e4"


def box(axes, x, y, text, color=PLAIN, width=1.7, height=0.5):
    """A rounded box with its centre at (x, y)."""
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, linewidth=1,
                                  boxstyle="round,pad=0,rounding_size=0.08", facecolor=color,
                                  edgecolor="#444444"))
    axes.text(x, y, text, ha="center", va="center", fontsize=9)


def sign(axes, x, y, text):
    axes.text(x, y, text, ha="center", va="center", fontsize=11,
              bbox=dict(boxstyle="circle,pad=0.15", facecolor="white", edgecolor="#444444"))


def arrow(axes, *points):
    """Along straight lines; the head is at the last point."""
    for (x, y), (x2, y2) in pairwise(points[:-1]):
        axes.plot([x, x2], [y, y2], color="#444444", linewidth=1)
    axes.annotate("", points[-1], points[-2],
                  arrowprops=dict(arrowstyle="->", color="#444444", linewidth=1))


def layer(axes):
    """x + GTU(norm x), then x + GLU(norm x)."""
    axes.set_title("layer (pre-norm)", fontsize=10)
    for base, text, color in ((0.9, "gated Toeplitz unit", MIXER), (3.6, "GLU", PLAIN)):
        box(axes, 0, base, "norm", NORM, 1.0)
        box(axes, 0, base + 0.9, text, color, 2.0)
        sign(axes, 0, base + 1.75, "+")
        arrow(axes, (0, base - 0.75), (0, base - 0.25))
        arrow(axes, (0, base + 0.25), (0, base + 0.65))
        arrow(axes, (0, base + 1.15), (0, base + 1.6))
        arrow(axes, (0, base - 0.55), (-1.2, base - 0.55), (-1.2, base + 1.75),
              (-0.17, base + 1.75))
    axes.plot([0, 0], [2.8, 2.9], color="#444444", linewidth=1)
    arrow(axes, (0, 5.5), (0, 6.0))
    axes.text(0, 0, "x: length n, width e", ha="center", fontsize=8)


def unit(axes):
    """o( act(u_proj x) * Tno(act(v_proj x)) )"""
    axes.set_title("gated Toeplitz unit (token mixer)", fontsize=10)
    axes.plot([0, 0], [0.25, 0.5], color="#444444", linewidth=1)
    for x, text in ((-1.1, "u_proj, silu"), (1.1, "v_proj, silu")):
        box(axes, x, 1.3, text)
        arrow(axes, (0, 0.5), (x, 0.5), (x, 1.05))
    box(axes, 1.1, 2.6, "Toeplitz operator", OPERATOR, 1.9)
    arrow(axes, (1.1, 1.55), (1.1, 2.35))
    sign(axes, 0, 3.8, "$\\times$")
    arrow(axes, (-1.1, 1.55), (-1.1, 3.8), (-0.17, 3.8))
    arrow(axes, (1.1, 2.85), (1.1, 3.8), (0.17, 3.8))
    box(axes, 0, 4.9, "o")
    arrow(axes, (0, 3.97), (0, 4.65))
    arrow(axes, (0, 5.15), (0, 6.0))
    axes.text(-1.15, 0.15, "n x e", ha="center", fontsize=8)
    axes.text(-1.75, 2.6, "n x 3e", ha="center", fontsize=8)


def operator(axes):
    """Lags -> coefficients -> decay -> Toeplitz matrix, applied by FFT."""
    axes.set_title("Toeplitz operator, one channel", fontsize=10)
    for y, text, color in ((0.5, "lag k = 0, 1, ... n-1", PLAIN),
                           (1.5, "position encoder: r(k)", OPERATOR),
                           (2.5, "decay: $t(k) = \\gamma^{|k|}\\, r(k)$", OPERATOR)):
        box(axes, 0, y, text, color, 2.5)
        arrow(axes, (0, y + 0.25), (0, y + 0.75))
    names = [["$t_0$", "0", "0", "0"], ["$t_1$", "$t_0$", "0", "0"],
             ["$t_2$", "$t_1$", "$t_0$", "0"], ["$t_3$", "$t_2$", "$t_1$", "$t_0$"]]
    shades = {"$t_0$": "#f2a36b", "$t_1$": "#f6bd94", "$t_2$": "#fad7bf", "$t_3$": "#fdeee3"}
    for i, row in enumerate(names):
        for j, name in enumerate(row):
            x, y = -1.45 + 0.5 * j, 5.25 - 0.5 * i
            axes.add_patch(pyplot.Rectangle((x - 0.25, y - 0.25), 0.5, 0.5, linewidth=0.6,
                                            facecolor=shades.get(name, "white"),
                                            edgecolor="#888888"))
            axes.text(x, y, name, ha="center", va="center", fontsize=8)
    for i in range(4):
        axes.add_patch(pyplot.Rectangle((0.75, 5.0 - 0.5 * i), 0.5, 0.5, linewidth=0.6,
                                        facecolor=MIXER, edgecolor="#888888"))
        axes.text(1.0, 5.25 - 0.5 * i, f"$v_{i}$", ha="center", va="center", fontsize=8)
    axes.text(0, 5.85, "$y_i = \\sum_j t(i-j)\\,v_j$   by FFT, O(n log n)", ha="center",
              fontsize=9)


def main() -> None:
    out = parse_args().out
    figure, panels = pyplot.subplots(1, 3, figsize=(9.6, 4.4), layout="constrained")
    for axes, draw in zip(panels, (layer, unit, operator), strict=True):
        draw(axes)
        axes.set(xlim=(-2.1, 2.1), ylim=(-0.1, 6.2))
        axes.set_aspect("equal")
        axes.axis("off")
    figure.savefig(out, dpi=110, metadata={"Software": None})
    print(f"{out.name}: {out.stat().st_size >> 10} kB")


if __name__ == "__main__":
    main()
