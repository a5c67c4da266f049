"""Where the time of a picture, of a prompt and of one more token goes: ONNX Runtime's own profile, by operator.

In: bundles. Out: a table, then one line of JSON. For each bundle the vision graph reads a picture of 640 x 480, the
decoder graph a prompt of as many tokens as such a picture and a question have, and then one more token. Each node's
time is its median over the calls; nodes of one operator are added up. What is between nodes, and the profile's own
cost, is the difference to `call_ms`. Products of the decoder's step are also given in GB/s of weights that they read.

    python -m benchmarks.operators BUNDLE... [--tokens 430] [--rounds 12] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.machine import describe_machine
from benchmarks.report import cell, publish, table
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.kernels import library
from fgr_edge.runtime.specs import read_spec
from fgr_edge.runtime.step_inputs import STEP_INPUTS, Step
from fgr_edge.runtime.vision import VisionSpec, grid_tables

GRID = (34, 46)  # patches of a picture of 640 x 480
STEPS = 5  # times as many calls of one token as of a prompt
PRODUCTS = ("MatMulNBits", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLinear", "Gemm",
            "FusedMatMul", "MatMul")  # fmt: skip
ATTENTION = ("MultiHeadAttention", "Attention", "GroupQueryAttention")
Arrays = Mapping[str, np.ndarray[Any, Any]]


class Profiled:
    """A graph whose nodes are timed; what it appends to a cache is written in place, as the runtime has it."""

    def __init__(self, path: Path, threads: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(self._folder.name) / "profile")
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if library.instructions() is not None:
            options.register_custom_ops_library(str(library.LIBRARY))
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def calls(self, inputs: Arrays, count: int) -> list[float]:
        """Milliseconds of each call."""
        binding = self.session.io_binding()
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for output in self.session.get_outputs():
            past = output.name.replace("present", "past", 1)
            if past in values and past != output.name:
                binding.bind_ortvalue_output(output.name, values[past])
            else:
                binding.bind_output(output.name)
        times = []
        for _ in range(count):
            start = time.perf_counter()
            self.session.run_with_iobinding(binding)
            times.append((time.perf_counter() - start) * 1e3)
        return times

    def operators(self) -> dict[str, dict[str, float]]:
        """Operator -> number of nodes and their milliseconds, the slowest first; ends the session."""
        path = Path(self.session.end_profiling())
        events = json.loads(path.read_text(encoding="utf-8"))
        self._folder.cleanup()
        nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                nodes[event["args"]["op_name"], event["name"]].append(event["dur"] / 1e3)
        found: dict[str, dict[str, float]] = defaultdict(lambda: {"nodes": 0, "ms": 0.0})
        for (operator, _), times in nodes.items():
            found[operator]["nodes"] += 1
            found[operator]["ms"] += statistics.median(times)
        return dict(sorted(found.items(), key=lambda item: -item[1]["ms"]))


def vision_inputs(bundle: Bundle) -> Arrays:
    """A picture of noise."""
    spec = read_spec(VisionSpec, bundle.manifest["vision"], "vision")
    image = bundle.manifest["image"]
    width = 3 * image["temporal_patch_size"] * image["patch_size"] ** 2
    patches = np.random.default_rng(0).standard_normal((GRID[0] * GRID[1], width), np.float32)
    return {"patches": patches, **grid_tables(spec, *GRID)}


def decoder_inputs(session: Any, past: int, count: int) -> Arrays:
    """`count` tokens of noise after `past` others."""
    step = Step(past, count, -(-(past + count) // 256) * 256, np.array([count - 1]))
    rng, arrays = np.random.default_rng(0), {}
    for value in session.get_inputs():
        if value.name in STEP_INPUTS:
            row = STEP_INPUTS[value.name]
            arrays[value.name] = np.zeros(row.shape(step), row.dtype)
            row.write(arrays[value.name], step)
            continue
        sizes = {"sequence": count, "cache_length": step.capacity}
        shape = [sizes.get(size, size) for size in value.shape]
        values = rng.standard_normal(shape, np.float32)
        arrays[value.name] = np.ones_like(values) if value.name.endswith("_cache") else values
    return arrays


def stage(times: Sequence[float], operators: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """What a call takes, and what of it products and attention do."""

    def sum_of(names: Sequence[str]) -> float:
        return round(sum(row["ms"] for name, row in operators.items() if name in names), 3)

    return {
        "call_ms": round(statistics.median(times), 3),
        "products_ms": sum_of(PRODUCTS),
        "attention_ms": sum_of(ATTENTION),
        "others_ms": sum_of([name for name in operators if name not in (*PRODUCTS, *ATTENTION)]),
        "operators": {name: {"nodes": int(row["nodes"]), "ms": round(row["ms"], 3)} for name, row in operators.items()},
    }


def measure(path: Path, tokens: int, rounds: int, threads: int) -> dict[str, Any]:
    """Every stage of one bundle."""
    bundle = Bundle.open(path)
    vision = Profiled(bundle.file("vision.onnx"), threads)
    found = {"vision": stage(vision.calls(vision_inputs(bundle), rounds), vision.operators())}
    for name, past, count, calls in (("prompt", 0, tokens, rounds), ("token", tokens, 1, STEPS * rounds)):
        decoder = Profiled(bundle.file("decoder.onnx"), threads)
        times = decoder.calls(decoder_inputs(decoder.session, past, count), calls)
        found[name] = stage(times, decoder.operators())
    weights = bundle.file("decoder.onnx.data").stat().st_size
    found["token"]["weight_gbps"] = round(weights / found["token"]["products_ms"] / 1e6, 1)
    return found


def show(document: Mapping[str, Any]) -> None:
    """The table."""
    head = ("ms", "call", "products", "attention", "others", "GB/s")
    rows = [
        (
            f"{name}, {stage_name}",
            *(cell(row[key]) for key in ("call_ms", "products_ms", "attention_ms", "others_ms")),
            cell(row.get("weight_gbps")),
        )
        for name, stages in document["bundles"].items()
        for stage_name, row in stages.items()
    ]
    print(table(head, rows))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=430)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine = describe_machine()
    found = {path.name: measure(path, options.tokens, options.rounds, options.threads) for path in options.bundles}
    document = {
        "benchmark": "operators",
        "picture": {"width_px": 640, "height_px": 480},
        "prompt_tokens": options.tokens,
        "rounds": options.rounds,
        "threads": options.threads,
        "bundles": found,
        "machine": machine,
    }
    show(document)
    publish(document, options.json)


if __name__ == "__main__":
    main()
