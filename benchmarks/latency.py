"""Decode speed and time to first token, beside transformers: same checkpoint, machine, picture, threads.

In: a checkpoint. Out: a table, then one line of JSON. All peers live in one process and take turns: in each round
every peer does one picture and one decode, in an order that turns with the round, after a round that is thrown away.

decode      tokens per second after the first, batch 1, greedy, exactly `--new-tokens` tokens whatever stop tokens come.
            fgr-edge: embedding row, decoder step, likeliest token, for each token. transformers: `generate` of all
            tokens minus `generate` of one, on prepared inputs.
first token from the path of a picture file to the first token: read, preprocess, prompt, vision, prefill, argmax.
roofline    bytes of the decoder's weights that are read for each token (all of them, the head too, or the coarse copy
            of a screened head; the cache is left out) times tokens per second, as a share of the read bandwidth.
            Bandwidth is measured in every round, between the peers, because it drifts; the median is taken.
screen      of a screened head (`runtime/screen.py`): rows computed exactly for a token, and how many tokens the full
            head had to choose.

    python benchmarks/latency.py --checkpoint DIR [--bundle-root out] [--rounds 7] [--new-tokens 64]
                                 [--picture FILE] [--threads 2] [--no-bf16] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from PIL import Image

from benchmarks.bandwidth import ReadBandwidth
from benchmarks.machine import describe_machine
from benchmarks.peers.peer import Decoded, FirstToken, Peer
from benchmarks.picture import write_picture
from benchmarks.report import cell, percentiles, publish, ratio, table

PRECISIONS = ("fp32", "int8")
SETTLE_S = 0.25  # a peer's worker threads spin for a while after its last call; the next peer waits until they sleep
BASE = "transformers fp32"
BANDWIDTH_S = 0.3  # a round


def bundles(checkpoint: Path, root: Path) -> dict[str, Path]:
    """A bundle for each precision under `root`, exported if it is not there."""
    from fgr_edge.export.pipeline import ExportConfig, export_checkpoint

    paths = {precision: root / f"{checkpoint.name}-{precision}" for precision in PRECISIONS}
    for precision, path in paths.items():
        if not (path / "manifest.json").exists():
            export_checkpoint(ExportConfig(checkpoint, path, "cpu", precision, proof=False))
    return paths


def open_peers(checkpoint: Path, paths: dict[str, Path], threads: int, new_tokens: int, bf16: bool) -> list[Peer]:
    """Everything that is compared, the one that ratios refer to first."""
    from benchmarks.peers.fgr_edge import FgrEdge
    from benchmarks.peers.transformers_eager import TransformersEager

    peers: list[Peer] = [TransformersEager(checkpoint, BASE, threads)]
    if bf16:
        peers.append(TransformersEager(checkpoint, "transformers bf16", threads, "bfloat16"))
    peers += [FgrEdge(path, f"fgr-edge {name}", threads, new_tokens) for name, path in paths.items()]
    return peers


def measure(
    peers: Sequence[Peer], picture: Path, rounds: int, new_tokens: int, bandwidth: ReadBandwidth
) -> tuple[dict[str, list[tuple[FirstToken, Decoded]]], list[float]]:
    """What each peer did in each round, and each round's GB/s; the first round warms up and is thrown away."""
    done: dict[str, list[tuple[FirstToken, Decoded]]] = {peer.name: [] for peer in peers}
    rates: list[float] = []
    for number in range(rounds + 1):
        turn = number % len(peers)
        for peer in (*peers[turn:], *peers[:turn]):
            time.sleep(SETTLE_S)
            peer.first_token(picture)  # wakes its threads and caches; not measured
            result = peer.first_token(picture), peer.decode(new_tokens)
            if number:
                done[peer.name].append(result)
        time.sleep(SETTLE_S)
        rates.append(bandwidth.gbps(BANDWIDTH_S))
    return done, rates[1:]


def summarize(results: list[tuple[FirstToken, Decoded]]) -> dict[str, Any]:
    """Percentiles of one peer."""
    tpot = percentiles([decoded.ms_per_token for _, decoded in results])
    stages = results[0][0].stages_ms
    return {
        "decode_tokens_per_s": ratio(1000, tpot["p50"]),
        "tpot_ms": tpot,
        "ttft_ms": percentiles([first.ms for first, _ in results]),
        "stages_ms": {name: percentiles([first.stages_ms[name] for first, _ in results]) for name in stages},
        "screen": screened([decoded for _, decoded in results]),
    }


def screened(decoded: Sequence[Decoded]) -> dict[str, Any] | None:
    """What the screen of an output head left over; None without one."""
    candidates = [count for one in decoded for count in one.candidates]
    if not candidates:
        return None
    told = [count for count in candidates if count is not None]
    return {
        "candidates": percentiles(told) | {"max": max(told, default=None)},
        "full_head_tokens": len(candidates) - len(told),
        "tokens": len(candidates),
    }


def weight_bytes(bundle: Path, *names: str) -> int:
    """Bytes of the weights of those graphs that the bundle has."""
    files = (bundle / f"{name}.onnx.data" for name in names)
    return sum(file.stat().st_size for file in files if file.is_file())


