"""results/trust.md: what the suite did and how it ended, counted by the suite itself."""

import datetime
import os
import platform
import subprocess
from pathlib import Path

import torch

HEADINGS = {
    "kill": "SIGKILL, then resumed: weights, optimiser, random streams and curves bit for bit",
    "resume": "Stopped after every update and resumed: the same bits",
    "damage": "Damaged files: refused by name, or replaced",
    "hostile": "Hostile files: none run",
    "processes": "Several processes = one",
    "determinism": "Determinism",
    "not finite": "NaN and infinity",
    "signals": "Ctrl-C and SIGTERM",
    "disk": "Saves that fail",
    "crash points": "Every file operation a point of failure",
    "same --save": "Two runs with the same --save",
    "users": "Several users",
    "bad input": "Texts, checkpoints and flags that make no sense",
}


def write(path: Path, tally: dict, outcome: dict, seconds: float) -> None:
    """tally: {(point, what): count or largest value}; outcome: pytest's {result: tests}."""
    lines = ["# Trust: what was done to the training scripts, and what came of it", "",
             "Written by `make test-trust`; no line below is typed.", "",
             f"{datetime.date.today()}, commit {commit()}, torch {torch.__version__}, Python "
             f"{platform.python_version()}, {machine()}, {seconds / 60:.0f} minutes, TRUST_SEED="
             f"{os.environ.get('TRUST_SEED', 0)}", "",
             "Tests: " + ", ".join(f"{n} {what}" for what, n in sorted(outcome.items()) if n), ""]
    for point, heading in HEADINGS.items():
        rows = {what: value for (where, what), value in tally.items() if where == point}
        if rows:
            lines += [f"## {heading}", "", "| what | |", "| --- | ---: |"]
            lines += [f"| {what} | {shown(value)} |" for what, value in sorted(rows.items())]
            lines.append("")
    path.write_text("\n".join(lines))


def shown(value) -> str:
    return f"{value:.1e}" if isinstance(value, float) else f"{value:,}"


def machine() -> str:
    names = [line.partition(":")[2].strip() for line in
             Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], text=True,
                          capture_output=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"
