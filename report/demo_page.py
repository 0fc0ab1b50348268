"""One self-contained HTML page about a folder of runs, recorded or not: a card for each run with
what it did, its curve and a sample; then all numbers in a table."""

import math
import re
import shlex
from pathlib import Path
from typing import Any

from report import (
    page_facts,
    page_images,
    plots,
    provenance,
    published,
    step_numbers,
    training_curve,
)
from report.errors import UserError
from report.json_files import read_json, write_text
from report.page_facts import Baseline
from report.published import Line

HEAD = ["system", "run", "step", "epochs", "metric", "valid", "test", "seconds",
        "published valid / test"]
SAMPLE_CHARACTERS = 600
AFTER = {"finetune": " after fine-tuning", "pointer": " with a cache of recent words"}
SPLITS = {"test": "test data", "valid": "validation data", "train": "training data"}


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
    write_text(out, build(folder.name, steps, unfinished, rows, lines))
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
            steps.append({**step, "folder": path.parent.absolute()})
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


def build(name: str, steps: list[dict], unfinished: list[str], rows: list[list[str]],
          lines: list[Line]) -> str:
    """The whole page."""
    import jinja2  # not needed to run a step

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True)
    runs: dict[str, list[dict]] = {}
    for step in steps:
        runs.setdefault(step["row"], []).append(step)
    return environment.get_template("demo_page.html.j2").render(
        headline=headline(name, steps, unfinished, len(runs)), is_demo=name == "demo",
        ended=steps[-1]["date"][:16].replace("T", " "), made_with=made_with(steps),
        unfinished=unfinished, head=HEAD, rows=rows,
        cards=[card(row, run, lines) for row, run in runs.items()])


