"""A camera's picture to the vision graph's patches, beside transformers: a 12-megapixel JPEG, a 4K NV12 frame.

In: nothing, or a JPEG. Out: a table, then one line of JSON. All take turns in each round, after two thrown away.

transformers    `Qwen2VLImageProcessorPil` on `Image.open(path).convert("RGB")`. It takes no frames: a frame is first
                made an RGB array, as fgr-edge does it on one core; *conversion* is that part alone. Its fast
                processor needs torchvision, which this project does not install.
fgr-edge        `read_patches(path)`: pixel values equal to transformers' (`max_abs_difference`); of a frame it starts
                from the planes.
fast            `read_patches(path, fast=True)`: other pixels, and how far off.
decode          `Image.open(path).load()`: what all of them must do before anything else.

Sizes are what a model asks for: `max_pixels` of models/nano, of the processor's default, and of Qwen2.5-VL's uploads.
With --bundle and --data, answers in direct mode on photographs enlarged `--enlarge` times and saved as JPEG, exact and
fast: how many change.

    python benchmarks/preprocessing.py [--picture FILE] [--rounds 9] [--threads 2] [--folder out/preprocessing]
                                       [--bundle BUNDLE --data LIST --labels FILE] [--enlarge 8] [--json FILE]
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import describe_machine
from benchmarks.picture import write_picture
from benchmarks.report import cell, percentiles, publish, ratio, table
from fgr_edge.runtime.image import ImageConfig, load_image
from fgr_edge.runtime.pictures.nv12 import Nv12Frame
from fgr_edge.runtime.pictures.shortcuts import read_patches

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = {"nano": (33_124, 39_788), "default": (3_136, 1_003_520), "qwen2.5-vl": (3_136, 12_845_056)}
PICTURE_PX, FRAME_PX = (4000, 3000), (3840, 2160)
QUALITY = 92  # with it the drawn picture is as large a file as a telephone's of this size


def draw_picture(path: Path) -> Path:
    """A JPEG of 12 megapixels, as soft and as noisy as an interpolated sensor's, unless it is there."""
    if not path.exists():
        half = write_picture(path.with_name("half.png"), (PICTURE_PX[0] // 2, PICTURE_PX[1] // 2))
        with Image.open(half) as image:
            large = np.asarray(image.convert("RGB").resize(PICTURE_PX, Image.Resampling.BICUBIC), np.float32)
        noise = np.random.default_rng(1).normal(0, 2, (PICTURE_PX[1], PICTURE_PX[0], 1)).astype(np.float32)
        Image.fromarray((large + noise).clip(0, 255).astype(np.uint8)).save(path, quality=QUALITY)
        half.unlink()
    return path


def frame_of(picture: Path) -> Nv12Frame:
    """The picture as a 4K camera's frame, BT.709 in limited range."""
    with Image.open(picture) as image:
        ycc = np.asarray(image.convert("RGB").resize(FRAME_PX).convert("YCbCr"))
    y = (16 + ycc[:, :, 0] * (219 / 255)).astype(np.uint8)
    uv = (128 + (ycc[::2, ::2, 1:].astype(np.float32) - 128) * (224 / 255)).astype(np.uint8)
    return Nv12Frame(y=y, uv=uv, full_range=False, matrix="bt709")


def measure(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call in each round, in an order that turns with the round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds + 2):  # the first learns the order of Pillow's passes, the second warms up
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            started = time.perf_counter()
            result = calls[name]()
            if number > 1:
                times[name].append((time.perf_counter() - started) * 1e3)
            del result
    return times


def compare(source: Path | Nv12Frame, limits: tuple[int, int], threads: int, rounds: int) -> dict[str, Any]:
    """One source at one size."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    config = ImageConfig(14, 2, 2, *limits, MEAN, STD)
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": limits[0], "longest_edge": limits[1]})
    if isinstance(source, Nv12Frame):
        calls: dict[str, Callable[[], Any]] = {
            "transformers": lambda: processor(np.asarray(load_image(source)), return_tensors="np")["pixel_values"],
            "conversion": lambda: np.asarray(load_image(source)),
        }
    else:
        calls = {
            "transformers": lambda: processor(Image.open(source).convert("RGB"), return_tensors="np")["pixel_values"],
            "decode": lambda: Image.open(source).load(),
        }
    calls["fgr-edge, 1 thread"] = lambda: read_patches(source, config, threads=1)
    calls["fgr-edge"] = lambda: read_patches(source, config, threads=threads)
    calls["fast"] = lambda: read_patches(source, config, fast=True, threads=threads)
    times = measure(calls, rounds)
    expected = calls["transformers"]()
    exact, fast = calls["fgr-edge"](), calls["fast"]()
    base = statistics.median(times["transformers"])
    return {
        "size_px": {"width": 14 * exact.grid[2], "height": 14 * exact.grid[1]},
        "ms": {name: percentiles(values) for name, values in times.items()},
        "of_transformers": {name: ratio(statistics.median(values), base) for name, values in times.items()},
        "max_abs_difference": float(np.abs(exact.pixels - expected).max()),
        "fast_abs_difference": {
            "mean": round(float(np.abs(fast.pixels - expected).mean()), 4),
            "max": round(float(np.abs(fast.pixels - expected).max()), 4),
            # One level of 255, in units of the normalized values: the mean over the channels.
            "one_level": round(float(np.mean([1 / 255 / std for std in STD])), 4),
        },
    }


def answers(bundle: Path, data: Path, labels: Path, enlarge: int, limit: int | None) -> dict[str, Any]:
    """Direct answers from exact and fast pixels of the same enlarged photographs."""
    from fgr_edge import Recognizer
    from fgr_edge.data.labelled import read_labelled

    recognizer = Recognizer(bundle, labels)
    assert recognizer.labels is not None
    names, config = recognizer.labels.names, recognizer.model.image
    right, changed, rows = {"exact": 0, "fast": 0}, 0, read_labelled(data)[:limit]
    for row in rows:
        picture = load_image(row.path)
        large = picture.resize((picture.width * enlarge, picture.height * enlarge), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        large.save(file, "JPEG", quality=QUALITY)
        chosen = {}
        for way in right:
            patches = read_patches(file.getvalue(), config, fast=way == "fast")
            chosen[way] = names[int(np.argmax(recognizer.evidence(recognizer.model.vision.encode(patches)).log_probs))]
            right[way] += chosen[way] == row.label
        changed += chosen["exact"] != chosen["fast"]
    percent = {f"{way}_top1_percent": round(100 * count / len(rows), 2) for way, count in right.items()}
    return {"bundle": bundle.name, "n": len(rows), "enlarged": enlarge, "changed": changed, **percent}


def show(document: dict[str, Any]) -> None:
    """A row for each source and size."""
    machine = document["machine"]
    print(f"{machine['cpu']}, {document['threads']} threads, load {machine['load_average_1m']}")
    print(f"JPEG of {document['picture']['bytes'] / 1e6:.2f} MB, {document['picture']['megapixels']} megapixels\n")
    head = (
        "ms, of transformers",
        "pixels",
        "transformers",
        "first",
        "1 thread",
        "fgr-edge",
        "fast",
        "exact to",
        "fast to",
    )
    rows = []
    for source, sizes in document["sources"].items():
        for name, found in sizes.items():
            ms, share = found["ms"], found["of_transformers"]
            first = "decode" if "decode" in ms else "conversion"
            columns = [
                f"{cell(ms[one]['p50'])} ({cell(share[one], 2)})" for one in ("fgr-edge, 1 thread", "fgr-edge", "fast")
            ]
            rows.append(
                (
                    f"{source}, {name}",
                    f"{found['size_px']['width']} x {found['size_px']['height']}",
                    cell(ms["transformers"]["p50"]),
                    f"{first} {cell(ms[first]['p50'])}",
                    *columns,
                    f"{found['max_abs_difference']:.1e}",
                    cell(found["fast_abs_difference"]["mean"], 3),
                )
            )
    print(table(head, rows))
    if document["answers"] is not None:
        print(f"answers: {document['answers']}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--picture", type=Path, help="a JPEG; one of 12 megapixels is drawn without it")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", default=",".join(SIZES), help="some of them, with commas between")
    parser.add_argument("--folder", type=Path, default=Path("out/preprocessing"), help="for what is drawn")
    parser.add_argument("--bundle", type=Path, help="also compare answers")
    parser.add_argument("--data", type=Path, help="list of labelled photographs, for the answers")
    parser.add_argument("--labels", type=Path, help="class names, for the answers")
    parser.add_argument("--enlarge", type=int, default=8)
    parser.add_argument("--limit", type=int, help="so many photographs at most")
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    options = parser.parse_args()
    if (options.bundle is None) != (options.data is None):
        parser.error("--bundle and --data go together")
    options.folder.mkdir(parents=True, exist_ok=True)
    picture = options.picture or draw_picture(options.folder / "picture-12mp.jpg")
    sources: dict[str, Path | Nv12Frame] = {"12 MP JPEG": picture, "4K NV12": frame_of(picture)}
    machine = describe_machine()
    with Image.open(picture) as image:
        megapixels = round(image.width * image.height / 1e6, 2)
    document = {
        "benchmark": "preprocessing",
        "picture": {"bytes": picture.stat().st_size, "megapixels": megapixels},
        "frame_px": {"width": FRAME_PX[0], "height": FRAME_PX[1]},
        "threads": options.threads,
        "rounds": options.rounds,
        "sources": {
            name: {
                size: compare(source, SIZES[size], options.threads, options.rounds) for size in options.sizes.split(",")
            }
            for name, source in sources.items()
        },
        "answers": None
        if options.bundle is None
        else answers(options.bundle, options.data, options.labels, options.enlarge, options.limit),
        "machine": machine,
    }
    show(document)
    publish(document, options.json)


if __name__ == "__main__":
    main()
