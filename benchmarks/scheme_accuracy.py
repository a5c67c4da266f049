"""What each quantization scheme does to the answers of models/nano: `python -m benchmarks.scheme_accuracy`.

In: a checkpoint and the Grocery photographs. Every variant is exported as `fgr-edge export` does it, those that are
fitted to photographs on some of val.txt, and answers in direct mode beside the original, the same checkpoint in fp32:
on the photographs of test.txt, which nothing was fitted on, and on held-out aviary drawings, which are unlike those it
was fitted on. Out: tables, then one line of JSON.

top-1    right answers; lost and gained against the original, on the same pictures.
changed  answers that are not the original's, right or wrong.
KL       divergence of the class probabilities from the original's: it uses every picture, not only those that flip.
pairs    fitted weights against the same layout rounded to nearest: the same measures, paired.

    python -m benchmarks.scheme_accuracy [--checkpoint models/nano] [--grocery DIR] [--drawings 120] [--limit N]
                                         [--calib-pictures 128] [--threads 1] [--bundles DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.report import publish, table
from benchmarks.scheme_pairs import Floats, Ints, against_nearest, against_original
from benchmarks.scheme_rows import pair_rows, scheme_rows
from fgr_edge import Recognizer
from fgr_edge.data.aviary import HELD_OUT_SEEDS, NAMES, SPECIES, Species
from fgr_edge.data.aviary_drawing import draw
from fgr_edge.data.labelled import read_labelled
from fgr_edge.evaluate.evaluation import class_indices
from fgr_edge.export.pipeline import ExportConfig, export_checkpoint
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.image import load_image
from fgr_edge.runtime.labels import LabelSet, read_labels

FITTED_ON = "val.txt"
GROCERY, AVIARY = "grocery test", "aviary held-out"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to export the checkpoint.

    Attributes:
        precision: of `--precision`.
        method: of `--method`; None is the precision's own.
        everywhere: scheme of all three parts; None leaves the precision's.
        nearest: the variant with the same layout, rounded to nearest, to compare it with; None where there is none.
    """

    precision: str
    method: str | None = None
    everywhere: str | None = None
    nearest: str | None = None


ORIGINAL = "fp32"
VARIANTS = {
    ORIGINAL: Variant("fp32"),
    "fp16": Variant("fp16"),
    "int8": Variant("int8"),
    "int8-channel": Variant("int8", everywhere="int8-channel"),
    "w8a8, smoothquant": Variant("w8a8"),
    "int4, gptq": Variant("int4", nearest="int4, nearest"),
    "int4, awq": Variant("int4", "awq", nearest="int4, nearest"),
    "int4, nearest": Variant("int4", "nearest"),
    "all int4-128, gptq": Variant("int4", "gptq", "int4-128", nearest="all int4-128, nearest"),
    "all int4-128, nearest": Variant("int4", "nearest", "int4-128"),
    "all int4-32, gptq": Variant("int4", "gptq", "int4-32", nearest="all int4-32, nearest"),
    "all int4-32, nearest": Variant("int4", "nearest", "int4-32"),
}


@dataclass(frozen=True, slots=True)
class Questions:
    """Pictures, files or drawings as bytes of a PNG, with their right classes."""

    name: str
    labels: LabelSet
    images: Sequence[Path | bytes]
    truths: Ints


def export(variant: Variant, path: Path, options: argparse.Namespace) -> Path:
    """The bundle of a variant, unproved: it is measured here."""
    return export_checkpoint(
        ExportConfig(
            options.checkpoint,
            path,
            precision=variant.precision,
            vision=variant.everywhere,
            decoder=variant.everywhere,
            head=variant.everywhere,
            method=variant.method,
            calib=options.grocery / FITTED_ON,
            calib_pictures=options.calib_pictures,
            proof=False,
            labels=options.labels,
            quiet=True,
        )
    )


