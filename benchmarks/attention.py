"""Our attention beside ONNX Runtime's: the same graph of one operator, opened with either.

In: nothing. Out: a table, then one line of JSON. Queries, keys and values are random; the cache is bound in place.

picture    MultiHeadAttention, all of 1564 patches to all: what a vision tower's full blocks do with 640 x 480 pixels
prompt     GroupQueryAttention, 430 tokens to those before them
names      the same, 239 tokens behind 430: a tree of names
token      the same, one token behind 430

G multiply-adds a second count what must be multiplied: nothing that causality hides.

    python -m benchmarks.attention [--rounds 5] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from benchmarks.machine import describe_machine
from benchmarks.report import publish, ratio, table
from benchmarks.sides import in_turns, median_ms, require_library
from benchmarks.speed_rows import ATTENTION_HEAD, attention_rows
from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from fgr_edge.runtime.sessions.settings import Products, SessionSettings

CALLS, DROPPED = 60, 10
FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Work:
    """`tokens` behind `before` others; without a cache, all to all.

    Attributes:
        size: of a head.
    """

    name: str
    before: int
    tokens: int
    heads: int
    kv_heads: int
    size: int
    cached: bool = True

    @property
    def multiply_adds(self) -> int:
        seen = self.tokens * self.before + self.tokens * (self.tokens + 1) // 2 if self.cached else self.tokens**2
        return 2 * seen * self.heads * self.size

    def arrays(self) -> Arrays:
        """What the graph is given."""
        draw, total = np.random.default_rng(0).standard_normal, self.before + self.tokens
        if not self.cached:
            return {name: draw((1, self.tokens, self.heads * self.size), np.float32) for name in ("q", "k", "v")}
        cache = (1, self.kv_heads, -(-total // 256) * 256, self.size)
        angles = draw((cache[2], self.size // 2), np.float32)
        return {
            "q": draw((1, self.tokens, (self.heads + 2 * self.kv_heads) * self.size), np.float32),
            "past_key": draw(cache, np.float32),
            "past_value": draw(cache, np.float32),
            "length": np.array([total - 1], np.int32),
            "total": np.array(total, np.int32),
            "cos": np.cos(angles),
            "sin": np.sin(angles),
            "positions": np.arange(self.before, total)[None],
            "bias": np.zeros((1, 1, self.tokens, total), np.float32),
        }

    def write(self, path: Path) -> None:
        """The graph."""
        arrays, inputs = self.arrays(), ["q", "k", "v"]
        numbers: dict[str, Any] = {"num_heads": self.heads}
        if self.cached:
            inputs = ["q", "", "", *list(arrays)[1:]]
            numbers |= {"kv_num_heads": self.kv_heads, "do_rotary": 1}
        outputs = ["y", "present_key", "present_value"] if self.cached else ["y"]
        operator = "GroupQueryAttention" if self.cached else "MultiHeadAttention"
        node = helper.make_node(operator, inputs, outputs, domain="com.microsoft", **numbers)
        kinds = {"length": INT32, "total": INT32, "positions": INT64}
        given = [
            helper.make_tensor_value_info(name, kinds.get(name, FLOAT), array.shape) for name, array in arrays.items()
        ]
        made = [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs]
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        graph = helper.make_graph([node], "attention", given, made)
        path.write_bytes(helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString())


WORKS = (
    Work("picture, 1564 patches, 6 heads of 64", 0, 1564, 6, 6, 64, cached=False),
    Work("picture, 1564 patches, 16 heads of 80", 0, 1564, 16, 16, 80, cached=False),
    Work("prompt, 430 tokens, 12 heads on 2 of 64", 0, 430, 12, 2, 64),
    Work("names, 239 tokens behind 430, 12 heads on 2 of 64", 430, 239, 12, 2, 64),
    Work("token behind 430, 12 heads on 2 of 64", 430, 1, 12, 2, 64),
    Work("token behind 430, 16 heads on 2 of 128", 430, 1, 16, 2, 128),
)


def call_ms(work: Work, graph: Path, threads: int, side: Products) -> float:
    """Median of some calls of a session opened for them."""
    session = OnnxRuntimeSession(graph, threads=threads, settings=SessionSettings(products=side))
    buffers = {name: session.buffer(array.shape, array.dtype) for name, array in work.arrays().items()}
    for name, array in work.arrays().items():
        buffers[name].array[...] = array
    outputs = {"y": session.buffer((1, work.tokens, work.heads * work.size), np.float32)}
    if work.cached:
        outputs |= {f"present_{kind}": buffers[f"past_{kind}"] for kind in ("key", "value")}
    return median_ms(session.bind(buffers, outputs), CALLS, DROPPED)


def results(rounds: int, threads: int) -> Iterator[dict[str, object]]:
    """A row for each work: medians of rounds in turns."""
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "attention.onnx"
        for work in WORKS:
            work.write(graph)
            ms = in_turns(rounds, partial(call_ms, work, graph, threads))
            yield {
                "work": work.name,
                "ms": ms,
                "ratio": ratio(ms["onnxruntime"], ms["fgr-edge"]),
                "g_multiply_adds_per_s": {side: round(work.multiply_adds / one / 1e6, 1) for side, one in ms.items()},
            }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    document = {
        "benchmark": "attention",
        "instructions": require_library(),
        "threads": options.threads,
        "rounds": options.rounds,
        "results": list(results(options.rounds, options.threads)),
        "machine": describe_machine(),
    }
    print(table(ATTENTION_HEAD, attention_rows(document)))
    publish(document, options.json)


if __name__ == "__main__":
    main()
