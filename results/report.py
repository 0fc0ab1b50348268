"""Puts published numbers and our recorded runs side by side.

    python results/report.py                 results/README.md, results/figures/, the README's table
    python results/report.py --html OUT.html --from runs/demo    one page about the runs in a folder

The first reads results/published.csv and results/records/*/*.json (written by `record.py finish`);
the same inputs give the same README, byte for byte. The second reads the step files of runs that
are not (yet) recorded, prints a table and writes a page that needs nothing but itself.
"""

import argparse
import json
import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from results import curves, machine, overview, page, published  # noqa: E402
from results.store import UserError, read_json  # noqa: E402

INTRO = """# Results

Written by `python results/report.py` (`make report`) from [published.csv](published.csv) and
[records/](records/); do not edit. The columns *published* hold numbers of the papers, their
repositories, or later papers quoting them (source of each: published.csv). The columns *ours* hold
what was measured with this code, on the machine named further down. "Not run here" means just that:
nobody has recorded the row yet; `make` lists those that can be reproduced. Pairs are validation /
test; of several runs of a row the table shows the latest.
"""


def load_records(folder):
    """All recorded runs, oldest first; each knows the file it came from."""
    records = []
    for path in sorted(folder.glob("*/*.json")):
        record = read_json(path)
        if not isinstance(record, dict) or not record.get("steps"):
            raise UserError(f"{path}: not a record of a run")
        records.append({**record, "path": path.relative_to(folder.parent).as_posix()})
    return sorted(records, key=lambda record: (record["date"], record["path"]))


def is_full(record):
    """True for a run that may stand for its published row."""
    return record["row"] in published.ROWS and not record.get("smoke")


def table(head, rows):
    """Lines of a Markdown table."""
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in cells]


def command_line(command):
    """What to type at the repository's root."""
    python = "python " if command[0].endswith(".py") else ""
    return python + re.sub(r"\s*\n\s*", " ", shlex.join(command))


# ---- README --------------------------------------------------------------------------------------


def compare(lines, row, record):
    """The lines of the main table for one row."""
    steps, wanted = (record["steps"] if record else []), published.targets(lines, row)
    if not wanted:
        known = "see below" if any(line["row"] == row for line in lines) else "not found"
        if not record:
            return [[row, "-", "-", known, "not run here", "-"]]
        cells = [own_numbers(step) for step in steps]
        return [[row, step["step"], metric, known, numbers, "-"]
                for step, (metric, numbers) in zip(steps, cells, strict=True)]
    rows, alone = [], len({stage for stage, _ in wanted}) == 1
    for (stage, metric), values in wanted.items():
        ours = {s: published.number_of(steps, stage, metric, s, alone) for s in ("valid", "test")}
        gaps = {s: f"{ours[s] - float(values[s]):+.{published.DECIMALS[metric]}f}"
                for s in values if ours.get(s) is not None}
        rows.append([row, stage, published.NAMES[metric], published.pair(values),
                     published.pair(ours, metric) if record else "not run here",
                     published.pair(gaps)])
    return rows


def own_numbers(step):
    """(name of the metric, 'valid / test') of a step."""
    metric = published.metric_of(step)
    if metric is None:
        return "-", "-"
    values = {s: step["final"].get(f"{s}_{metric}") for s in ("valid", "test")}
    return published.NAMES[metric], published.pair(values, metric)


def commit_of(step):
    """Seven digits of the commit, and whether the source had been changed since."""
    return (step["commit"] or "none")[:7] + (" + changes" if step["dirty"] else "")


def early(step, metric, epoch):
    """A step's validation value after an epoch, so that others can see early if they are well."""
    name = curves.curve_metric([step], metric)
    points = [point for point in step["curve"] if point["epoch"] == epoch]
    value = points[0].get(name) if points else None
    return "-" if value is None else f"{value:.2f}"


def step_row(step, metric):
    """A step's line in the table of how it was made."""
    pace = published.seconds_per_epoch(step)
    return [step["step"], step["date"][:10], commit_of(step),
            "-" if step["seed"] is None else step["seed"],
            published.duration(step["wall_seconds"]), f"{step['peak_rss_mb']} MB",
            published.last_epoch(step), early(step, metric, 1), early(step, metric, 10),
            "-" if pace is None else f"{pace:.1f}"]


def describe(record, lines, figure):
    """The section of one recorded run."""
    steps, last = record["steps"], record["steps"][-1]
    metric = next((m for _, m in published.targets(lines, record["row"])), None)
    name = curves.METRICS.get(curves.curve_metric(steps, metric), "value")
    versions = ", ".join(f"{k} {v}" for k, v in last["versions"].items())
    head = ["step", "date", "commit", "seed", "wall time", "peak memory", "epochs",
            f"{name} after epoch 1", "after epoch 10", "s/epoch"]
    text = [f"### {record['row']} ({record['date'][:10]})", "",
            f"{machine.describe(last['hardware'])}; {last['threads']} threads; {versions}. "
            f"Record: [{Path(record['path']).name}]({record['path']}).", "",
            *table(head, [step_row(step, metric) for step in steps]), "",
            "```sh", *[command_line(step["command"]) for step in steps], "```", ""]
    return text + ([f"![learning curve]({figure})", ""] if figure else [])


