"""Puts the figures in `benchmarks/results/*.json` into README.md and benchmarks/README.md, between markers.

A table stands between `<!-- results:NAME -->` and `<!-- /results:NAME -->`; NAME is one of `TABLES`. A figure that has
not been measured makes its row or its table disappear: nothing in them is written by hand.

    latency     results of latency.py, `latency_*.json`, one row a checkpoint and measure
    accuracy    results of nano_accuracy.py, `nano_accuracy_*.json`
    labels      results of label_scores.py, `label_scores*.json`, one row a list of labels
    labels_short  of these, what the float32 nano costs at 81, 1,000 and 10,000 labels
    confidence  results of nano_confidence.py, `nano_confidence*.json`, before and after calibration
    outliers    results of outliers.py, `outliers_*.json`, scores fitted on val
    schemes     results of schemes.py, `schemes_*.json`, one row a checkpoint and scheme
    scheme_accuracy  results of scheme_accuracy.py, `scheme_accuracy_*.json`, each scheme against the original
    scheme_pairs     of these, weights fitted to photographs against the same layout rounded to nearest
    schemes_short    of these, the precisions of the command line, and int4 rounded to nearest
    cold_start  result of cold_start.py, `cold_start.json`
    peers       results of compare_peers.py, `peers_*.json`, one row a contender, and what could not be measured
    peer_answers  of these, those after prompts that a checkpoint was fitted to: all probabilities, and an answer
    peer_bars   of these, what this runtime promises beside the best peer
    operators   results of operators.py, `operators_*.json`, one row a bundle and kind of call
    export_3b   result of export_3b.py, `export_3b.json`
    awq_3b      result of awq_3b.py, `awq_3b.json`
    bench       results of `fgr-edge bench -o json`, `bench_*.json`, one row a bundle
    footprint   result of footprint.py, `footprint.json`, one row an environment
    goes_with   of it, what each dependency of ours brings
    targets     what was compiled in CI, what ran on hardware, what did neither (`target_rows.py`)
    memory_plan result of memory_plan.py, `memory_plan.json`: predicted and measured
    rtx_3b      result of rtx_3b.py, `rtx_3b.json`: engines of the whole 3B model, built without a GPU
    speculation_texts  of `speculation*.json`, tokens a step on written texts, one row a configuration
    speculation        of them, tokens a second of bundles, one row a variant
    speculation_rows   of them, calls of several tokens as multiples of one, one row a bundle
    products           results/products.json
    attention          results/attention.json
    prefill_chunks     results of prefill_chunks.py, `prefill_chunks*.json`
    preprocessing  result of preprocessing.py, `preprocessing.json`, one row a picture and size
    decode_3b   result of decode_3b.py, `decode_3b.json`
    gpu         results of gpu.py, `gpu*.json`, one row a section
    machine     what they were measured on

    python benchmarks/results_table.py [--check] [--readme FILE...] [--results benchmarks/results]

`--check` changes nothing and exits with 1 when a file is out of date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.bench_rows import HEAD as BENCH_HEAD
from benchmarks.bench_rows import bench_rows
from benchmarks.device_rows import (
    DECODE_3B_HEAD,
    PICTURE_HEAD,
    PLAN_HEAD,
    RTX_3B_HEAD,
    awq_3b_rows,
    decode_3b_rows,
    export_3b_rows,
    picture_rows,
    plan_rows,
    rtx_3b_rows,
)
from benchmarks.footprint_rows import FOOTPRINT_HEAD, footprint_rows, goes_with_rows
from benchmarks.label_rows import HEAD as LABEL_HEAD
from benchmarks.label_rows import in_short, label_rows
from benchmarks.nano_rows import accuracy_rows, confidence_rows, outlier_rows
from benchmarks.peers.rows import OPERATOR_HEAD, absent_lines, answer_rows, bar_rows, operator_rows, peer_rows
from benchmarks.scheme_rows import Rows, pair_rows, scheme_rows
from benchmarks.speculation_rows import (
    BUNDLE_HEAD,
    CHUNK_HEAD,
    ROWS_HEAD,
    TEXT_HEAD,
    bundle_rows,
    chunk_rows,
    cost_rows,
    text_rows,
)
from benchmarks.speed_rows import (
    ATTENTION_HEAD,
    GPU_HEAD,
    PRODUCT_HEAD,
    SCHEME_HEAD,
    attention_rows,
    cold_start_rows,
    gpu_rows,
    latency_rows,
    product_rows,
    scheme_speed_rows,
)
from benchmarks.target_rows import HEAD as TARGET_HEAD
from benchmarks.target_rows import target_rows

Results = Mapping[str, dict[str, Any]]
UNKNOWN = "not measured yet"
SCHEMES_IN_SHORT = ("fp32", "fp16", "int8", "w8a8, smoothquant", "int4, gptq", "int4, nearest")
_REGION = re.compile(r"(<!-- results:(\w+) -->\n)(.*?)(<!-- /results:\2 -->)", re.DOTALL)
_MARKER = re.compile(r"<!-- /?results:(\w+) -->")


def read_results(folder: Path) -> Results:
    """Every document of a folder by the name of its file."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers; `UNKNOWN` where it has no row."""
    if not rows:
        return UNKNOWN
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _named(results: Results, beginning: str) -> list[dict[str, Any]]:
    """Documents whose file's name begins so."""
    return [document for name, document in results.items() if name.startswith(beginning)]


