"""A published row with a change: `make reproduce-awd-ptb AS=wider ARGS="--nhid 1500"`.

The row's pipeline runs as it is, under the name awd-ptb-wider, with the further flags: the first
step gets all of them, each later one those that its script knows (the cache needs --model, not
--lr). make hands both words on in the environment, as REPORT_AS and REPORT_ARGS.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

from report import records, step_numbers
from report.command import executable
from report.errors import UserError
from report.published import Line, like, targets
from report.step_files import valid_name


class Change(NamedTuple):
    """name: what is added to the row's; flags: what is added to its commands."""

    name: str
    flags: list[str]

    @property
    def text(self) -> str:
        """How a record says what was changed."""
        return shlex.join(self.flags) or "nothing"

    def row(self, row: str) -> str:
        """The changed row's own name."""
        return f"{row}-{self.name}"


def asked() -> Change | None:
    """The change that the environment asks for, or None. Raises UserError."""
    name, text = (os.environ.get(f"REPORT_{word}", "").strip() for word in ("AS", "ARGS"))
    if not name:
        if text:
            raise UserError(f"ARGS={text!r} needs AS=NAME: a changed run has a name of its own")
        return None
    if not valid_name(name):
        raise UserError(f"AS={name!r} is no name for a run: letters, digits, . _ -")
    try:
        return Change(name, shlex.split(text))
    except ValueError as error:
        raise UserError(f"ARGS={text!r}: {error}") from None


def grouped(flags: list[str]) -> list[list[str]]:
    """['--nhid', '8', '--tied'] -> [['--nhid', '8'], ['--tied']]."""
    found: list[list[str]] = []
    for word in flags:
        if word.startswith("--") or not found:
            found.append([])
        found[-1].append(word)
    return found


def known_flags(command: list[str], workdir: Path) -> set[str]:
    """The flags that the Python script in a command lists under -h; empty for other commands."""
    words = executable(command, workdir)
    place = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
    if place is None:
        return set()
    done = subprocess.run([*words[:place + 1], "-h"], cwd=workdir, capture_output=True, text=True,
                          check=False)
    return set(re.findall(r"--[\w-]+", done.stdout))


def applied(change: Change, step: str, command: list[str], workdir: Path) -> list[str]:
    """The command with those of the further flags that are for this step."""
    if step == "main":
        return [*command, *change.flags]
    known = known_flags(command, workdir)
    return [*command, *(word for words in grouped(change.flags)
                        if words[0].partition("=")[0] in known for word in words)]


def beside_published(record: dict, lines: list[Line]) -> str:
    """A line for each step that has a number: ours, and what is published for its row if the run
    has that row's sizes."""
    row, shrunk = like(record["row"], record["steps"][0]["like"]), record["smoke"] or any(
        step["shrunk"] for step in record["steps"])
    what = "shrunk" if shrunk else f"changed: {text}" if (text := records.changed(record)) else ""
    said = [f"{record['row']}{f' ({what})' if what else ''}, validation / test:"]
    for step in record["steps"]:
        metric, ours = step_numbers.own(step)
        if ours == "-":
            continue
        known = targets(lines, row).get((step["step"], step_numbers.metric_of(step)))
        beside = f"; published for {row}: {step_numbers.pair(known)}" if known and not shrunk \
            else ""
        said.append(f"  {step['step']}: {metric} {ours}{beside}")
    return "\n".join(said)
