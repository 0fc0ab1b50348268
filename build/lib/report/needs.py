"""What each published row takes: machine, data, time, memory, as far as measured, counted or
published (results/rows.csv)."""

import csv
from pathlib import Path
from typing import NamedTuple

from report.errors import UserError


class Needs(NamedTuple):
    """A line of rows.csv; a dash where nothing is known."""

    row: str
    needs: str               # what stands in the way, in a phrase
    seconds_per_epoch: str   # on what
    memory: str
    source: str


def load(path: Path) -> dict[str, Needs]:
    """{row: its line}; empty if there is no such file. Raises UserError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except FileNotFoundError:
        return {}
    found = {}
    for number, line in enumerate(lines, 2):
        try:
            found[line["row"]] = Needs(*(line[name] or "-" for name in Needs._fields))
        except (KeyError, TypeError):
            raise UserError(f"{path}:{number}: not the columns {', '.join(Needs._fields)}"
                            ) from None
    return found
