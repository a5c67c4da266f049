"""What every benchmark prints and writes: percentiles, a table, one JSON document as the last line."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = Sequence[str]


def percentiles(values: Sequence[float]) -> dict[str, float | int | None]:
    """Median and 95th percentile (linear between ranks) over n values; null where there are none."""
    if not values:
        return {"p50": None, "p95": None, "n": 0}
    ranked = sorted(values)
    place = 0.95 * (len(ranked) - 1)
    low = int(place)
    high = min(low + 1, len(ranked) - 1)
    p95 = ranked[low] + (place - low) * (ranked[high] - ranked[low])
    return {"p50": round(statistics.median(ranked), 4), "p95": round(p95, 4), "n": len(ranked)}


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """Their quotient to three significant digits or more; null where either is unknown."""
    return None if numerator is None or not denominator else round(numerator / denominator, 3)


def cell(value: float | None, digits: int = 1, suffix: str = "") -> str:
    """A number as a table shows it; an unknown one is a dash."""
    return "-" if value is None else f"{value:.{digits}f}{suffix}"


def megabytes(size: int | None) -> str:
    """A number of bytes as a table of MB shows it."""
    return "-" if size is None else cell(size / 1e6)


def gibibytes(size: int | None) -> str:
    """A number of bytes with its unit."""
    return "-" if size is None else f"{size / 2**30:.2f} GiB"


def table(head: Row, rows: Sequence[Row]) -> str:
    """Columns of equal width for a terminal, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    )


def publish(document: dict[str, Any], path: Path | None) -> None:
    """Write the document to `path`, if there is one, and print it as one line."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(document, ensure_ascii=False))
