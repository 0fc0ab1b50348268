"""`report --compare A B ...`: the learning curves of several runs in one figure, and a table.

A run is named by its row (what `make reproduce-` or `report run` left below runs/, finished or not,
else its newest record in results/records/), or by a folder: of a row below runs/, or one that holds
a metrics.csv.
"""

from pathlib import Path

from report import RESULTS, ROOT, metrics_csv, plots, step_numbers
from report.errors import UserError
from report.json_files import read_json, write_text

PLACES = ("runs", "runs/smoke", "runs/demo")


def compare(names: list[str], out: Path) -> None:
    """Prints a table, writes the figure, says where. Raises UserError."""
    if len(set(names)) < 2:
        raise UserError("--compare needs at least two runs")
    runs = {name: load(name) for name in names}
    metric = common_metric(runs)
    lines = [line._replace(label=f"{name} {line.label}".removesuffix(" main"),
                           look=(i, j + i // len(plots.COLORS)))  # a colour for each run
             for i, (name, steps) in enumerate(runs.items())
             for j, line in enumerate(plots.series(steps, metric))]
    if not plots.is_curve(lines):
        raise UserError("there is one point of each run: nothing to draw yet")
    print_table(runs, metric)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, plots.svg(lambda: plots.picture(lines, plots.METRICS[metric])))
    print(f"\n{out.absolute()}")


def load(name: str) -> list[dict]:
    """The steps of a run, each with its curve and closing numbers. Raises UserError."""
    folder = Path(name)
    if (folder / "metrics.csv").is_file():
        curve, final, _ = metrics_csv.read(folder)
        return [{"step": "main", "curve": curve, "final": final}]
    for place in (folder, *(ROOT / place / name for place in PLACES)):
        if place.is_dir() and (steps := of_folder(place)):
            return steps
    records = sorted((RESULTS / "records" / name).glob("*.json"),
                     key=lambda path: read_json(path)["date"])
    if records:
        return read_json(records[-1])["steps"]
    raise UserError(f"--compare: no run called {name} below runs/ or results/records/, and no "
                    "folder of that name with curves")


def of_folder(folder: Path) -> list[dict]:
    """The steps of a row's working folder, in the order they were begun; of one that still runs the
    curve so far."""
    found = []
    for path in sorted(folder.glob("*.attempts"), key=lambda path: path.stat().st_mtime):
        step = read_json(path.with_suffix(".json"))
        curves = metrics_csv.latest_folder(path.with_suffix(".curves"))
        if step is None and curves is not None and (curves / "metrics.csv").is_file():
            curve, final, _ = metrics_csv.read(curves)
            step = {"step": path.stem, "curve": curve, "final": final}
        if step is not None:
            found.append(step)
    return found


def common_metric(runs: dict[str, list[dict]]) -> str:
    """The first metric of which every run has a curve. Raises UserError."""
    for name in plots.METRICS:
        if all(any(point.get(name) is not None for step in steps for point in step["curve"])
               for steps in runs.values()):
            return name
    raise UserError("--compare: these runs have no metric in common")


def print_table(runs: dict[str, list[dict]], metric: str) -> None:
    """Run, step, epochs, the metric's last and best value."""
    short = metric.partition("_")[2]
    best = max if short == "acc" else min
    print(f"{plots.METRICS[metric]}:")
    for name, steps in runs.items():
        for step in steps:
            values = [p[metric] for p in step["curve"] if p.get(metric) is not None]
            if values:
                print(f"  {name} {step['step']}: {step_numbers.last_epoch(step)} epochs, last "
                      f"{step_numbers.write(values[-1], short)}, best "
                      f"{step_numbers.write(best(values), short)}")
