"""What TensorRT's parser and builder complain about, as errors that a user can act on.

In: the library's own words. Out: one message: which graph and node, what was said, what to do. Imports no TensorRT.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

SHOWN = 3  # complaints in a message; those after the first ones follow from them


@dataclass(frozen=True, slots=True)
class Complaint:
    """One error of the ONNX parser: about which node, of which operator, in the parser's words."""

    node: str
    operator: str
    text: str


# What a complaint says -> what to do; the first that matches counts.
_ADVICE = (
    (
        r"no importer registered|unsupported operator|not supported by the parser|Cannot find plugin|plugin.*not found",
        "this version of the library does not know the operator: upgrade the library, or export the bundle again with "
        "this version of fgr-edge",
    ),
    (
        r"TensorScatter|KVCacheUpdate|kvcache",
        "the KV cache must have a length that is a number: build with --cache-length, which sets it",
    ),
    (
        r"FP8|FLOAT8|E4M3",
        "8-bit floats need a GPU of SM89 or newer: export with --precision w8a8 or int8, and --gpu to have it checked",
    ),
    (
        r"INT4|int4",
        "4-bit weights need SM80 or newer: export with --precision int8, and --gpu to have it checked",
    ),
    (r"BF16|BFLOAT16|bfloat16", "bfloat16 needs SM80 or newer: export with --precision fp16"),
    (
        r"external|Failed to read weights|Failed to import initializer|weights from",
        "the weights beside the graph (its .onnx.data file) are missing or cut: fgr-edge verify BUNDLE",
    ),
    (
        r"Failed to parse the ONNX model|Input file cannot be found",
        "the graph is damaged: fgr-edge verify BUNDLE, and export it again",
    ),
    (
        r"out of memory|OutOfMemory|OUT_OF_MEMORY|insufficient memory|Cuda Runtime.*memory|bad_alloc",
        "memory ran out: close what else uses the GPU, give --one-profile, --workspace-mb 1024, a smaller "
        "--cache-length or --chunk, or export with a smaller precision; what fits is said by `fgr-edge inspect BUNDLE "
        "--plan auto`",
    ),
    (
        r"workspace|could not find any implementation|no implementation|Could not find any",
        "no kernel fits the memory it may use: raise --workspace-mb, or leave it out",
    ),
    (
        r"compute capabilit|not supported on|unsupported.*(arch|device|SM)|unsupported SM",
        "this GPU's generation cannot compute in a type of the graph: export again with --gpu naming it, which says "
        "what to use instead",
    ),
    (
        r"driver|no CUDA-capable|CUDA initialization|cudaGetDevice|CUDA_SUCCESS",
        "no GPU answers, or none that can be used: check `nvidia-smi` and the driver",
    ),
)
# What TensorRT-RTX 1.7 adds to whatever it says on a machine without a GPU.
_NOISE = re.compile(r"^\[checkMacros\.cpp.*$", re.MULTILINE)
_OTHERWISE = (
    "the graph is as fgr-edge exports it, so this is a defect of one of the two: please report it with this text"
)


def parse_failed(graph: str, library: str, complaints: Sequence[Complaint], errors: Sequence[str]) -> str:
    """The message for a graph that the parser refuses.

    Args:
        graph: file name.
        library: product and version.
        complaints: the parser's.
        errors: what the library logged meanwhile; shown where the parser itself says nothing.
    """
    if not complaints:
        return _message(f"{library} cannot read {graph}", _said(errors), errors)
    told = [_told(complaint) for complaint in complaints[:SHOWN]]
    texts = [f"{c.operator} {c.text}" for c in complaints]
    return _message(f"{library} cannot read {graph}", "; ".join(told) + _more(len(complaints)), texts)


def build_failed(graph: str, library: str, errors: Sequence[str]) -> str:
    """The message for a network that the builder refuses; `errors` are what it logged."""
    return _message(f"{library} read {graph} and cannot build an engine of it", _said(errors), errors)


def _told(complaint: Complaint) -> str:
    text = _one_line(complaint.text)
    if not complaint.node and not complaint.operator:
        return text  # about the file
    return f"node {complaint.node or '(unnamed)'} ({complaint.operator}): {text}"


def _one_line(text: str) -> str:
    return " ".join(_NOISE.sub("", text).split())


def _message(what: str, said: str, texts: Sequence[str]) -> str:
    return f"{what}: {said.rstrip('. ')}. To do: {_advice([_one_line(text) for text in texts])}"


def _advice(texts: Sequence[str]) -> str:
    """By the first complaint that something is known about: those that follow are often its consequences."""
    for text in texts:
        for pattern, advice in _ADVICE:
            if re.search(pattern, text, re.IGNORECASE):
                return advice
    return _OTHERWISE


def _said(errors: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(text for error in errors if (text := _one_line(error))))
    return "; ".join(distinct[:SHOWN]) + _more(len(distinct)) if distinct else "it gives no reason"


def _more(count: int) -> str:
    return f" (and {count - SHOWN} more)" if count > SHOWN else ""
