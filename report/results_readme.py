"""results/README.md: published numbers and our recorded runs side by side, with the figures.

From results/published.csv and results/records/ROW/*.json (written by `finish`); the same inputs
give the same text, byte for byte.
"""

import re
import shlex
from pathlib import Path

from report import front_table, plots, provenance, published, step_numbers
from report.errors import UserError
from report.json_files import read_json, write_text
from report.published import Line
from report.step_numbers import DECIMALS, NAMES, pair

INTRO = """# Results

Written by `python -m report` (`make report`) from [published.csv](published.csv) and
[records/](records/); do not edit. The columns *published* hold numbers of the papers, their
repositories, or later papers quoting them (source of each: published.csv). The columns *ours* hold
what was measured with this code, on the machine named further down. "Not run here" means just that:
nobody has recorded the row yet; `make` lists those that can be reproduced. Pairs are validation /
test; of several runs of a row the table shows the latest.
"""
CONTEXT = ("Ablations, early values, speed, memory, re-runs by others; none of them was measured "
           "here.\n")


def write(results: Path, lines: list[Line]) -> None:
    """Writes README.md and the figures in `results`, and the table of the README above it; says
    so. Raises UserError for a record that cannot be read."""
    records = load_records(results / "records")
    figures = draw(records, lines, results / "figures")
    path = results / "README.md"
    write_text(path, readme(lines, records, figures))
    front_table.write(results.parent / "README.md", lines, records, results)
    print(f"{path}: {len(records)} recorded runs, {len(figures)} figures")


def load_records(folder: Path) -> list[dict]:
    """All recorded runs, oldest first; each knows the file it came from. Raises UserError."""
    records = []
    for path in sorted(folder.glob("*/*.json")):
        record = read_json(path)
        if not isinstance(record, dict) or not record.get("steps"):
            raise UserError(f"{path}: not a record of a run")
        records.append({**record, "path": path.relative_to(folder.parent).as_posix()})
    return sorted(records, key=lambda record: (record["date"], record["path"]))


def is_full(record: dict) -> bool:
    """True for a run that may stand for its published row."""
    return record["row"] in published.ROWS and not record.get("smoke")


def draw(records: list[dict], lines: list[Line], folder: Path) -> dict[str, str]:
    """One PNG per recorded run that has a curve -> {path of the record: path of the figure}."""
    figures = {}
    for record in records:
        name = plots.curve_metric(record["steps"], published.first_metric(lines, record["row"]))
        if name:
            folder.mkdir(parents=True, exist_ok=True)
            # the latest run of a row has the row's plain name: later ones overwrite it
            path = folder / f"{record['row']}.png"
            plots.save_png(plots.series(record["steps"], name), plots.METRICS[name],
                           record["row"], path)
            figures = {k: v for k, v in figures.items() if v != f"figures/{path.name}"}
            figures[record["path"]] = f"figures/{path.name}"
    return figures


def readme(lines: list[Line], records: list[dict], figures: dict[str, str]) -> str:
    """The text of README.md; figures: {path of a record: path of its figure}."""
    full = [record for record in records if is_full(record)]
    latest = {record["row"]: record for record in full}
    rows = [cells for row in published.ROWS for cells in compare(lines, row, latest.get(row))]
    text = [INTRO, "## Published and ours", "",
            *table(["row", "step", "metric", "published", "ours", "ours - published"], rows), "",
            "## How ours were made", ""]
    if not full:
        text += ["No row has been recorded yet.", ""]
    for row in published.ROWS:
        for record in (record for record in full if record["row"] == row):
            text += describe(record, lines, figures.get(record["path"]))
    text += ["## Other recorded runs", "",
             *other_runs([record for record in records if not is_full(record)], figures)]
    context = [[line["row"], line["stage"], line["system"], line["metric"], line["split"],
                line["value"], line["source"], line["note"] or "-"]
               for line in lines if not published.is_target(line)]
    text += ["", "## Other published numbers", "", CONTEXT,
             *table(["row", "what", "system", "metric", "split", "published", "source", "note"],
                    context)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(text)) + "\n"


def table(head: list[str], rows: list[list]) -> list[str]:
    """Lines of a Markdown table."""
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in cells]


