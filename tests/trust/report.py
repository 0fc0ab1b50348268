"""results/trust.md: what the suite did and how it ended, counted by the suite itself."""

import datetime
import os
import platform
import subprocess
from pathlib import Path

import torch

TESTS = "Tests: "
HEADINGS = {
    "kill": "SIGKILL, then resumed: weights, optimiser, random streams and curves bit for bit",
    "resume": "Stopped after every update and resumed: the same bits",
    "damage": "Damaged files: refused by name, or replaced",
    "hostile": "Hostile files: none run",
    "processes": "Several processes = one",
    "determinism": "Determinism",
    "not finite": "NaN and infinity",
    "signals": "Ctrl-C, SIGTERM and SIGHUP",
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
             where_and_when(seconds), "", TESTS + shown_outcome(outcome), ""]
    for point, heading in HEADINGS.items():
        rows = {what: value for (where, what), value in tally.items() if where == point}
        if rows:
            lines += [f"## {heading}", "", "| what | |", "| --- | ---: |"]
            lines += [f"| {what} | {shown(value)} |" for what, value in sorted(rows.items())]
            lines.append("")
    path.write_text("\n".join(lines))


def append(path: Path, outcome: dict, seconds: float) -> None:
    """What became of the tests that had failed, run once more (pytest --lf). The counts stay those
    of the whole run."""
    before, line, after = path.read_text().partition(f"\n{TESTS}")
    if not line:
        raise ValueError(f"{path} is not of a whole run")
    first, *rest = after.split("\n\n")
    again = f"Those that failed, again: {shown_outcome(outcome)}. {where_and_when(seconds)}"
    path.write_text("\n\n".join([f"{before}{line}{first}", again, *rest]))


def where_and_when(seconds: float) -> str:
    return (f"{datetime.date.today()}, commit {commit()}, torch {torch.__version__}, Python "
            f"{platform.python_version()}, {machine()}, {seconds / 60:.0f} minutes, TRUST_SEED="
            f"{os.environ.get('TRUST_SEED', 0)}")


def shown_outcome(outcome: dict) -> str:
    return ", ".join(f"{n} {what}" for what, n in sorted(outcome.items()) if n)


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
