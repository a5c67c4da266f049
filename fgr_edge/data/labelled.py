"""Labelled photographs in the layouts that people have: one reader for all.

In: a folder per class (`folders`), a CSV or TSV file with the columns `path` and `label`, a JSONL file of Fine-R1's
records (`image_path`, `ground_truth`, perhaps `question` and `options`), or a split list of the Grocery Store data set
(`.txt` beside `classes.csv`, `grocery`). Out: paths and class names, in the source's order. It opens no photograph, but
says at once which are not there. Paths in a list start from the folder of the list, or from `root`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeGuard

from fgr_edge.data.folders import read_folders
from fgr_edge.data.grocery import read_classes, read_list
from fgr_edge.errors import DataError

LAYOUTS = (
    "a folder per class; .csv or .tsv with the columns path and label; .jsonl with image_path and ground_truth; a "
    "Grocery split list (.txt beside classes.csv)"
)
NAMED_AT_MOST = 5  # missing files in an error message


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A photograph's file and the name of its class; `question` and `options` where the source has its own."""

    path: Path
    label: str
    question: str | None = None
    options: tuple[str, ...] = ()


def read_labelled(source: Path, *, root: Path | None = None) -> list[LabelledPicture]:
    """Read labelled photographs.

    Args:
        source: a folder or a list, see the module.
        root: folder from which the paths of a list start; None is the folder of the list.

    Raises:
        DataError: there is no such source, its layout is not known, a line is malformed, it is empty, or photographs
            are not there.
    """
    if source.is_dir():
        return _from_folders(source, root)
    if not source.is_file():
        raise DataError(f"{source} does not exist; expected {LAYOUTS}")
    start = source.parent if root is None else root
    pictures = list(_reader(source)(source, start))
    if not pictures:
        raise DataError(f"{source} lists no photograph; expected one a line")
    _check_present(source, pictures, start)
    return pictures


def _from_folders(source: Path, root: Path | None) -> list[LabelledPicture]:
    if root is not None:
        raise DataError(
            f"{source} is a folder per class: its photographs lie in it, so {root} has no use; leave it out"
        )
    if (source / "classes.csv").is_file():
        raise DataError(
            f"{source} is a Grocery data set of several splits; name one of its lists, {source / 'test.txt'}"
        )
    data = read_folders(source)
    return [LabelledPicture(path, data.names[number]) for path, number in data.photographs]


def _reader(source: Path) -> Callable[[Path, Path], Iterator[LabelledPicture]]:
    suffix = source.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _from_table
    if suffix == ".jsonl":
        return read_records
    if suffix == ".txt" and (source.parent / "classes.csv").is_file():
        return _from_grocery
    raise DataError(f"{source} is in no known layout; expected {LAYOUTS}")


def _check_present(source: Path, pictures: list[LabelledPicture], start: Path) -> None:
    missing = [picture.path for picture in pictures if not picture.path.is_file()]
    if not missing:
        return
    names = ", ".join(str(path) for path in missing[:NAMED_AT_MOST])
    more = f" and {len(missing) - NAMED_AT_MOST} more" if len(missing) > NAMED_AT_MOST else ""
    raise DataError(
        f"{source}: {len(missing)} of {len(pictures)} photographs are not there: {names}{more}. Expected paths that "
        f"start from {start}"
    )


def _from_grocery(source: Path, start: Path) -> Iterator[LabelledPicture]:
    names = read_classes(source.parent).fine
    for number, photograph in read_list(source, start):
        if photograph.fine >= len(names):
            raise DataError(
                f"{source}:{number}: class {photograph.fine} is not among the {len(names)} of classes.csv; expected "
                "one of its ids"
            )
        yield LabelledPicture(photograph.path, names[photograph.fine])


def _from_table(source: Path, start: Path) -> Iterator[LabelledPicture]:
    with _opened(source) as file:
        reader = csv.DictReader(file, delimiter="\t" if source.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            columns = reader.fieldnames or ()
            if not {"path", "label"} <= set(columns):
                raise DataError(f"{source} has the columns {', '.join(columns) or 'none'}; expected path and label")
            for row in reader:
                path, label = ((row[key] or "").strip() for key in ("path", "label"))
                if not path or not label or None in row:
                    raise DataError(f"{source}:{reader.line_num}: found {_shown(row)}, expected a path and a label")
                yield LabelledPicture(start / path, label)
        except csv.Error as error:
            raise DataError(
                f"{source}:{reader.reader.line_num}: {error}; expected quoted fields as in RFC 4180"
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(f"{source} is not UTF-8 text ({error}); save it as UTF-8") from error


def read_records(source: Path, start: Path) -> Iterator[LabelledPicture]:
    """Fine-R1's evaluation records, with paths from `start`; looks at no photograph.

    Raises:
        DataError: a line is malformed.
    """
    with _opened(source) as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _record(f"{source}:{number}", line, start)
        except UnicodeDecodeError as error:
            raise DataError(f"{source} is not UTF-8 text ({error}); save it as UTF-8") from error


def _record(place: str, line: str, start: Path) -> LabelledPicture:
    """One of Fine-R1's evaluation records."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON ({error}); expected one record a line") from error
    record = value if isinstance(value, dict) else {}
    path, label, question = (record.get(key) for key in ("image_path", "ground_truth", "question"))
    if not _is_text(path) or not _is_text(label) or not (question is None or _is_text(question)):
        raise DataError(
            f"{place}: found {_shown(value)}, expected an object with the texts image_path and ground_truth"
        )
    options = record.get("options", [])
    if not isinstance(options, list) or not all(map(_is_text, options)):
        raise DataError(f"{place}: options are {_shown(options)}, expected a list of names")
    if options and (label not in options or len(set(options)) < len(options)):
        raise DataError(f"{place}: options {_shown(options)} must hold {label!r}, and each name once")
    return LabelledPicture(start / path, label.strip(), question, tuple(option.strip() for option in options))


def _opened(source: Path) -> IO[str]:
    try:
        return source.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise DataError(f"{source} cannot be read ({error.strerror}); expected {LAYOUTS}") from error


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}…"