def compare(lines: list[Line], row: str, record: dict | None) -> list[list[str]]:
    """The lines of the main table for one row."""
    steps, wanted = (record["steps"] if record else []), published.targets(lines, row)
    if not wanted:
        return without_target(row, record, any(line["row"] == row for line in lines))
    rows, only_stage = [], len({stage for stage, _ in wanted}) == 1
    for (stage, metric), values in wanted.items():
        ours = {split: step_numbers.number_of(steps, stage, metric, split, only_stage)
                for split in ("valid", "test")}
        gaps = {split: f"{ours[split] - float(values[split]):+.{DECIMALS[metric]}f}"
                for split in values if ours.get(split) is not None}
        rows.append([row, stage, NAMES[metric], pair(values),
                     pair(ours, metric) if record else "not run here", pair(gaps)])
    return rows


def without_target(row: str, record: dict | None, has_context: bool) -> list[list[str]]:
    """The same for a row of which no number was published that a step should reach."""
    known = "see below" if has_context else "not found"
    if not record:
        return [[row, "-", "-", known, "not run here", "-"]]
    return [[row, step["step"], metric, known, numbers, "-"] for step in record["steps"]
            for metric, numbers in (own_numbers(step),)]


def own_numbers(step: dict) -> tuple[str, str]:
    """(name of the metric, 'valid / test') of a step."""
    metric = step_numbers.metric_of(step)
    if metric is None:
        return "-", "-"
    values = {split: step["final"].get(f"{split}_{metric}") for split in ("valid", "test")}
    return NAMES[metric], pair(values, metric)


def describe(record: dict, lines: list[Line], figure: str | None) -> list[str]:
    """The section of one recorded run."""
    steps, last = record["steps"], record["steps"][-1]
    metric = published.first_metric(lines, record["row"])
    name = plots.METRICS.get(plots.curve_metric(steps, metric), "value")
    head = ["step", "date", "commit", "seed", "wall time", "peak memory", "epochs",
            f"{name} after epoch 1", "after epoch 10", "s/epoch"]
    text = [f"### {record['row']} ({record['date'][:10]})", "",
            f"{provenance.describe(last['hardware'])}; {last['threads']} threads; "
            f"{provenance.versions_of(last)}. "
            f"Record: [{Path(record['path']).name}]({record['path']}).", "",
            *table(head, [how_made(step, metric) for step in steps]), "",
            "```sh", *[command_line(step["command"]) for step in steps], "```", ""]
    return text + ([f"![learning curve]({figure})", ""] if figure else [])


def how_made(step: dict, metric: str | None) -> list:
    """A step's line in the table of how it was made."""
    return [step["step"], step["date"][:10], provenance.commit_of(step),
            "-" if step["seed"] is None else step["seed"],
            step_numbers.duration(step["wall_seconds"]), f"{step['peak_rss_mb']} MB",
            step_numbers.last_epoch(step), *pace(step, metric)]


def pace(step: dict, metric: str | None) -> list[str]:
    """A step's validation value after epochs 1 and 10, so that others can tell early whether their
    run is healthy, and seconds per epoch."""
    name = plots.curve_metric([step], metric)
    cells = []
    for epoch in (1, 10):
        points = [point for point in step["curve"] if point["epoch"] == epoch]
        value = points[0].get(name) if points else None
        cells.append("-" if value is None else f"{value:.2f}")
    seconds = step_numbers.seconds_per_epoch(step)
    return [*cells, "-" if seconds is None else f"{seconds:.1f}"]


def other_runs(records: list[dict], figures: dict[str, str]) -> list[str]:
    """The section of the runs that are not a published row."""
    if not records:
        return ["None.", ""]
    rows = [other_run(record, step) for record in records for step in record["steps"]]
    head = ["run", "step", "metric", "ours", "after epoch 1", "after epoch 10", "s/epoch",
            "wall time", "commit", "hardware", "command", "note"]
    shown = [figures[record["path"]] for record in records if record["path"] in figures]
    return ["Other sizes or settings than a published row: not to be compared with it.", "",
            *table(head, rows), "", *(f"![{figure}]({figure})" for figure in shown)]


def other_run(record: dict, step: dict) -> list[str]:
    """A step's line in the table of the runs that are not a published row."""
    note = "; ".join(["smoke run"] * bool(record.get("smoke")) + [step["shrunk"] or ""])
    return [record["row"], step["step"], *own_numbers(step),
            *pace(step, step_numbers.metric_of(step)),
            step_numbers.duration(step["wall_seconds"]), provenance.commit_of(step),
            provenance.describe(step["hardware"]), f"`{command_line(step['command'])}`",
            note.strip("; ") or "-"]


def command_line(command: list[str]) -> str:
    """What to type at the repository's root."""
    python = "python " if command[0].endswith(".py") else ""
    return python + re.sub(r"\s*\n\s*", " ", shlex.join(command))
