"""What a run leaves behind while it goes: resumable state, and the curve as CSV and picture."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_state(path: Path) -> dict[str, Any] | None:
    """The state saved at `path`, or None when there is none."""
    if not path.is_file():
        return None
    logger.info("going on from %s", path)
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def append_row(path: Path, row: Mapping[str, float]) -> None:
    """Add one row to a CSV file, with a header when it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def plot(path: Path, columns: list[str], title: str) -> None:
    """Draw columns of a CSV file over its `epoch` column into a PNG beside it; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        logger.warning("no picture of the curve: pip install matplotlib")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure, axes = plt.subplots(1, len(columns), figsize=(4.5 * len(columns), 3.2), squeeze=False)
    for axis, column in zip(axes[0], columns, strict=True):
        axis.plot([float(r["epoch"]) for r in rows], [float(r[column]) for r in rows])
        axis.set_xlabel("epoch")
        axis.set_title(column)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path.with_suffix(".png"), dpi=110)
    plt.close(figure)
