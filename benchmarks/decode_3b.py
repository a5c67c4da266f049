"""The 3B shape on this machine: decoding against the read bandwidth, memory of the process, cold and warm start.

In: a bundle, or a checkpoint to make it from (int4 in blocks of 128 but for vision, int8; rounded to nearest). Out: a
table, then one line of JSON. Each part is a process of its own.

decode    tokens per second after the first, greedy, in slices of 8 tokens, the read bandwidth measured before and after
          each in the same process, by the same number of threads, on huge pages where the system has them. The share is
          of the mean of the two: bytes of the decoder's weights and of the cache so far, times tokens per second. A
          virtual machine may have one core's bandwidth now and two cores' then: slices on either side of the middle
          between the lowest and the highest bandwidth are reported apart, too. Once as by default, once with weights on
          huge pages, which `fgr-edge tune` may choose and which takes some seconds when a graph is opened.
start     a fresh process, the bundle's files out of the page cache (*cold*) or in it (*warm*): until the graphs are
          open, until the first token, and what came from the disk by then, as a multiple of the files that are read
          whole. Resident memory after each step, mapped files and the process's own apart; its high-water mark.
limits    1.15 times the weights and the cache: with the embedding table, which is mapped and of which few rows are
          read, and without it.

    python benchmarks/decode_3b.py BUNDLE [--checkpoint DIR] [--rounds 7] [--new-tokens 48] [--starts 2] [--threads 2]
                                   [--picture FILE] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.child import run_child
from benchmarks.machine import describe_machine
from benchmarks.picture import write_picture
from benchmarks.report import cell, percentiles, publish, ratio, table
from fgr_edge.bench.bandwidth import ReadBandwidth
from fgr_edge.bench.traffic import Traffic
from fgr_edge.runtime.bundle import EMBEDDING, Bundle
from fgr_edge.runtime.sessions.huge_pages import collapse_large_areas

BANDWIDTH_S = 0.1
SETTLE_S = 0.02
SLICE_TOKENS = 8
LIMIT = 1.15


def main() -> None:
    """The command line; `--part` is how it starts its own processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="makes the bundle, if it is not there")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--starts", type=int, default=2, help="of each kind")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="one of 640 x 480 is drawn without it")
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    parser.add_argument("--part", choices=("decode", "decode-huge", "start"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    picture = options.picture or write_picture(Path("out/picture-640x480.jpg"))
    if options.part is not None:
        if options.part == "start":
            print(json.dumps(start(options.bundle, picture, options.threads, options.new_tokens)))
            return
        slices = options.rounds * max(1, options.new_tokens // SLICE_TOKENS)
        huge_pages = options.part == "decode-huge"
        print(json.dumps(decode(options.bundle, picture, options.threads, slices, huge_pages=huge_pages)))
        return
    if not (options.bundle / "manifest.json").exists():
        if options.checkpoint is None:
            parser.error(f"there is no bundle {options.bundle}: give --checkpoint to make it")
        export(options.checkpoint, options.bundle)
    machine = describe_machine()
    decoded = child("decode", options.bundle, picture, options)
    on_huge_pages = child("decode-huge", options.bundle, picture, options)
    starts: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": []}
    for _ in range(options.starts):
        for kind, runs in starts.items():
            if kind == "cold":
                put_out_of_cache(options.bundle)
            runs.append(child("start", options.bundle, picture, options))
    document = {
        "benchmark": "decode 3b",
        "bundle": options.bundle.name,
        "threads": options.threads,
        "new_tokens": options.new_tokens,
        "rounds": options.rounds,
        "bytes": sizes(Bundle.open(options.bundle), starts["warm"][0]["cache_slots"]),
        "decode": decoded,
        "decode_huge_pages": on_huge_pages,
        "starts": starts,
        "machine": machine,
    }
    document["memory"] = judged(document["bytes"], starts)
    show(document)
    publish(document, options.json)


def export(checkpoint: Path, bundle: Path) -> None:
    """int4 as `--precision int4` lays it out, rounded to nearest, not compared with the original."""
    from fgr_edge.export.pipeline import ExportConfig, export_checkpoint

    export_checkpoint(ExportConfig(checkpoint, bundle, precision="int4", method="nearest", proof=False))


def child(part: str, bundle: Path, picture: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One part in a fresh process."""
    numbers = ("--threads", options.threads, "--new-tokens", options.new_tokens, "--rounds", options.rounds)
    command = [sys.executable, "-m", "benchmarks.decode_3b", bundle, "--part", part, "--picture", picture, *numbers]
    run = run_child([str(word) for word in command])
    document: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return document


def decode(bundle: Path, picture: Path, threads: int, slices: int, *, huge_pages: bool) -> dict[str, Any]:
    """Slices of decoding between measurements of the bandwidth; the first is thrown away."""
    from benchmarks.peers.fgr_edge import FgrEdge

    peer = FgrEdge(bundle, "", threads, SLICE_TOKENS + 1)
    began = time.perf_counter()
    moved = collapse_large_areas() if huge_pages else 0
    moving_s = time.perf_counter() - began
    bandwidth = ReadBandwidth(threads)
    first = [peer.first_token(picture) for _ in range(2)][-1]
    prompt = len(first.prompt_ids)
    per_token = Traffic.of(Bundle.open(bundle), screened=True).bytes_per_token(prompt + SLICE_TOKENS / 2)
    rates, tpot = [bandwidth.gbps(BANDWIDTH_S)], []
    for _ in range(slices + 1):
        time.sleep(SETTLE_S)
        tpot.append(peer.decode(SLICE_TOKENS + 1).ms_per_token)
        time.sleep(SETTLE_S)
        rates.append(bandwidth.gbps(BANDWIDTH_S))
    pairs = list(pairwise(rates))[1:]  # without the first slice, as below
    middle = (min(rates) + max(rates)) / 2
    low = [index for index, pair in enumerate(pairs) if max(pair) < middle]
    high = [index for index, pair in enumerate(pairs) if min(pair) >= middle]
    return {
        "prompt_tokens": prompt,
        "bytes_per_token": round(per_token),
        **shares(per_token, tpot[1:], pairs),
        "low_bandwidth": shares(per_token, [tpot[1:][i] for i in low], [pairs[i] for i in low]),
        "high_bandwidth": shares(per_token, [tpot[1:][i] for i in high], [pairs[i] for i in high]),
        "huge_pages_bytes": moved,
        "huge_pages_s": round(moving_s, 2),
        "ttft_ms": round(first.ms, 1),
        "stages_ms": {name: round(ms, 1) for name, ms in first.stages_ms.items()},
    }


def shares(per_token: float, tpot: Sequence[float], pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Of slices: milliseconds of a token, GB/s before and after."""
    if not tpot:
        return {"tokens_per_s": None, "tpot_ms": percentiles([]), "read_bandwidth_gbps": None, "roofline_share": None}
    rates = [rate for pair in pairs for rate in pair]
    found = [per_token / ms / 1e6 / statistics.mean(pair) for ms, pair in zip(tpot, pairs, strict=True)]
    return {
        "tokens_per_s": ratio(1000, statistics.median(tpot)),
        "tpot_ms": percentiles(tpot),
        "read_bandwidth_gbps": {
            "p50": round(statistics.median(rates), 2),
            "min": round(min(rates), 2),
            "max": round(max(rates), 2),
        },
        "roofline_share": percentiles(found),
        "roofline_share_best": round(max(found), 4),
    }


def start(bundle: Path, picture: Path, threads: int, new_tokens: int) -> dict[str, Any]:
    """One answer from a fresh process, its memory and its reads after each step."""
    began = time.perf_counter()
    from benchmarks.peers.fgr_edge import FgrEdge

    steps: dict[str, dict[str, float | int]] = {}

    def note(step: str) -> None:
        steps[step] = {"ms": round((time.perf_counter() - began) * 1e3, 1), **resident(), "disk_bytes": disk_bytes()}

    note("imported")
    peer = FgrEdge(bundle, "", threads, new_tokens)
    note("opened")
    peer.first_token(picture)
    note("first token")
    peer.decode(new_tokens)
    note("decoded")
    return {"steps": steps, "peak_bytes": high_water_bytes(), "cache_slots": peer._recognizer.model.decoder.capacity}


def resident() -> dict[str, int]:
    """Resident bytes of this process: mapped files, and its own."""
    own = 1024 * _number("smaps_rollup", r"^Anonymous:\s+(\d+)")
    return {"mapped_bytes": 1024 * _number("smaps_rollup", r"^Rss:\s+(\d+)") - own, "own_bytes": own}


def high_water_bytes() -> int:
    """The most that was resident at once."""
    return 1024 * _number("status", r"^VmHWM:\s+(\d+)")


def disk_bytes() -> int:
    """What block devices delivered for this process."""
    return _number("io", r"^read_bytes: (\d+)")


def _number(file: str, pattern: str) -> int:
    found = re.search(pattern, Path("/proc/self", file).read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/{file} has nothing like {pattern}: this benchmark needs Linux")
    return int(found[1])


def put_out_of_cache(bundle: Path) -> None:
    """All of the bundle's files; needs no rights."""
    for path in bundle.iterdir():
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fdatasync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


def sizes(bundle: Bundle, slots: int) -> dict[str, int]:
    """Weights by kind, and the cache."""
    files = {name: entry["size"] for name, entry in bundle.manifest["files"].items()}
    graphs = sum(size for name, size in files.items() if name.endswith(".data"))
    per_token = Traffic.of(bundle, screened=True).cache_bytes_per_token
    return {"graphs": graphs, "embedding": files[EMBEDDING], "cache": slots * per_token}


def judged(size: dict[str, int], starts: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The peak as a multiple of what has to be there, and reads as a multiple of the graphs' weights."""
    peak = max(run["peak_bytes"] for runs in starts.values() for run in runs)
    whole, read = sum(size.values()), size["graphs"] + size["cache"]
    return {
        "peak_bytes": peak,
        "of_weights_and_cache": ratio(peak, whole),
        "of_weights_read_and_cache": ratio(peak, read),
        "limit": LIMIT,
        "cold_reads_of_graphs": ratio(starts["cold"][0]["steps"]["first token"]["disk_bytes"], size["graphs"]),
    }


def show_decoding(document: dict[str, Any]) -> None:
    """A row for all slices, those at low and those at high bandwidth, on small and on huge pages."""
    rows = []
    for name in ("decode", "decode_huge_pages"):
        for part in ("", "low_bandwidth", "high_bandwidth"):
            found = document[name][part] if part else document[name]
            if found["tokens_per_s"] is None:
                continue
            rate, share = found["read_bandwidth_gbps"], found["roofline_share"]
            gbps = f"{rate['p50']} ({rate['min']} to {rate['max']})"
            row = (name, part, gbps, cell(found["tokens_per_s"], 2), cell(100 * share["p50"], 0), str(share["n"]))
            rows.append(row)
    print(table(("pages", "slices", "GB/s", "tokens/s", "% of the roofline", "n"), rows), end="\n\n")


def show(document: dict[str, Any]) -> None:
    """Roofline first."""
    memory, machine = document["memory"], document["machine"]
    print(f"{machine['cpu']}, load {machine['load_average_1m']}, noise {machine['noise_percent']} %")
    show_decoding(document)
    rows = []
    for kind, runs in document["starts"].items():
        for step, values in runs[0]["steps"].items():
            row = (f"{kind}: {step}", cell(values["ms"] / 1e3, 2))
            rows.append((*row, *(cell(values[key] / 1e9, 2) for key in ("mapped_bytes", "own_bytes", "disk_bytes"))))
    print(table(("step", "s", "mapped GB", "own GB", "from disk GB"), rows))
    print(
        f"peak {memory['peak_bytes'] / 1e9:.2f} GB: {memory['of_weights_and_cache']} of weights and cache, "
        f"{memory['of_weights_read_and_cache']} without the embedding table (limit {LIMIT}); "
        f"cold start read {memory['cold_reads_of_graphs']} of the graphs' weights from disk"
    )


if __name__ == "__main__":
    main()
