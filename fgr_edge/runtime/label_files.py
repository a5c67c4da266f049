"""Files of class names as rows: plain text, CSV and TSV, JSON, TOML.

In: the text of a file and its suffix. Out: one row a class, a name or a mapping with the keys of `labels.Label`, each
with its place in the file ("line 3", "label 3"). It knows how files are written; what a name may be is for `labels` to
say.

- `.csv`, `.tsv`: a header with `name` and any of `parent`, `synonyms` (separated by | or ;), `description`.
- `.json`: a list of names or of objects, or `{"labels": [...]}`.  `.toml`: `[[labels]]` tables.
- Any other suffix: one name a line; empty lines and lines that start with `#` are skipped.

All are UTF-8, with or without a byte order mark, with any line ends.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fgr_edge.errors import LabelError, MissingExtraError

KEYS = ("name", "parent", "synonyms", "description")
Row = tuple[str, object]  # place in the file, and a name or a mapping
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SEPARATORS = re.compile("[|;]")


def rows_of(text: str, suffix: str) -> Iterator[Row]:
    """The rows of a file with that suffix.

    Raises:
        LabelError: it is not what its suffix says; the message names the place in the file, not the file.
        MissingExtraError: a .toml file on Python 3.10 without `tomli`.
    """
    suffix = suffix.lower()
    if suffix in _DELIMITERS:
        return _table_rows(text, _DELIMITERS[suffix])
    if suffix == ".json":
        return _listed_rows(_parse_json(text), "a list of names or objects, or an object with 'labels'")
    if suffix == ".toml":
        return _listed_rows(_parse_toml(text), "[[labels]] tables")
    return _text_rows(text)


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        LabelError: there is no such file, or it is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise LabelError(f"{path} does not exist; expected a text file with one class name a line") from error
    except (UnicodeDecodeError, OSError) as error:
        raise LabelError(f"{path} cannot be read as UTF-8 text ({error}); expected one class name a line") from error


def _text_rows(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: it also splits at U+2028
        name = line.strip()
        if name and not name.startswith("#"):
            yield f"line {number}", name


def _table_rows(text: str, delimiter: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            place, line = f"line {line}", reader.line_num + 1  # a quoted cell may span lines: its first one is named
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns = _columns(cells, delimiter, place)
                continue
            if len(cells) > len(columns):
                raise LabelError(
                    f"{place} has {len(cells)} cells, expected {len(columns)} ({', '.join(columns)}); put quotes "
                    f"around a cell that holds {delimiter!r}"
                )
            yield place, _table_row(dict(zip(columns, cells, strict=False)))
    except csv.Error as error:
        raise LabelError(f"line {line} is no row of a table ({error}); check its quotes") from error
    if columns is None:
        raise LabelError("the table is empty; expected a header with 'name', and one class a line")


def _columns(cells: list[str], delimiter: str, place: str) -> list[str]:
    columns = [cell.strip().lower() for cell in cells]
    unknown = [cell for cell, column in zip(cells, columns, strict=True) if column not in KEYS]
    twice = [column for column in columns if columns.count(column) > 1]
    expected = f"expected 'name' and any of {', '.join(map(repr, KEYS[1:]))}, with {delimiter!r} between them"
    if unknown:
        raise LabelError(f"{place} has the column {unknown[0].strip()[:80]!r}; {expected}")
    if twice:
        raise LabelError(f"{place} has the column {twice[0]!r} twice; {expected}")
    if "name" not in columns:
        raise LabelError(f"{place} has no column 'name'; {expected}")
    return columns


def _table_row(cells: Mapping[str, str]) -> dict[str, object]:
    row: dict[str, object] = {key: cell for key, cell in cells.items() if key == "name" or cell.strip()}
    if "synonyms" in row:
        row["synonyms"] = [text for text in _SEPARATORS.split(cells["synonyms"]) if text.strip()]
    return row


def _listed_rows(value: object, expected: str) -> Iterator[Row]:
    rows = value.get("labels") if isinstance(value, Mapping) else value
    if not isinstance(rows, list):
        raise LabelError(f"there is no list of labels; expected {expected}")
    for position, row in enumerate(rows, 1):
        yield f"label {position}", row


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"this is not JSON ({error}); check the file") from error


def _parse_toml(text: str) -> dict[str, Any]:
    try:
        reader = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is not installed, and Python 3.10 reads no TOML without it; pip install tomli, or write the "
            "labels as .csv or .json"
        ) from error
    try:
        table: dict[str, Any] = reader.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise LabelError(f"this is not TOML ({error}); check the file") from error
    return table
