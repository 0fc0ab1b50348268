"""The table of the top README: every row, its published number, ours, and a shrunk run of it."""

from pathlib import Path

from report import published, step_numbers
from report.json_files import write_text
from report.published import ROWS

# Rows whose result is no single number: published as, and where ours is, below results/.
PLOTS = {"tnn-speed": ("Figure 1", "figures/tnn_speed.svg")}
UNITS = {"ppl": "", "bpc": " bpc", "acc": " %", "loss": " (loss)"}
HEAD = ("row", "what", "published", "ours", "shrunk run, here")
BEGIN, END = "<!-- results: written by `make report` -->", "<!-- end of results -->"


def number(step: dict, metric: str | None = None) -> str:
    """'valid / test' of a step with its unit; a dash for a step without numbers."""
    metric = metric or step_numbers.metric_of(step)
    if metric is None:
        return "-"
    values = {split: step["final"].get(f"{split}_{metric}") for split in ("valid", "test")}
    if set(values.values()) == {None} and step["curve"]:
        values = {"valid": step["curve"][-1].get(f"train_{metric}")}
    text = step_numbers.pair(values, metric).removesuffix(" / -").removeprefix("- / ")
    return "-" if text == "-" else text + UNITS[metric]


def shrunk_cell(row: str, records: list[dict]) -> str:
    """The last stage of the newest small run of a row that has a number, and what was shrunk."""
    for record in reversed(records):
        if record.get("smoke") or record["row"] == row:
            continue
        if published.like(record["row"], record["steps"][0]["like"]) != row:
            continue
        stages = [step for step in reversed(record["steps"]) if step["step"] in published.STEPS]
        for step in stages or record["steps"]:
            if number(step) != "-":
                note = f" ({step['shrunk']})" if step["shrunk"] else ""
                return number(step) + note
    return "-"


def line(row: str, lines: list[dict], records: list[dict], results: Path) -> str:
    """One line of the table."""
    if row in PLOTS and (results / PLOTS[row][1]).is_file():
        known, plot = PLOTS[row]
        ours = f"[plot](results/{plot}), one core"
        return f"| `{row}` | {ROWS[row]} | {known} | not run here | {ours} |"
    wanted = published.targets(lines, row)
    stage, metric = list(wanted)[-1] if wanted else (None, None)
    known = step_numbers.pair(wanted[stage, metric]) if wanted else "not found"
    known = known.removeprefix("- / ").removesuffix(" / -") + (UNITS[metric] if metric else "")
    full = [r for r in records if r["row"] == row and not r.get("smoke")]
    ours = number(full[-1]["steps"][-1], metric) if full else "not run here"
    cells = (f"`{row}`", ROWS[row], known, ours, shrunk_cell(row, records))
    return "| " + " | ".join(cells) + " |"


def table(lines: list[dict], records: list[dict], results: Path) -> str:
    """The Markdown table; `results` is the folder that holds the plots."""
    head = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    return "\n".join([*head, *(line(row, lines, records, results) for row in ROWS)])


def write(readme: Path, lines: list[dict], records: list[dict], results: Path) -> bool:
    """Puts the table between its marks in the README; False if it has none."""
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    if BEGIN not in text or END not in text:
        return False
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    write_text(readme, f"{before}{BEGIN}\n{table(lines, records, results)}\n{END}{after}")
    return True
