"""One self-contained HTML page about a folder of runs: table, curves, samples."""

import shlex
from html import escape

from results import curves, machine, published

HEAD = ["system", "run", "step", "epochs", "metric", "valid", "test", "seconds",
        "published valid / test"]
SAMPLE_CHARACTERS = 700

STYLE = """
:root { --ink: #1c2024; --soft: #5b6570; --rule: #dde2e7; --card: #fff; --back: #f4f6f8;
  --mark: #6b4a00; --mark-back: #fff3d1; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa5b0; --rule: #343b43;
  --card: #1d2228; --back: #14181c; --mark: #ffdf94; --mark-back: #43350f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 1.6rem; margin: 0 0 4px; } h2 { font-size: 1.2rem; margin: 36px 0 12px; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: 4px 0 8px; } .soft, figcaption { color: var(--soft); font-size: .875rem; }
.published { background: var(--mark-back); color: var(--mark); border-radius: 4px; padding: 1px 6px;
  white-space: nowrap; }
.warn { border-left: 4px solid #c2570c; padding-left: 10px; }
table { border-collapse: collapse; width: 100%; background: var(--card); font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 7px 10px; text-align: left; border-bottom: 1px solid var(--rule); }
th { color: var(--soft); font-weight: 600; } td.n, th.n { text-align: right; }
.cards { display: grid; gap: 16px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 14px;
  min-width: 0; }
figure { margin: 8px 0 0; } svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 12px; } svg .grid { stroke: var(--rule); }
.key { display: inline-block; margin-right: 14px; } .key i { display: inline-block; width: 14px;
  height: 3px; margin-right: 5px; vertical-align: middle; }
pre { background: var(--back); border-radius: 6px; padding: 10px; margin: 8px 0 0;
  font: .8rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
summary { cursor: pointer; margin-top: 8px; font-size: .875rem; }
@media (max-width: 480px) { svg text { font-size: 15px; } }
@media (max-width: 800px) {
  thead { display: none; }
  tr { display: block; padding: 8px 0; border-bottom: 1px solid var(--rule); }
  td, td.n { display: flex; justify-content: space-between; gap: 16px; border: 0; text-align: right;
    padding: 3px 12px; overflow-wrap: anywhere; }
  td::before { content: attr(data-label); color: var(--soft); text-align: left; flex: none; }
  td.none { display: none; }
  .published { white-space: normal; }
}
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sequence models: runs on this machine</title><style>{style}</style></head>
<body><main><h1>Sequence models: runs on this machine</h1>
<p>{steps} steps in {total}, ended {ended} UTC. These runs are small and on small data. Numbers
marked <span class="published">published</span> are those of the full-size rows on the real data:
beside ours for orientation, not for comparison.</p>
{made}{warning}
<h2>Results</h2>{table}
<h2>Learning curves</h2><div class="cards">{cards}</div>
</main></body></html>
"""


def runs_of(steps):
    """{run: its steps}, in the order they were made."""
    runs = {}
    for step in steps:
        runs.setdefault(step["row"], []).append(step)
    return runs


def wanted_metrics(step, lines):
    """The metrics published for the row that a step's run is a version of."""
    row = published.like(step["row"], step["like"])
    return [metric for _, metric in published.targets(lines, row)]


def published_cell(step, metric, lines):
    """'61.2 / 58.8' as published for this step of the full-size row, or a dash."""
    row = published.like(step["row"], step["like"])
    return published.pair(published.targets(lines, row).get((step["step"], metric), {}))


def summary_row(step, lines):
    """The cells of a step under HEAD."""
    metric = published.metric_of(step, wanted_metrics(step, lines))
    cells = {split: step["final"].get(f"{split}_{metric}") for split in ("valid", "test")}
    valid, test = (published.write(value, metric) if metric else "-" for value in cells.values())
    if valid == test == "-" and step["curve"] and f"train_{metric}" in step["curve"][-1]:
        valid = "train " + published.write(step["curve"][-1][f"train_{metric}"], metric)
    return [published.system_of(step), step["row"], step["step"], published.last_epoch(step),
            published.NAMES.get(metric, "-"), valid, test, f"{step['wall_seconds']:.0f}",
            published_cell(step, metric, lines)]