def made_with(steps: list[dict]) -> str:
    """Machines and versions, each once, and the commits."""
    machines = dict.fromkeys(f"{provenance.describe(step['hardware'])}; "
                             f"{provenance.versions_of(step)}" for step in steps)
    commits = dict.fromkeys(provenance.commit_of(step) for step in steps)
    return "; ".join([*machines, f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}"])


def headline(name: str, steps: list[dict], unfinished: list[str], runs: int) -> str:
    """Such as: Demo: all 23 steps of 11 runs finished (4 min, 2 cores)."""
    time = step_numbers.duration(sum(step["wall_seconds"] for step in steps))
    if cores := steps[-1]["hardware"].get("cores"):
        time += f", {cores} cores"
    total = len(steps) + len(unfinished)
    count = f"{len(steps)} of {total} steps" if unfinished else \
        f"all {total} steps" if total > 1 else "the one step"
    return (f"{'Demo' if name == 'demo' else 'Runs'}: {count} of {runs} "
            f"run{'s' if runs > 1 else ''} finished ({time})")


# --------------------------------------------------------------------------------------- cards
def card(name: str, steps: list[dict], lines: list[Line]) -> dict[str, Any]:
    """What the page shows of a run."""
    row = published.like(name, steps[0]["like"])
    system, base = page_facts.system_of(steps[0]), page_facts.baseline(steps[0])
    text, start_to_end, figure, caption = page_facts.sentence(steps[0]), None, None, ""
    trained = [(step["step"], training_curve.of_step(step)) for step in steps]
    trained = training_curve.joined([pair for pair in trained if pair[1]])
    if sum(len(points) for _, points in trained) > 2:
        figure, caption = loss_figure(trained, base)
        start_to_end = (f"training loss {trained[0][1][0][1]:.2f} \u2192 "
                        f"{trained[-1][1][-1][1]:.2f} nats")
    else:
        figure, caption = epoch_figure(steps, published.first_metric(lines, row))
    numbers = outcome(steps, base)
    return {
        "name": name, "id": f"run-{re.sub(r'[^A-Za-z0-9-]', '-', name)}", "row": row,
        "sentence": ": ".join(part for part in (text, numbers) if part),
        "paper": system and system.paper,
        "address": system and f"{page_facts.ARXIV}{system.arxiv}",
        "figure": figure, "caption": caption, "start_to_end": start_to_end,
        "shrunk": list(dict.fromkeys(step["shrunk"] for step in steps if step["shrunk"])),
        "changed": next((step["changed"] for step in steps if step.get("changed")), None),
        "published": [f"{stage} {step_numbers.pair(values)} {step_numbers.NAMES[which]}"
                      for (stage, which), values in published.targets(lines, row).items()],
        "images": [images for step in steps for images in pictures(step)],
        "samples": [sample for step in steps for sample in samples(step)],
        "commands": "\n".join(shlex.join(step["command"]) for step in steps),
    }


def loss_figure(lines: list[tuple[str, training_curve.Points]], base: Baseline | None
                ) -> tuple[str, str]:
    """(address, caption) of the training loss against updates, with a guess's as a dashed line."""
    from matplotlib.figure import Figure

    def build() -> Figure:
        figure = plots.picture([plots.Line(name, points) for name, points in lines],
                               "training loss, nats", "updates", size=(6.4, 3.4))
        if base:
            figure.axes[0].axhline(base.loss, color=plots.GREY, linestyle="--", linewidth=1.2)
            # where a falling curve is not: right below a high line, left above a low one
            losses = [loss for _, points in lines for _, loss in points]
            high = base.loss > (min(losses) + max(losses)) / 2
            figure.axes[0].annotate(
                base.name, (float(high), base.loss), xytext=(-4, -12) if high else (4, 4),
                ha="right" if high else "left", color=plots.GREY,
                xycoords=("axes fraction", "data"), textcoords="offset points")
        return figure

    guess = f"; dashed: {base.name}, {base.loss:.2f}" if base else ""
    return plots.svg_address(build), f"Training loss (dropout on) against updates{guess}."


def epoch_figure(steps: list[dict], metric: str | None) -> tuple[str | None, str]:
    """(address, caption) of a curve by epochs, for runs without a training loss; (None, "") if
    there is but one point."""
    name = plots.curve_metric(steps, metric)
    drawn = plots.series(steps, name) if name else []
    if not plots.is_curve(drawn):
        return None, ""
    label = plots.METRICS[name]
    return (plots.svg_address(lambda: plots.picture(drawn, label, size=(6.4, 3.4))),
            f"{label[0].upper()}{label[1:]} by epochs.")


def outcome(steps: list[dict], base: Baseline | None) -> str:
    """The run's last number, in words, and what guessing would give."""
    named = [step for step in reversed(steps) if step["step"] in published.STEPS]
    for step in named or steps[::-1]:
        metric = step_numbers.metric_of(step)
        split = next((split for split in SPLITS if value_of(step, split, metric) is not None), None)
        if metric is None or split is None:
            continue
        value = step_numbers.write(value_of(step, split, metric), metric)
        if metric == "acc":
            guess = f"; {base.name} is {100 * math.exp(-base.loss):.0f} %" \
                if base and base.name == "chance" else ""
            return f"{value} % of the {SPLITS[split]} right{guess}{by_length(steps)}."
        guess = f"; {base.name} has {math.exp(base.loss):.0f}" if base and metric == "ppl" else ""
        unit = step_numbers.NAMES[metric]
        said = f"{value} {unit}" if metric == "bpc" else f"{unit} {value}"
        after = AFTER.get(step["step"], "")
        return f"{said} on the {SPLITS[split]}{after}{guess}{by_length(steps)}."
    return ""


def value_of(step: dict, split: str, metric: str | None) -> float | None:
    """A closing number; of the training data that of the last epoch."""
    last = step["curve"][-1] if split == "train" and step["curve"] else {}
    return step["final"].get(f"{split}_{metric}", last.get(f"{split}_{metric}"))


def by_length(steps: list[dict]) -> str:
    """The test perplexities of steps called length-N."""
    found = [f"{step['step'].removeprefix('length-')} tokens {step['final']['test_ppl']:.1f}"
             for step in steps
             if step["step"].startswith("length-") and step["final"].get("test_ppl")]
    return f"; test perplexity by length: {', '.join(found)}" if found else ""


def pictures(step: dict) -> list[dict[str, str]]:
    """Test images with their predictions, of each predictions.txt the step has written."""
    folder = page_facts.folder_of(step)
    found = [page_images.of_digits(folder, step["folder"] / name)
             for name in step["artifacts"] if name == "predictions.txt"]
    return [images for images in found if images]


def samples(step: dict) -> list[dict[str, str]]:
    """The beginning of each text the step has written."""
    found = []
    for name in step["artifacts"]:
        path = step["folder"] / name
        if name.endswith(".txt") and name != "predictions.txt" and path.is_file():
            text = path.read_text(errors="replace")
            cut = " ..." if len(text) > SAMPLE_CHARACTERS else ""
            found.append({"file": name, "step": step["step"],
                          "text": text[:SAMPLE_CHARACTERS] + cut})
    return found