def compare(
    done: dict[str, list[tuple[FirstToken, Decoded]]], paths: dict[str, Path], bandwidth_gbps: float
) -> dict[str, Any]:
    """Every peer's numbers, as multiples of transformers' and of the roofline."""
    peers = {name: summarize(results) for name, results in done.items()}
    base = peers[BASE]
    for peer in peers.values():
        peer["decode_ratio"] = ratio(peer["decode_tokens_per_s"], base["decode_tokens_per_s"])
        peer["ttft_ratio"] = ratio(peer["ttft_ms"]["p50"], base["ttft_ms"]["p50"])
    sizes = {f"fgr-edge {precision}": weight_bytes(path, "decoder", "screen") for precision, path in paths.items()}
    sizes[BASE] = weight_bytes(paths["fp32"], "decoder", "head")
    sizes["transformers bf16"] = sizes[BASE] // 2
    for name, peer in peers.items():
        peer["bytes_per_token"] = sizes[name]
        rate = peer["bytes_per_token"] * peer["decode_tokens_per_s"] / 1e9
        peer["roofline_share"] = ratio(rate, bandwidth_gbps)
    return peers


def same(done: dict[str, list[tuple[FirstToken, Decoded]]]) -> dict[str, bool]:
    """Whether fp32 gave transformers' tokens, and whether all peers saw one prompt."""
    first, decoded = done[BASE][0]
    ours = done["fgr-edge fp32"][0]
    prompts = {result[0].prompt_ids for results in done.values() for result in results}
    return {
        "tokens_equal": ours[1].tokens == decoded.tokens and ours[0].token == first.token,
        "prompts_equal": len(prompts) == 1,
    }


def show(document: dict[str, Any]) -> None:
    """Roofline first, then the machine, then the table."""
    bandwidth, machine = document["read_bandwidth_gbps"], document["machine"]
    print(
        f"read bandwidth {bandwidth['p50']:.1f} GB/s, {bandwidth['min']:.1f} to {bandwidth['max']:.1f} "
        f"over the rounds, {document['threads']} threads"
    )
    for name, peer in document["peers"].items():
        limit = bandwidth["p50"] * 1e9 / peer["bytes_per_token"]
        print(f"roofline of {name}: {peer['bytes_per_token'] / 1e6:.1f} MB a token, {limit:.1f} tokens/s at most")
    print(
        f"machine {machine['cpu']}, {machine['cores']} cores, load {machine['load_average_1m']}, "
        f"noise {machine['noise_percent']} %"
    )
    print(
        f"{document['checkpoint']}: {document['picture']['width_px']} x {document['picture']['height_px']}, "
        f"{document['prompt_tokens']} prompt tokens, {document['new_tokens']} new, {document['rounds']} rounds, "
        f"prompts equal: {document['prompts_equal']}, fp32 tokens equal: {document['tokens_equal']}\n"
    )
    head = (
        "p50 (p95)",
        "decode tokens/s",
        "x",
        "token ms",
        "first token ms",
        "x",
        "roofline",
    )
    rows = [
        (
            name,
            cell(peer["decode_tokens_per_s"]),
            cell(peer["decode_ratio"], 2),
            f"{cell(peer['tpot_ms']['p50'], 2)} ({cell(peer['tpot_ms']['p95'], 2)})",
            f"{cell(peer['ttft_ms']['p50'])} ({cell(peer['ttft_ms']['p95'])})",
            cell(peer["ttft_ratio"], 2),
            cell(100 * peer["roofline_share"], 0, " %"),
        )
        for name, peer in document["peers"].items()
    ]
    print(table(head, rows))
    for name, peer in document["peers"].items():
        if peer["stages_ms"]:
            stages = ", ".join(f"{stage} {cell(value['p50'])} ms" for stage, value in peer["stages_ms"].items())
            print(f"{name}: {stages}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--bundle-root", type=Path, default=Path("out"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--picture", type=Path, help="a picture file; one of 640 x 480 is drawn without it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-bf16", action="store_true", help="leave transformers in bfloat16 out")
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    options = parser.parse_args()
    if options.rounds < 1 or options.new_tokens < 2:
        parser.error("--rounds must be at least 1 and --new-tokens at least 2")
    picture = options.picture or write_picture(options.bundle_root / "picture-640x480.jpg")
    paths = bundles(options.checkpoint, options.bundle_root)
    bandwidth = ReadBandwidth(options.threads)
    peers = open_peers(options.checkpoint, paths, options.threads, options.new_tokens, bf16=not options.no_bf16)
    machine = describe_machine()
    done, rates = measure(peers, picture, options.rounds, options.new_tokens, bandwidth)
    median = statistics.median(rates)
    with Image.open(picture) as image:
        width, height = image.size
    document = {
        "benchmark": "latency",
        "checkpoint": options.checkpoint.name,
        "picture": {"width_px": width, "height_px": height},
        "prompt_tokens": len(done[BASE][0][0].prompt_ids),
        "new_tokens": options.new_tokens,
        "rounds": options.rounds,
        "threads": options.threads,
        "read_bandwidth_gbps": {
            "p50": round(median, 2),
            "min": round(min(rates), 2),
            "max": round(max(rates), 2),
        },
        **same(done),
        "peers": compare(done, paths, median),
        "machine": machine,
    }
    show(document)
    publish(document, options.json)


if __name__ == "__main__":
    main()
