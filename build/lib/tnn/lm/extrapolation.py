"""Draws perplexity against length from recorded runs of length_extrapolation.sh.

    python tnn/lm/extrapolation.py results/records/tnn-extrapolation OUT.png [--trained 512]

The folder holds records of one row (`python -m report finish`); of the newest one the steps
length-N are drawn.
"""

import argparse
import json
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from harness.endings import bad_input, orderly_exit


def sweep(folder: Path) -> list[tuple[int, float]]:
    """[(length, test perplexity), ...] of the newest record. Raises ValueError without one."""
    records = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    if not records:
        raise ValueError(f"no record in {folder}: make reproduce-{folder.name}")
    newest = max(records, key=lambda record: record["date"])
    points = [(int(step["step"].removeprefix("length-")), step["final"]["test_ppl"])
              for step in newest["steps"] if step["step"].startswith("length-")]
    if not points:
        raise ValueError(f"no step length-N in the newest record of {folder}")
    return sorted(points)


def draw(points: list[tuple[int, float]], trained: int | None, out: Path) -> None:
    """The same points give the same bytes."""
    import matplotlib  # slow to import: not for -h
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.2), layout="constrained")
    axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color="#1f66d0")
    if trained:
        axes.axvline(trained, color="#888888", linestyle="--", linewidth=1)
        axes.text(trained, 0.02, " training length", color="#888888", fontsize="small",
                  transform=axes.get_xaxis_transform())
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    # From zero: the curve's shape is then the result, not the axis'.
    axes.set(xlabel="length of the evaluated blocks, tokens", ylabel="test perplexity",
             ylim=(0, 1.15 * max(value for _, value in points)))
    axes.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120, metadata={"Software": None})


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("records", type=Path, help="folder of a row's records")
    p.add_argument("out", type=Path, help="PNG to write")
    p.add_argument("--trained", type=int, help="length of training, marked in the plot")
    args = p.parse_args()
    with orderly_exit("extrapolation.py"):
        with bad_input():
            points = sweep(args.records)
        draw(points, args.trained, args.out)
        print("\n".join(f"length {n:6}  test ppl {value:8.2f}" for n, value in points))
        print(f"plot: {args.out}")


if __name__ == "__main__":
    main()