def _scheme_tables(results: Results, rows: Callable[[Mapping[str, Any]], tuple[Sequence[str], Rows]]) -> str:
    return _tables(markdown(*rows(document)) for document in _named(results, "scheme_accuracy_"))


def _tables(tables: Iterable[str]) -> str:
    return "\n\n".join(tables) or UNKNOWN


def _peer_documents(results: Results, *, fitted: bool) -> list[dict[str, Any]]:
    """With prompts that a checkpoint was fitted to, so that a model is sure of names, or without."""
    return [d for d in _named(results, "peers_") if (d.get("fitted_prompts") is not None) == fitted]


def _peer_table(document: Mapping[str, Any]) -> str:
    return "\n".join([markdown(*peer_rows(document)), "", *absent_lines(document)]).rstrip()


def _labels(results: Results, wanted: Callable[[Mapping[str, Any]], bool]) -> str:
    return markdown(LABEL_HEAD, label_rows(_named(results, "label_scores"), wanted))


def _of_3b(document: dict[str, Any] | None, scheme: str, rows: Callable[[Mapping[str, Any]], Rows]) -> str:
    """What one run with the 3B-shaped checkpoint gave."""
    return UNKNOWN if document is None else markdown([f"{document['shape']}, {scheme}", ""], rows(document))


def machine(results: Results) -> str:
    """One line for each kind of machine among the results, with the read bandwidth that was measured beside them."""
    lines: dict[str, list[float]] = {}
    for document in results.values():
        about = document["machine"]
        packages = about["packages"]
        versions = ", ".join(
            f"{name} {packages[name]}" for name in ("onnxruntime", "transformers", "torch") if name in packages
        )
        memory = f"{about['memory_bytes'] / 2**30:.0f} GiB"
        line = f"{about['cpu']}, {about['cores']} cores, {memory}; Python {about['python']}, {versions}"
        rates = lines.setdefault(line, [])
        if "read_bandwidth_gbps" in document:
            rates.append(document["read_bandwidth_gbps"]["p50"])
    # A run without peers lists fewer packages of the same machine.
    whole = [line for line in lines if not any(other != line and other.startswith(line) for other in lines)]
    return "\n".join(f"{line}{_bandwidth(lines[line])}." for line in whole) or UNKNOWN


def _bandwidth(rates: Sequence[float]) -> str:
    if not rates:
        return ""
    low, high = f"{min(rates):.0f}", f"{max(rates):.0f}"
    return f"; memory reads at {low if low == high else f'{low} to {high}'} GB/s"


