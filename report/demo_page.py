"""One self-contained HTML page about a folder of runs, recorded or not: table, curves, samples."""

import shlex
from pathlib import Path

from report import plots, provenance, published, step_numbers
from report.errors import UserError
from report.json_files import read_json, write_text
from report.published import Line

HEAD = ["system", "run", "step", "epochs", "metric", "valid", "test", "seconds",
        "published valid / test"]
SAMPLE_CHARACTERS = 700


def write(out: Path, folder: Path, lines: list[Line]) -> None:
    """Prints the table of the runs in `folder`, writes the page, says where it is. Raises
    UserError."""
    steps, unfinished = load_steps(folder)
    rows = [summary(step, lines) for step in steps]
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    for row in (HEAD, ["-" * width for width in widths], *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    for name in unfinished:
        print(f"not finished: {name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, build(steps, unfinished, rows, lines))
    print(f"\n{out.absolute()}")


def load_steps(folder: Path) -> tuple[list[dict], list[str]]:
    """(finished steps below a folder of runs, in the order they were made; names of the unfinished
    ones). Raises UserError."""
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    steps = []
    for path in sorted(folder.glob("*/*.json")):
        step = read_json(path)
        if isinstance(step, dict) and "step" in step:
            steps.append({**step, "folder": path.parent})
    if not steps:
        raise UserError(f"no finished step below {folder}")
    unfinished = [f"{path.parent.name} {path.stem}" for path in sorted(folder.glob("*/*.attempts"))
                  if not path.with_name(f"{path.stem}.json").exists()]
    return sorted(steps, key=lambda step: (step["date"], step["row"])), unfinished


def summary(step: dict, lines: list[Line]) -> list[str]:
    """The cells of a step under HEAD."""
    row = published.like(step["row"], step["like"])
    targets = published.targets(lines, row)
    metric = step_numbers.metric_of(step, [metric for _, metric in targets])
    valid, test = (
        step_numbers.write(step["final"].get(f"{split}_{metric}"), metric) if metric else "-"
        for split in ("valid", "test"))
    if valid == test == "-" and step["curve"] and f"train_{metric}" in step["curve"][-1]:
        valid = "train " + step_numbers.write(step["curve"][-1][f"train_{metric}"], metric)
    return [step_numbers.system_of(step), step["row"], step["step"],
            step_numbers.last_epoch(step), step_numbers.NAMES.get(metric, "-"), valid, test,
            f"{step['wall_seconds']:.0f}",
            step_numbers.pair(targets.get((step["step"], metric), {}))]


def build(steps: list[dict], unfinished: list[str], rows: list[list[str]],
          lines: list[Line]) -> str:
    """The whole page."""
    import jinja2  # not needed to run a step

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    made_with = [f"{provenance.describe(step['hardware'])}; {provenance.versions_of(step)}; "
                 f"commit {provenance.commit_of(step)}" for step in steps]
    runs = {}
    for step in steps:
        runs.setdefault(step["row"], []).append(step)
    return environment.get_template("demo_page.html.j2").render(
        steps=len(steps), total=step_numbers.duration(sum(step["wall_seconds"] for step in steps)),
        ended=steps[-1]["date"][:16].replace("T", " "), made_with=list(dict.fromkeys(made_with)),
        unfinished=unfinished, head=HEAD, rows=rows,
        cards=[card(name, run, lines) for name, run in runs.items()])


def card(name: str, steps: list[dict], lines: list[Line]) -> dict:
    """What the page shows of a run."""
    row = published.like(name, steps[0]["like"])
    metric = plots.curve_metric(steps, published.first_metric(lines, row))
    drawn = plots.series(steps, metric) if metric else []
    label = plots.METRICS.get(metric)
    return {
        "name": name, "row": row, "metric": label,
        "figure": plots.svg_address(lambda: plots.picture(drawn, label))
        if plots.is_curve(drawn) else None,
        "shrunk": list(dict.fromkeys(step["shrunk"] for step in steps if step["shrunk"])),
        "published": [f"{stage} {step_numbers.pair(values)} {step_numbers.NAMES[which]}"
                      for (stage, which), values in published.targets(lines, row).items()],
        "samples": [sample for step in steps for sample in samples(step)],
        "commands": "\n".join(shlex.join(step["command"]) for step in steps),
    }


def samples(step: dict) -> list[dict[str, str]]:
    """The beginning of each text the step has written."""
    found = []
    for name in step["artifacts"]:
        path = step["folder"] / name
        if name.endswith(".txt") and path.is_file():
            text = path.read_text(errors="replace")
            cut = " ..." if len(text) > SAMPLE_CHARACTERS else ""
            found.append({"file": name, "step": step["step"],
                          "text": text[:SAMPLE_CHARACTERS] + cut})
    return found
