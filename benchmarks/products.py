"""Our products of quantized weights beside ONNX Runtime's MatMulNBits: the same graph, opened with either.

In: nothing. Out: a table, then one line of JSON. Weights are random, inputs rounded to int8 by block in both.

cached    one product, [3072, 768], of 1 to 400 rows: weights stay in the processor's caches.
memory    one row through products of [2048, 2048] one after the other, more of them than the caches hold: what decoding
          waits for. The bytes of levels, scales and zero points over the time, beside the read bandwidth.

    python -m benchmarks.products [--rounds 5] [--threads 2] [--megabytes 250] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.bandwidth import ReadBandwidth
from benchmarks.machine import describe_machine
from benchmarks.report import publish, ratio, table
from benchmarks.sides import in_turns, median_ms, require_library
from benchmarks.speed_rows import PRODUCT_HEAD, product_rows
from fgr_edge.calibrate.schemes.blocks import short
from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from fgr_edge.runtime.sessions.settings import Products, SessionSettings

ROWS = (1, 4, 16, 400)
CACHED, STREAMED = (3072, 768), (2048, 2048)  # [N, K]
CALLS, DROPPED = 30, 6


@dataclass(frozen=True, slots=True)
class Scheme:
    """How weights are stored."""

    bits: int
    block: int
    zero_points: bool

    @property
    def name(self) -> str:
        return f"int{self.bits}, blocks of {self.block}"


SCHEMES = (Scheme(8, 128, False), Scheme(8, 32, False), Scheme(4, 128, True), Scheme(4, 32, True))


def write_graph(scheme: Scheme, shape: tuple[int, int], layers: int, path: Path) -> int:
    """`layers` products, each of the output of the one before; the bytes that a call reads of weights."""
    random = np.random.default_rng(0)
    rows, columns = shape
    blocks = -(-columns // scheme.block)
    nodes, weights, name, size = [], [], "x", 0
    for layer in range(layers):
        arrays = {
            "levels": random.integers(0, 256, (rows, blocks, scheme.block * scheme.bits // 8), np.uint8),
            "scales": short(random.uniform(0.5e-3, 1e-3, (rows, blocks)).astype(np.float32)),
        }
        if scheme.zero_points:
            arrays["points"] = random.integers(0, 256, (rows, -(-blocks * scheme.bits // 8)), np.uint8)
        names = [f"{kind}.{layer}" for kind in arrays]
        weights += [onnx.numpy_helper.from_array(array, key) for key, array in zip(names, arrays.values(), strict=True)]
        size += sum(array.nbytes for array in arrays.values())
        numbers: dict[str, Any] = {
            "K": columns,
            "N": rows,
            "bits": scheme.bits,
            "block_size": scheme.block,
            "accuracy_level": 4,
        }
        made = helper.make_node("MatMulNBits", [name, *names], [f"y.{layer}"], domain="com.microsoft", **numbers)
        nodes.append(made)
        name = f"y.{layer}"
    info = helper.make_tensor_value_info
    given, result = info("x", TensorProto.FLOAT, ["S", columns]), info(name, TensorProto.FLOAT, ["S", rows])
    graph = helper.make_graph(nodes, "products", [given], [result], weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    path.write_bytes(helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString())
    return size


def call_ms(graph: Path, rows: int, columns: int, products: Products, threads: int) -> float:
    """Median of some calls of a session opened for them."""
    session = OnnxRuntimeSession(graph, threads=threads, settings=SessionSettings(products=products))
    x = np.random.default_rng(rows).standard_normal((rows, columns), np.float32)
    return median_ms(lambda: session.run({"x": x}), CALLS, DROPPED)


def measure(graph: Path, rows: int, columns: int, rounds: int, threads: int) -> dict[str, float]:
    """Milliseconds of both sides, medians of rounds in turns."""
    return in_turns(rounds, lambda side: call_ms(graph, rows, columns, side, threads))


def results(rounds: int, threads: int, megabytes: int) -> Iterator[dict[str, object]]:
    """A row for each scheme and number of rows, and one for weights that come from memory."""
    bandwidth = ReadBandwidth(threads)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "products.onnx"
        for scheme in SCHEMES:
            write_graph(scheme, CACHED, 1, graph)
            for count in ROWS:
                ms = measure(graph, count, CACHED[1], rounds, threads)
                yield _row(scheme, "cached", count, ms)
            layers = round(megabytes * 1e6 * 8 / scheme.bits / (STREAMED[0] * STREAMED[1]))
            size = write_graph(scheme, STREAMED, layers, graph)
            before = bandwidth.gbps()
            ms = measure(graph, 1, STREAMED[1], rounds, threads)
            read = statistics.median((before, bandwidth.gbps()))
            gbps = {side: round(size / time_ms / 1e6, 1) for side, time_ms in ms.items()}
            yield {**_row(scheme, "memory", 1, ms), "gbps": gbps, "read_bandwidth_gbps": round(read, 1)}


def _row(scheme: Scheme, place: str, rows: int, ms: dict[str, float]) -> dict[str, object]:
    return {
        "scheme": scheme.name,
        "weights": place,
        "rows": rows,
        "ms": ms,
        "ratio": ratio(ms["onnxruntime"], ms["fgr-edge"]),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=250)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    document = {
        "benchmark": "products",
        "instructions": require_library(),
        "threads": options.threads,
        "rounds": options.rounds,
        "results": list(results(options.rounds, options.threads, options.megabytes)),
        "machine": describe_machine(),
    }
    print(table(PRODUCT_HEAD, product_rows(document)))
    publish(document, options.json)


if __name__ == "__main__":
    main()
