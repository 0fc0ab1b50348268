"""JSON and text files, written whole or not at all."""

import json
import os
import re
import uuid
from pathlib import Path
from typing import Any

from report.errors import UserError


def dumps(value: Any) -> str:
    """JSON with every innermost object on one line, so that a curve reads as a table."""
    text = json.dumps(value, indent=1, allow_nan=False)
    return re.sub(r"\{[^{}]*\}", lambda m: re.sub(r"\s*\n\s*", " ", m.group()), text) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Replaces the file by `value` as JSON."""
    write_text(path, dumps(value))


def write_text(path: Path, text: str) -> None:
    """Writes a new file beside this one, flushes it, renames it: a reader sees all or nothing, and
    a power cut leaves the old or the new file."""
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(new, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def read_json(path: Path, default: Any = None) -> Any:
    """The file's value, or `default` if there is no such file. Raises UserError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); remove it or --redo") from error
