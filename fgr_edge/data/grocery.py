"""The Grocery Store photographs (Klasson et al., WACV 2019): split lists and class names from a root folder.

In: a folder with `classes.csv`, `train.txt`, `val.txt`, `test.txt` and the photographs. Out: paths, fine and coarse
ids, and names as a person writes them ("Royal Gala"). It opens no photograph.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fgr_edge.errors import DataError

Split = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True)
class GroceryClasses:
    """Names by id: `fine[i]` is class i, `coarse[coarse_of[i]]` the class above it."""

    fine: tuple[str, ...]
    coarse: tuple[str, ...]
    coarse_of: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Photograph:
    """One row of a split list."""

    path: Path
    fine: int
    coarse: int


def pretty(name: str) -> str:
    """A class name as a person writes it: `Royal-Gala` becomes `Royal Gala`."""
    return " ".join(name.replace("-", " ").split())


def read_classes(root: Path) -> GroceryClasses:
    """Read `classes.csv`.

    Raises:
        DataError: the file is missing, a column is missing, or the ids are not 0, 1, 2, ...
    """
    path = root / "classes.csv"
    if not path.is_file():
        raise DataError(f"{path} does not exist: expected the Grocery Store data set in {root}")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        table = [
            (int(r["Class ID (int)"]), pretty(r["Class Name (str)"]), int(r["Coarse Class ID (int)"]),
             pretty(r["Coarse Class Name (str)"]))
            for r in rows
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: a row is not 'class name, id, coarse name, coarse id, ...': {error}") from error
    coarse = {coarse_id: coarse_name for _, _, coarse_id, coarse_name in table}
    if [row[0] for row in table] != list(range(len(table))) or sorted(coarse) != list(range(len(coarse))):
        raise DataError(f"{path}: the class ids are not 0, 1, 2, ... in order")
    names = tuple(coarse[i] for i in range(len(coarse)))
    return GroceryClasses(tuple(row[1] for row in table), names, tuple(row[2] for row in table))


def read_split(root: Path, split: Split) -> list[Photograph]:
    """Read one split list, in its order.

    Raises:
        DataError: the list is missing or empty, a row is malformed, or a photograph is not there.
    """
    path = root / f"{split}.txt"
    if not path.is_file():
        raise DataError(f"{path} does not exist: expected the Grocery Store data set in {root}")
    rows = []
    for number, photograph in read_list(path, root):
        if not photograph.path.is_file():
            raise DataError(f"{path}:{number}: {photograph.path} does not exist")
        rows.append(photograph)
    if not rows:
        raise DataError(f"{path} lists no photograph")
    return rows


def read_list(path: Path, root: Path) -> Iterator[tuple[int, Photograph]]:
    """Line numbers and photographs of a list whose paths start from `root`; looks at no photograph.

    Raises:
        DataError: a row is malformed.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = [field.strip() for field in line.split(",")]
        if fields == [""]:
            continue
        if len(fields) != 3 or not (fields[1].isdecimal() and fields[2].isdecimal()):
            raise DataError(f"{path}:{number}: found {line!r}, expected 'path, fine id, coarse id'")
        yield number, Photograph(root / fields[0], int(fields[1]), int(fields[2]))