TABLES: dict[str, Callable[[Results], str]] = {
    "latency": lambda results: markdown(*latency_rows(_named(results, "latency"))),
    "accuracy": lambda results: markdown(*accuracy_rows(_named(results, "nano_accuracy"))),
    "labels": lambda results: _labels(results, lambda _: True),
    "labels_short": lambda results: _labels(results, in_short),
    "confidence": lambda results: markdown(*confidence_rows(_named(results, "nano_confidence"))),
    "outliers": lambda results: markdown(*outlier_rows(_named(results, "outliers_"))),
    "schemes": lambda results: markdown(SCHEME_HEAD, scheme_speed_rows(_named(results, "schemes_"))),
    "scheme_accuracy": lambda results: _scheme_tables(results, scheme_rows),
    "scheme_pairs": lambda results: _scheme_tables(results, pair_rows),
    "schemes_short": lambda results: _scheme_tables(results, lambda document: scheme_rows(document, SCHEMES_IN_SHORT)),
    "cold_start": lambda results: markdown(*cold_start_rows(results.get("cold_start"))),
    "export_3b": lambda results: _of_3b(results.get("export_3b"), "int8", export_3b_rows),
    "awq_3b": lambda results: _of_3b(results.get("awq_3b"), "int4 by AWQ", awq_3b_rows),
    "peers": lambda results: _tables(map(_peer_table, _peer_documents(results, fitted=False))),
    "peer_answers": lambda results: _tables(markdown(*answer_rows(d)) for d in _peer_documents(results, fitted=True)),
    "peer_bars": lambda results: _tables(markdown(*bar_rows(document)) for document in _named(results, "peers_")),
    "operators": lambda results: markdown(OPERATOR_HEAD, [*chain(*map(operator_rows, _named(results, "operators_")))]),
    "bench": lambda results: markdown(BENCH_HEAD, bench_rows(results)),
    "footprint": lambda results: markdown(FOOTPRINT_HEAD, footprint_rows(results.get("footprint"))),
    "goes_with": lambda results: markdown(*goes_with_rows(results.get("footprint"))),
    "targets": lambda results: markdown(TARGET_HEAD, target_rows(results)).replace("---:", "---"),  # words throughout
    "memory_plan": lambda results: markdown(PLAN_HEAD, plan_rows(results.get("memory_plan"))),
    "rtx_3b": lambda results: markdown(RTX_3B_HEAD, rtx_3b_rows(results.get("rtx_3b"))),
    "speculation_texts": lambda results: markdown(TEXT_HEAD, [*chain(*map(text_rows, _named(results, "speculation")))]),
    "speculation": lambda results: markdown(BUNDLE_HEAD, [*chain(*map(bundle_rows, _named(results, "speculation")))]),
    "speculation_rows": lambda results: markdown(ROWS_HEAD, [*chain(*map(cost_rows, _named(results, "speculation")))]),
    "prefill_chunks": lambda results: markdown(CHUNK_HEAD, chunk_rows(_named(results, "prefill_chunks"))),
    "preprocessing": lambda results: markdown(PICTURE_HEAD, picture_rows(results.get("preprocessing"))),
    "products": lambda results: markdown(PRODUCT_HEAD, product_rows(results.get("products"))),
    "attention": lambda results: markdown(ATTENTION_HEAD, attention_rows(results.get("attention"))),
    "decode_3b": lambda results: markdown(DECODE_3B_HEAD, decode_3b_rows(results.get("decode_3b"))),
    "gpu": lambda results: markdown(GPU_HEAD, gpu_rows(_named(results, "gpu"))),
    "machine": machine,
}


def fill(text: str, results: Results) -> str:
    """The text with every marked region made new.

    Raises:
        ValueError: a marker has no partner, or a name that no table has.
    """
    names = [match.group(1) for match in _MARKER.finditer(text)]
    regions = [match.group(2) for match in _REGION.finditer(text)]
    unknown = sorted(set(names) - TABLES.keys())
    if unknown:
        raise ValueError(f"no results table is called {', '.join(unknown)}; there are {', '.join(TABLES)}")
    if len(names) != 2 * len(regions):
        raise ValueError(
            f"found {len(names)} results markers and {len(regions)} whole regions; expected each "
            "<!-- results:NAME --> on a line of its own, with <!-- /results:NAME --> after it"
        )
    return _REGION.sub(lambda match: f"{match[1]}{TABLES[match[2]](results)}\n{match[4]}", text)


def main() -> None:
    """The command line."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 when README.md is out of date")
    files = [root / "README.md", root / "benchmarks" / "README.md"]
    parser.add_argument("--readme", type=Path, nargs="+", default=files)
    parser.add_argument("--results", type=Path, default=root / "benchmarks" / "results")
    options = parser.parse_args()
    results = read_results(options.results)
    for path in options.readme:
        before = path.read_text(encoding="utf-8")
        after = fill(before, results)
        if after == before:
            continue
        if options.check:
            print(f"{path.name} is out of date: run python benchmarks/results_table.py", file=sys.stderr)
            raise SystemExit(1)
        path.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