def other_rows(records):
    """Lines of the table of runs that are not a published row."""
    rows = []
    for record in records:
        for step in record["steps"]:
            metric, numbers = own_numbers(step)
            note = "; ".join(["smoke run"] * bool(record.get("smoke")) + [step["shrunk"] or ""])
            name = published.metric_of(step)
            pace = published.seconds_per_epoch(step)
            rows.append([record["row"], step["step"], metric, numbers, early(step, name, 1),
                         early(step, name, 10), "-" if pace is None else f"{pace:.1f}",
                         published.duration(step["wall_seconds"]), commit_of(step),
                         machine.describe(step["hardware"]),
                         f"`{command_line(step['command'])}`", note.strip("; ") or "-"])
    return rows


def readme(lines, records, figures):
    """The text of results/README.md; figures: {path of a record: path of its figure}."""
    latest = {record["row"]: record for record in records if is_full(record)}
    head = ["row", "step", "metric", "published", "ours", "ours - published"]
    rows = [cells for row in published.ROWS for cells in compare(lines, row, latest.get(row))]
    text = [INTRO, "## Published and ours", "", *table(head, rows), "", "## How ours were made", ""]
    if not latest:
        text += ["No row has been recorded yet.", ""]
    for row in published.ROWS:
        for record in (r for r in records if r["row"] == row and is_full(r)):
            text += describe(record, lines, figures.get(record["path"]))
    others = [record for record in records if not is_full(record)]
    text += ["## Other recorded runs", ""]
    if others:
        text += ["Other sizes or settings than a published row: not to be compared with it.", "",
                 *table(["run", "step", "metric", "ours", "after epoch 1", "after epoch 10",
                         "s/epoch", "wall time", "commit", "hardware", "command", "note"],
                        other_rows(others)), ""]
        text += [f"![{figures[r['path']]}]({figures[r['path']]})" for r in others
                 if r["path"] in figures]
    else:
        text += ["None.", ""]
    context = [[x["row"], x["stage"], x["system"], x["metric"], x["split"], x["value"], x["source"],
                x["note"] or "-"] for x in lines if not published.is_target(x)]
    text += ["", "## Other published numbers", "", "Ablations, early values, speed, memory, re-runs"
             " by others; none of them was measured here.", "",
             *table(["row", "what", "system", "metric", "split", "published", "source", "note"],
                    context)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(text)) + "\n"


def draw(records, lines, folder):
    """One PNG per recorded run that has a curve -> {path of the record: path of the figure}."""
    figures = {}
    for record in records:
        metric = next((m for _, m in published.targets(lines, record["row"])), None)
        name = curves.curve_metric(record["steps"], metric)
        if name:
            folder.mkdir(parents=True, exist_ok=True)
            # the latest run of a row has the row's plain name: later ones overwrite it
            path = folder / f"{record['row']}.png"
            curves.save_png(curves.series(record["steps"], name), curves.METRICS[name],
                            record["row"], path)
            figures = {k: v for k, v in figures.items() if v != f"figures/{path.name}"}
            figures[record["path"]] = f"figures/{path.name}"
    return figures


# ---- a page about runs that are not recorded -----------------------------------------------------


def load_steps(folder):
    """Finished steps below a folder of runs, in the order they were made, and the unfinished."""
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    steps, unfinished = [], []
    for path in sorted(folder.glob("*/*.json")):
        step = read_json(path)
        if isinstance(step, dict) and "step" in step:
            steps.append({**step, "folder": path.parent})
    for path in sorted(folder.glob("*/*.attempts")):
        if not path.with_suffix(".json").exists():
            unfinished.append(f"{path.parent.name} {path.stem}")
    if not steps:
        raise UserError(f"no finished step below {folder}")
    return sorted(steps, key=lambda step: (step["date"], step["row"])), unfinished


def write_page(out, steps, unfinished, lines):
    """Prints the table, writes the page, says where it is."""
    rows = page.summary(steps, lines)
    widths = [max(map(len, column)) for column in zip(page.HEAD, *rows, strict=True)]
    for line in (page.HEAD, ["-" * width for width in widths], *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
              .rstrip())
    for name in unfinished:
        print(f"not finished: {name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page.build(steps, unfinished, rows, lines))
    print(f"\n{out.absolute()}")


def build_parser():
    """Flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--html", metavar="OUT", type=Path, help="write a page about --from")
    parser.add_argument("--from", metavar="DIR", type=Path, dest="folder",
                        help="folder of runs, as record.py leaves it: DIR/<row>/<step>.json")
    parser.add_argument("--results", metavar="DIR", type=Path, default=ROOT / "results",
                        help="where published.csv, records/, figures/ and README.md are")
    return parser


def main(argv=None):
    """Command line; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        if bool(args.html) != bool(args.folder):
            raise UserError("--html OUT and --from DIR belong together")
        lines = published.load(args.results / "published.csv")
        if args.html:
            write_page(args.html, *load_steps(args.folder), lines)
            return 0
        records = load_records(args.results / "records")
        figures = draw(records, lines, args.results / "figures")
        path = args.results / "README.md"
        path.write_text(readme(lines, records, figures))
        overview.write(args.results.parent / "README.md", lines, records)
        print(f"{path}: {len(records)} recorded runs, {len(figures)} figures")
        return 0
    except (UserError, OSError, json.JSONDecodeError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
