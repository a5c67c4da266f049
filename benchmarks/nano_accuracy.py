"""Accuracy of an exported nano bundle: `python -m benchmarks.nano_accuracy BUNDLE [--grocery DIR]`.

Direct and reasoned answers of the runtime on the grocery test photographs (81 classes, fine and coarse) and on 400
held-out aviary drawings. Prints a table; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.report import publish
from fgr_edge import Recognizer
from fgr_edge.data.aviary import HELD_OUT_SEEDS, NAMES, SPECIES
from fgr_edge.data.aviary_drawing import draw
from fgr_edge.data.grocery import read_classes, read_split
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.confidence import MODES
from fgr_edge.runtime.image import ImageInput
from fgr_edge.runtime.prompt import Mode


def measure(
    recognizer: Recognizer, images: Sequence[ImageInput], labels: Sequence[str], mode: Mode
) -> tuple[list[str | None], float]:
    """Answers to every picture, and seconds a picture."""
    start = time.perf_counter()
    answers = [recognizer(image, mode=mode).label for image in images]
    return answers, (time.perf_counter() - start) / len(labels)


def share(answers: Sequence[str | None], labels: Sequence[str], above: dict[str, str] | None = None) -> float:
    """Percentage of right answers; with `above`, of right answers one level up."""
    names = above or {}
    hits = [a is not None and names.get(a, a) == names.get(y, y) for a, y in zip(answers, labels, strict=True)]
    return round(100 * sum(hits) / len(hits), 2)


def aviary(bundle: Path, count: int) -> list[dict[str, Any]]:
    """Rows for the held-out drawings."""
    per_species = max(1, count // len(NAMES))
    jobs = [(s, HELD_OUT_SEEDS[k]) for k in range(per_species) for s in SPECIES]
    images = []
    for species, seed in jobs:
        file = io.BytesIO()
        draw(species, seed).save(file, "PNG")
        images.append(file.getvalue())
    labels = [species.name for species, _ in jobs]
    recognizer = Recognizer(bundle, labels=list(NAMES))
    rows = []
    for mode in MODES:
        answers, seconds = measure(recognizer, images, labels, mode)
        rows.append(
            {"data": "aviary held-out", "mode": mode, "n": len(labels), "fine_percent": share(answers, labels),
             "coarse_percent": None, "ms_per_image": round(1000 * seconds, 1)}
        )  # fmt: skip
    return rows


def grocery(bundle: Path, root: Path, split: str, limit: int | None) -> list[dict[str, Any]]:
    """Rows for the photographs of one split."""
    classes = read_classes(root)
    photographs = read_split(root, "val" if split == "val" else "test")[:limit]
    labels = [classes.fine[p.fine] for p in photographs]
    above = {name: classes.coarse[classes.coarse_of[i]] for i, name in enumerate(classes.fine)}
    recognizer = Recognizer(bundle, labels=list(classes.fine))
    rows = []
    for mode in MODES:
        answers, seconds = measure(recognizer, [p.path for p in photographs], labels, mode)
        rows.append(
            {"data": f"grocery {split}", "mode": mode, "n": len(labels), "fine_percent": share(answers, labels),
             "coarse_percent": share(answers, labels, above), "ms_per_image": round(1000 * seconds, 1)}
        )  # fmt: skip
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--grocery", type=Path, default=Path("../shared/grocery"))
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--limit", type=int, default=None, help="only the first photographs, for a quick look")
    parser.add_argument("--drawings", type=int, default=400)
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    args = parser.parse_args()
    rows = aviary(args.bundle, args.drawings)
    if args.grocery.is_dir():
        rows += grocery(args.bundle, args.grocery, args.split, args.limit)
    print("| data | mode | n | fine % | coarse % | ms / image |\n|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join("-" if value is None else str(value) for value in row.values()) + " |")
    precision = Bundle.open(args.bundle).manifest["precision"]["decoder"]
    publish(
        {"benchmark": "nano_accuracy", "precision": precision, "rows": rows, "machine": describe_machine()}, args.json
    )


if __name__ == "__main__":
    main()