def bundles(folder: Path, options: argparse.Namespace) -> dict[str, Path]:
    """A bundle for each variant under `folder`; those that are there stay."""
    paths = {name: folder / name.replace(", ", "-").replace(" ", "-") for name in VARIANTS}
    for name, path in paths.items():
        started = time.perf_counter()
        if not (path / "manifest.json").exists():
            export(VARIANTS[name], path, options)
        print(f"{name}: exported in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return paths


def questions(options: argparse.Namespace) -> list[Questions]:
    """Photographs of test.txt and held-out drawings, as many of each species."""
    pictures = read_labelled(options.grocery / "test.txt")[: options.limit]
    labels = read_labels(options.labels)
    photographs = Questions(
        GROCERY, labels, [picture.path for picture in pictures], np.array(class_indices(pictures, labels))
    )
    seeds = HELD_OUT_SEEDS[: max(1, options.drawings // len(SPECIES))]
    drawn = Questions(
        AVIARY,
        LabelSet.from_names(NAMES),
        [_drawn(species, seed) for seed in seeds for species in SPECIES],
        np.tile(np.arange(len(SPECIES)), len(seeds)),
    )
    return [photographs, drawn]


def _drawn(species: Species, seed: int) -> bytes:
    file = io.BytesIO()
    draw(species, seed).save(file, "PNG")
    return file.getvalue()


def scores(paths: Mapping[str, Path], asked: Questions, threads: int) -> dict[str, Floats]:
    """[N, C] log-probabilities of the classes by variant.

    Each picture is opened once and looked at once by every vision graph: bundles that differ in the decoder alone share
    what it saw.
    """
    recognizers = {name: Recognizer(path, asked.labels, threads=threads) for name, path in paths.items()}
    graphs = {name: vision_of(path) for name, path in paths.items()}
    rows: dict[str, list[Floats]] = {name: [] for name in paths}
    for picture in asked.images:
        image = load_image(picture)
        seen: dict[tuple[str, ...], Any] = {}
        for name, recognizer in recognizers.items():
            if graphs[name] not in seen:
                seen[graphs[name]] = recognizer.see(image)
            rows[name].append(recognizer.evidence(seen[graphs[name]]).log_probs)
    return {name: np.stack(found) for name, found in rows.items()}


def vision_of(path: Path) -> tuple[str, ...]:
    """Checksums of everything that a picture passes through before the decoder; equal ones see the same."""
    files = Bundle.open(path).manifest["files"]
    return tuple(entry["sha256"] for name, entry in sorted(files.items()) if name.startswith("vision."))


def facts(path: Path) -> dict[str, Any]:
    """What a bundle is: schemes of its parts, method, bytes of the quantized weights (not of the embedding table)."""
    manifest = Bundle.open(path).manifest
    sizes = {part: manifest["files"][f"{part}.onnx.data"]["size"] for part in ("vision", "decoder")}
    return {
        "precision": manifest["precision"],
        "method": manifest["provenance"]["method"],
        "calibration_digest": manifest["provenance"]["calibration_digest"],
        "weights_bytes": sum(sizes.values()),
        "part_bytes": sizes,
    }


def measure(paths: Mapping[str, Path], asked: Sequence[Questions], threads: int) -> dict[str, Any]:
    """Every variant and every pair on all pictures."""
    schemes: dict[str, Any] = {name: {**facts(path), "data": {}} for name, path in paths.items()}
    pairs: list[dict[str, Any]] = [
        {"fitted": name, "nearest": variant.nearest, "data": {}}
        for name, variant in VARIANTS.items()
        if variant.nearest is not None and name in paths
    ]
    for data in asked:
        started = time.perf_counter()
        found = scores(paths, data, threads)
        print(f"{data.name}: {len(data.truths)} pictures, {time.perf_counter() - started:.0f} s", file=sys.stderr)
        original = found[ORIGINAL]
        for name, row in schemes.items():
            row["data"][data.name] = against_original(data.truths, original, found[name])
        for pair in pairs:
            sides = found[pair["nearest"]], found[pair["fitted"]]
            pair["data"][data.name] = against_nearest(data.truths, original, *sides)
    return {"schemes": schemes, "pairs": pairs}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("models/nano"))
    parser.add_argument("--grocery", type=Path, default=Path("../shared/grocery"))
    parser.add_argument("--labels", type=Path, default=Path("models/nano/labels_grocery.csv"))
    parser.add_argument("--calib-pictures", type=int, default=128, help=f"of {FITTED_ON}")
    parser.add_argument("--drawings", type=int, default=120)
    parser.add_argument("--limit", type=int, help="only the first photographs, for a quick look")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bundles", type=Path, help="keep the bundles in this folder, and take those that are there")
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        paths = bundles(options.bundles or Path(scratch), options)
        measured = measure(paths, questions(options), options.threads)
    document = {
        "benchmark": "scheme_accuracy",
        "checkpoint": options.checkpoint.name,
        "mode": "direct",
        "original": ORIGINAL,
        "calibration": {"source": f"grocery {FITTED_ON}", "pictures": options.calib_pictures},
        "threads": options.threads,
        **measured,
        "machine": describe_machine(),
    }
    print(table(*scheme_rows(document)) + "\n\n" + table(*pair_rows(document)) + "\n")
    publish(document, options.json)


if __name__ == "__main__":
    main()
