"""results/README.md: published numbers and our recorded runs side by side, with the figures.

From results/published.csv, results/rows.csv and results/records/ROW/*.json (written by `finish`);
the same inputs give the same text, byte for byte.
"""

import re
from pathlib import Path

from report import figures, needs, published, records, step_numbers
from report.figures import Shown
from report.json_files import write_text
from report.needs import Needs
from report.published import Line
from report.records import Draws, Record
from report.results_runs import describe, small_runs
from report.step_numbers import DECIMALS, NAMES, pair
from report.tables import folded, table

INTRO = """# Results

Written by `python -m report` (`make report`) from [published.csv](published.csv),
[rows.csv](rows.csv), [others/](others/) and [records/](records/); do not edit. *Published* are
numbers of the papers, their repositories, or later papers quoting them (source of each:
published.csv). *Ours* are what this code measured. Pairs are validation / test; several seeds are
given as mean +- standard deviation. Only a run with the published settings, sizes and data stands
beside a published number; everything smaller is under [Small runs](#small-runs). More, by paper:
[the readable AWD-LSTM](awd_lstm_scratch.md), [predefined sparseness](sparse_seq.md),
[TNN](tnn.md); [speed](benchmarks/); [what was done to break the scripts](trust.md).
"""
CONTEXT = ("Ablations, early values, speed, memory, re-runs by others, other models of the same "
           "table; none of them was measured here.\n")
NOT_AT_HAND = "not at hand"  # published, but in a table that could not be had
NO_RECORD = "No row has been run to its end yet; its first epochs are below."


def write(results: Path, lines: list[Line]) -> None:
    """Writes README.md and the figures in `results`; says so. Raises UserError for a record that
    cannot be read."""
    found = records.load(results / "records")
    curves = figures.of_records(found, lines, results)
    beside = dict(figures.beside_others(found, results))
    text = readme(lines, needs.load(results / "rows.csv"), found, curves, beside)
    path = results / "README.md"
    write_text(path, text)
    print(f"{path}: {len(found)} recorded runs, {len(curves) + len(beside)} figures")


def readme(lines: list[Line], known: dict[str, Needs], found: list[Record],
           curves: dict[str, Shown], beside: dict[str, Shown]) -> str:
    """The text of README.md; curves: {path of a record: its learning curve}."""
    full = [record for record in found if records.is_full(record)]
    text = [INTRO, "## Published and ours", "", *([] if full else [NO_RECORD, ""]),
            *main_table(lines, known, full), "",
            f"*{NOT_AT_HAND}*: published, in a table of the paper that could not be found. "
            "*Figure*: a plot without a table.", "",
            *first_epochs(lines, found, beside), *released(lines, found), *other_figures(beside),
            "## How long, how much memory", "",
            "As far as published, measured or counted; a dash where nothing is known.", "",
            *costs(known, full), ""]
    if full:
        text += ["## How ours were made", ""]
    for row in published.ROWS:
        for record in (record for record in full if record["row"] == row):
            text += describe(record, lines, curves.get(record["path"]))
    text += changed_rows(lines, found)
    text += small_runs([record for record in found if not records.is_full(record)
                        and not records.changed(record) and not records.released_for(record)],
                       lines, curves)
    context = [[line["row"], line["stage"], line["system"], line["metric"], line["split"],
                line["value"], line["source"], line["note"] or "-"]
               for line in lines if not published.is_target(line)]
    text += ["", "## Other published numbers", "", CONTEXT,
             *folded(f"All {len(context)}", table(
                 ["row", "what", "system", "metric", "split", "published", "source", "note"],
                 context))]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(text)).rstrip() + "\n"


# ------------------------------------------------------------------------------ the main table
def main_table(lines: list[Line], known: dict[str, Needs], full: list[Record]) -> list[str]:
    """Every row: what, published, ours and their difference, or what it takes."""
    by_row = {row: records.alike([r for r in full if r["row"] == row]) for row in published.ROWS}
    rows = [cells for row, mine in by_row.items() for cells in compare(lines, known, row, mine)]
    return table(["row", "what", "step", "metric", "published", "ours", "ours - published",
                  "to run it"], rows)


def compare(lines: list[Line], known: dict[str, Needs], row: str, mine: list[Record]
            ) -> list[list[str]]:
    """The lines of the main table for one row; mine: its full runs, which differ by the seed."""
    head, takes = [f"`{row}`", published.ROWS[row]], known[row].needs if row in known else "-"
    wanted = published.targets(lines, row)
    if not wanted:
        return without_target(head, row, mine, takes)
    cells, only_stage = [], len({stage for stage, _ in wanted}) == 1
    for (stage, metric), values in wanted.items():
        ours = {split: numbers_of(mine, stage, metric, split, only_stage)
                for split in ("valid", "test")}
        gaps = [f"{drawn.mean - float(values[split]):+.{DECIMALS[metric]}f}"
                for split, drawn in ours.items() if drawn and split in values]
        said = " / ".join(drawn.write(metric) if drawn else "-" for drawn in ours.values())
        cells.append([*head, stage, NAMES[metric], pair(values), said if mine else "-",
                      " / ".join(gaps) or "-", "-" if mine else takes])
        head, takes = ["", ""], "-"
    return cells


