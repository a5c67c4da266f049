"""What each quantization scheme costs and brings: bytes per weight, decode speed, time of a picture and of a prompt.

In: a checkpoint. Out: a table, then one line of JSON. Every scheme is given to the whole model (vision, decoder, head)
and rounded to the nearest, uncalibrated: how a weight was rounded changes what it says, not how long it takes. All
bundles live in one process and take turns as in `latency.py`, with the read bandwidth measured between the rounds.

bytes per weight  of the decoder's file, scales, zero points, norms and head included, over its weights.
decode            as in `latency.py`: embedding row, decoder step, argmax, for each token.
vision, prefill   of one picture and its prompt: what a scheme costs where arithmetic is the limit.
roofline          bytes of weights in memory, times tokens per second, as a share of the read bandwidth. On the CPU
                  16-bit weights are float32 in memory: the roofline counts them so.

    python benchmarks/schemes.py --checkpoint DIR [--bundle-root out/schemes] [--schemes fp32,int8,...] [--rounds 7]
                                 [--new-tokens 64] [--picture FILE] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from PIL import Image

from benchmarks.bandwidth import ReadBandwidth
from benchmarks.latency import measure, summarize
from benchmarks.machine import describe_machine
from benchmarks.peers.fgr_edge import FgrEdge
from benchmarks.peers.peer import Peer
from benchmarks.picture import write_picture
from benchmarks.report import cell, publish, ratio, table
from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.calibrate.schemes.scheme import Plain
from fgr_edge.export.assembly import BundleOptions, write_bundle
from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.export.graphs.decoder import decoder_weights
from fgr_edge.export.graphs.vision import vision_weights
from fgr_edge.export.model import Model, open_model
from fgr_edge.export.targets import TARGETS

BASE = "fp32"
DEFAULT = tuple(name for name in SCHEMES if name != "fp8")  # which ONNX Runtime does not compute


def bundles(model: Model, names: list[str], root: Path) -> dict[str, Path]:
    """A bundle for each scheme under `root`, written if it is not there."""
    paths = {name: root / f"{model.checkpoint.path.name}-{name}" for name in names}
    for name, path in paths.items():
        if not (path / "manifest.json").exists():
            options = BundleOptions(model.checkpoint.path.name, model.checkpoint.digest(), title=name)
            write_bundle(model, TARGETS["cpu"], Plan.uniform(SCHEMES[name]), path, options)
    return paths


def size_of(path: Path, name: str, model: Model) -> dict[str, Any]:
    """Bytes of one bundle's weights, on disk and as read for a token."""
    decoder, vision = ((path / f"{part}.onnx.data").stat().st_size for part in ("decoder", "vision"))
    scheme = SCHEMES[name]
    unpacked = 2 if isinstance(scheme, Plain) and scheme.dtype != "float32" else 1
    return {
        "decoder_bytes": decoder,
        "vision_bytes": vision,
        "bytes_per_weight": round(decoder / decoder_weights(model.decoder_dims), 3),
        "vision_bytes_per_weight": round(vision / vision_weights(model.vision_dims), 3),
        "bytes_per_token": unpacked * decoder,
    }


def report(
    done: dict[str, Any], paths: dict[str, Path], model: Model, bandwidth_gbps: float
) -> dict[str, dict[str, Any]]:
    """Every scheme's figures, decode as multiples of fp32's where that was measured."""
    rows = {name: {**size_of(paths[name], name, model), **summarize(results)} for name, results in done.items()}
    base = rows.get(BASE, {}).get("decode_tokens_per_s")
    for row in rows.values():
        row["decode_ratio"] = ratio(row["decode_tokens_per_s"], base)
        row["roofline_share"] = ratio(row["bytes_per_token"] * row["decode_tokens_per_s"] / 1e9, bandwidth_gbps)
    return rows


def show(document: dict[str, Any]) -> None:
    """Roofline first, then the machine, then the table."""
    bandwidth, machine = document["read_bandwidth_gbps"], document["machine"]
    print(
        f"read bandwidth {bandwidth['p50']:.1f} GB/s, {bandwidth['min']:.1f} to {bandwidth['max']:.1f} "
        f"over the rounds, {document['threads']} threads"
    )
    print(
        f"machine {machine['cpu']}, {machine['cores']} cores, load {machine['load_average_1m']}, "
        f"noise {machine['noise_percent']} %"
    )
    print(
        f"{document['checkpoint']}: {document['weights']['decoder'] / 1e6:.1f} million weights in the decoder, "
        f"{document['weights']['vision'] / 1e6:.1f} in vision; {document['prompt_tokens']} prompt tokens, "
        f"{document['new_tokens']} new, {document['rounds']} rounds\n"
    )
    head = ("p50", "bytes / weight", "decode tokens/s", "x", "roofline", "vision ms", "prefill ms", "first token ms")
    rows = [
        (
            name,
            cell(row["bytes_per_weight"], 2),
            cell(row["decode_tokens_per_s"]),
            cell(row["decode_ratio"], 2),
            cell(100 * row["roofline_share"], 0, " %"),
            cell(row["stages_ms"]["vision"]["p50"]),
            cell(row["stages_ms"]["prefill"]["p50"]),
            cell(row["ttft_ms"]["p50"]),
        )
        for name, row in document["schemes"].items()
    ]
    print(table(head, rows))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--bundle-root", type=Path, default=Path("out/schemes"))
    parser.add_argument("--schemes", default=",".join(DEFAULT), help="names with commas between them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--picture", type=Path, help="a picture file; one of 640 x 480 is drawn without it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    options = parser.parse_args()
    names = options.schemes.split(",")
    if unknown := sorted(set(names) - set(DEFAULT)):
        parser.error(f"--schemes has {', '.join(unknown)}; choose among {', '.join(DEFAULT)}")
    if options.rounds < 1 or options.new_tokens < 2:
        parser.error("--rounds must be at least 1 and --new-tokens at least 2")
    options.bundle_root.mkdir(parents=True, exist_ok=True)
    picture = options.picture or write_picture(options.bundle_root / "picture-640x480.jpg")
    model = open_model(Checkpoint.open(options.checkpoint))
    paths = bundles(model, names, options.bundle_root)
    bandwidth = ReadBandwidth(options.threads)
    peers: list[Peer] = [FgrEdge(path, name, options.threads, options.new_tokens) for name, path in paths.items()]
    machine = describe_machine()
    done, rates = measure(peers, picture, options.rounds, options.new_tokens, bandwidth)
    median = statistics.median(rates)
    with Image.open(picture) as image:
        width, height = image.size
    document = {
        "benchmark": "schemes",
        "checkpoint": options.checkpoint.name,
        "weights": {"decoder": decoder_weights(model.decoder_dims), "vision": vision_weights(model.vision_dims)},
        "picture": {"width_px": width, "height_px": height},
        "prompt_tokens": len(done[names[0]][0][0].prompt_ids),
        "new_tokens": options.new_tokens,
        "rounds": options.rounds,
        "threads": options.threads,
        "read_bandwidth_gbps": {
            "p50": round(median, 2),
            "min": round(min(rates), 2),
            "max": round(max(rates), 2),
        },
        "schemes": report(done, paths, model, median),
        "machine": machine,
    }
    show(document)
    publish(document, options.json)


if __name__ == "__main__":
    main()
