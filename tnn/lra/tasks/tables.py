"""Tab-separated files of labelled texts (listops, aan). Imports no torch."""

import contextlib
import csv
import sys
from collections.abc import Iterator
from pathlib import Path


def tsv_rows(path: Path, columns: int, quoting: str) -> Iterator[list[str]]:
    """The fields of a tab-separated file's lines, as pandas reads them (`minimal`) or unquoted.

    Raises ValueError for a line with another number of columns, naming it.
    """
    csv.field_size_limit(sys.maxsize)  # an article is longer than the 128 KiB allowed by default
    style = csv.QUOTE_MINIMAL if quoting == "minimal" else csv.QUOTE_NONE
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t", quoting=style)
        try:
            for fields in filter(None, reader):
                if len(fields) != columns:
                    raise ValueError(f"{path}, line {reader.line_num}: {len(fields)} columns, not "
                                     f"{columns} (--tsv-quoting none if a quote is to blame)")
                yield fields
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def label_of(text: str, path: Path, classes: int) -> int:
    """An integer, perhaps written as a float (aan). Raises ValueError."""
    with contextlib.suppress(ValueError):
        if float(text) in range(classes):
            return int(float(text))
    raise ValueError(f"{path}: label {text!r} is none of 0 to {classes - 1}")