def numbers_of(mine: list[Record], stage: str, metric: str, split: str, only_stage: bool
               ) -> Draws | None:
    """Our number of a stage in each of the runs."""
    values = [step_numbers.number_of(record["steps"], stage, metric, split, only_stage)
              for record in mine]
    values = [value for value in values if value is not None]
    return Draws(values) if values else None


def without_target(head: list[str], row: str, mine: list[Record], takes: str) -> list[list[str]]:
    """The same for a row of which no number was published that a step should reach."""
    known = published.FIGURES.get(row, NOT_AT_HAND)
    if not mine:
        return [[*head, "-", "-", known, "-", "-", takes]]
    return [[*head, step["step"], metric, known, numbers, "-", "-"] for step in mine[-1]["steps"]
            for metric, numbers in (step_numbers.own(step),)]


# --------------------------------------------------------------- first epochs, figures, costs
def first_epochs(lines: list[Line], found: list[Record], beside: dict[str, Shown]) -> list[str]:
    """Our first epochs of published runs at full size, beside an outsider's; in the metric that was
    published."""
    if "ptb" not in beside:
        return []
    rows = []
    for record in records.newest(found):
        if records.beginning_of(record) is None:
            continue
        metric = published.first_metric(lines, records.beginning_of(record))
        for step in record["steps"]:
            epochs = step_numbers.last_epoch(step) if step["curve"] else f"then {step['step']}"
            rows.append([f"`{record['row']}`", epochs,
                         *step_numbers.own(step, metric), step["threads"],
                         step_numbers.duration(step["wall_seconds"]), step["date"][:10],
                         f"[record]({record['path']})"])
    one_layer = beside["layer1"].markdown() if "layer1" in beside else []
    return ["## First epochs at full size", "", *beside["ptb"].markdown(), *one_layer,
            *table(["run", "epochs", "metric", "validation / test", "threads", "wall time", "date",
                    ""], rows), "",
            "The outsider's log has test perplexity 337.22, 220.76, 178.69 after epochs 1, 2, 3; "
            "of PTB's characters with `awd-ptbc`'s flags and `--epochs 20 --when 12 16` a user "
            "reports validation 2.756 after epoch 1; sources and more: [others/](others/). Wall "
            "times are those of machines that other work kept busy.", ""]


def released(lines: list[Line], found: list[Record]) -> list[str]:
    """The originals' released weights, evaluated with this code."""
    rows = []
    for record in found:
        row = records.released_for(record)
        if row is None or record.get("smoke"):
            continue
        wanted = published.targets(lines, row)
        for step in record["steps"]:
            metric = step_numbers.metric_of(step, [metric for _, metric in wanted])
            known = wanted.get(("main", metric), {})
            rows.append([f"`{row}`", NAMES.get(metric, "-"), pair(known),
                         step_numbers.own(step)[1], step["date"][:10],
                         f"[record]({record['path']})"])
    if not rows:
        return []
    return ["## Released weights, evaluated here", "",
            *table(["row", "metric", "published", "these weights, here", "date", ""], rows), ""]


def other_figures(beside: dict[str, Shown]) -> list[str]:
    """The figures that are no run's learning curve."""
    shown = [beside[name] for name in ("figure3", "length", "wt2") if name in beside]
    if not shown:
        return []
    return ["## Figures", "", *(line for figure in shown for line in figure.markdown())]


def costs(known: dict[str, Needs], full: list[Record]) -> list[str]:
    """Seconds an epoch and memory of every row, ours added where it was run."""
    rows = []
    for row, need in known.items():
        mine = [record for record in full if record["row"] == row]
        seconds, memory = need.seconds_per_epoch, need.memory
        for step in (mine[-1]["steps"] if mine else []):
            if (pace := step_numbers.seconds_per_epoch(step)) is not None:
                seconds = f"{pace:.0f} ({step['step']}, ours); {seconds}"
                memory = f"{step['peak_rss_mb']} MB ({step['step']}, ours); {memory}"
        rows.append([f"`{row}`", need.needs, seconds, memory, need.source])
    return table(["row", "to run it", "seconds an epoch", "memory", "source"], rows)


# ------------------------------------------------------------------------------- changed rows
def changed_rows(lines: list[Line], found: list[Record]) -> list[str]:
    """Runs with AS= and ARGS=: a row's pipeline with a change, beside the row."""
    rows = []
    for record in found:
        what = records.changed(record)
        if what is None or record.get("smoke"):
            continue
        row = published.like(record["row"], record["steps"][0]["like"])
        for step in record["steps"]:
            metric, numbers = step_numbers.own(step)
            known = published.targets(lines, row).get((step["step"], step_numbers.metric_of(step)))
            rows.append([f"`{record['row']}`", f"`{what}`", step["step"], metric, numbers,
                         f"`{row}`: {pair(known)}" if known else f"`{row}`"])
    if not rows:
        return []
    return ["## Rows with a change", "", *table(
        ["run", "change", "step", "metric", "ours", "published, without the change"], rows), ""]