def summary(steps, lines):
    """The table of the page and of the terminal, a row per step."""
    return [summary_row(step, lines) for step in steps]


def html_table(rows):
    """The same table as HTML; on a phone each row becomes a block of labelled lines."""
    numeric = {"epochs", "valid", "test", "seconds"}
    head = "".join(f'<th{" class=n" if name in numeric else ""}>{escape(name)}</th>'
                   for name in HEAD)
    body = []
    for row in rows:
        cells = []
        for name, cell in zip(HEAD, row, strict=True):
            text = escape(cell)
            if name == HEAD[-1] and cell != "-":
                text = f'<span class="published">published {text}</span>'
            kind = " ".join(["n"] * (name in numeric) + ["none"] * (cell == "-"))
            kind = f' class="{kind}"' if kind else ""
            cells.append(f'<td{kind} data-label="{escape(name)}">{text}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def figure(steps, lines):
    """The learning curve of a run, with a key; nothing for a run of fewer than two epochs."""
    metric = next(iter(wanted_metrics(steps[0], lines)), None)
    name = curves.curve_metric(steps, metric)
    if name is None:
        return ""
    drawn = curves.series(steps, name)
    if sum(len(points) for _, points in drawn) < 2:
        return ""
    key = "".join(f'<span class="key"><i style="background:{curves.COLORS[i % 4]}"></i>'
                  f"{escape(step)}</span>" for i, (step, _) in enumerate(drawn))
    label = curves.METRICS[name]
    return (f"<figure>{curves.svg(drawn, label)}<figcaption>{key}{escape(label)}</figcaption>"
            "</figure>")


def samples(step):
    """The beginning of each text the step has written."""
    parts = []
    for name in step["artifacts"]:
        path = step["folder"] / name
        if name.endswith(".txt") and path.is_file():
            text = path.read_text(errors="replace")
            cut = " ..." if len(text) > SAMPLE_CHARACTERS else ""
            parts.append(f'<p class="soft">{escape(name)}, written by step {escape(step["step"])}'
                         f"</p><pre>{escape(text[:SAMPLE_CHARACTERS] + cut)}</pre>")
    return "".join(parts)


def card(name, steps, lines):
    """A run: curve, what was shrunk, published numbers, samples, commands."""
    row = published.like(name, steps[0]["like"])
    parts = [f'<section class="card"><h3>{escape(name)}</h3>', figure(steps, lines)]
    shrunk = list(dict.fromkeys(step["shrunk"] for step in steps if step["shrunk"]))
    parts += [f"<p><b>Shrunk:</b> {escape(text)}</p>" for text in shrunk]
    marks = [f'<span class="published">{escape(stage)} {escape(published.pair(values))} '
             f"{escape(published.NAMES[metric])}</span>"
             for (stage, metric), values in published.targets(lines, row).items()]
    if marks:
        parts.append(f'<p class="soft">Published for {escape(row)}, full size, valid / test: '
                     f"{' '.join(marks)}</p>")
    parts += [samples(step) for step in steps]
    commands = "\n".join(shlex.join(step["command"]) for step in steps)
    parts.append(f"<details><summary>Commands</summary><pre>{escape(commands)}</pre></details>")
    return "".join([*parts, "</section>"])


def made_with(steps):
    """Machine, versions and commit, once if all steps agree."""
    lines = []
    for step in steps:
        versions = ", ".join(f"{name} {value}" for name, value in step["versions"].items())
        commit = (step["commit"] or "none")[:7] + (" + changes" if step["dirty"] else "")
        lines.append(f"{machine.describe(step['hardware'])}; {versions}; commit {commit}")
    return "".join(f'<p class="soft">{escape(line)}</p>' for line in dict.fromkeys(lines))


def build(steps, unfinished, rows, lines):
    """The whole page."""
    total = published.duration(sum(step["wall_seconds"] for step in steps))
    warning = "".join(f'<p class="warn">Not finished: {escape(name)}</p>' for name in unfinished)
    cards = "".join(card(name, runs, lines) for name, runs in runs_of(steps).items())
    return PAGE.format(
        style=STYLE, steps=len(steps), total=total, made=made_with(steps), warning=warning,
        ended=escape(steps[-1]["date"][:16].replace("T", " ")), table=html_table(rows), cards=cards)
