"""How large engines get and how much memory building them takes: the part of the memory plan that is TensorRT's.

In: `MemoryFacts`. Out: bytes. Opens no graph. Measured on TensorRT-RTX 1.7.1, which builds without a GPU, with shapes
of 195M and 3B parameters (`benchmarks/memory_plan.py`, `rtx_3b.py`). W is a graph's stored weights, E its engine:

    engine        W, times what the layouts cost that kernels want (`LAYOUTS`): prompts and single tokens are two
                  profiles, and each may keep a weight in its own; and compiled kernels
    of layers     0.9 W + 1.7 E: the weights, mapped, and twice what becomes of them, as kernels want it and as it is
                  written out; the peak is reached when not all of either is there. int4 is unpacked on the way
    of the head   W + E, three pieces of what is written out, and int4 unpacked: it is one matrix
    beside them   the builder itself; what it compiled for other graphs stays

TensorRT itself was not measured: it is assumed to do as RTX does, its library to be larger, and the engine to be held
whole, as TensorRT 10.3 does, where later ones write it piece by piece. Its engines are counted as their weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fgr_edge.runtime.memory.devices import MIB
from fgr_edge.runtime.memory.facts import MemoryFacts, Part

Basis = Literal["exact", "measured", "assumed"]


@dataclass(frozen=True, slots=True)
class BuildCost:
    """A builder's process.

    Attributes:
        base_bytes: peak without weights: the library, and what it compiles.
        of_weights, of_engine: bytes at the peak for each that a graph of layers stores, and for each of its engine.
    """

    base_bytes: int
    of_weights: float
    of_engine: float
    basis: Basis


BUILD = {
    "tensorrt-rtx": BuildCost(460 * MIB, 0.9, 1.7, "measured"),
    "tensorrt": BuildCost(660 * MIB, 1.0, 2.0, "assumed"),
}
COMPILING_BYTES = 60 * MIB  # of the base, while layers are compiled: not when the head's turn comes
PIECES, PIECE_BYTES = 3, 64 * MIB  # of an engine that is written out
# Bytes that unpacking takes for each int4 weight: of layers, one after another, and of the head, all at once.
UNPACKED_LAYERS, UNPACKED_HEAD = 0.55, 2.0


@dataclass(frozen=True, slots=True)
class Layout:
    """What an engine takes for each byte that a scheme stores: vision, a decoder with one profile, and with two."""

    vision: float
    one: float
    two: float


# Scales of blocks are not kept beside int8: those weights become float16, in some layouts or all.
LAYOUTS = {
    "16 bits": Layout(1.0, 1.0, 1.66),
    "int8": Layout(1.3, 1.6, 1.6),
    "int8-channel": Layout(1.0, 1.0, 1.0),
    "int4": Layout(1.0, 1.06, 1.09),
}
KERNEL_BYTES = 8 * MIB  # compiled, in each engine of layers


def engine_bytes(facts: MemoryFacts, part: Part) -> int:
    """Of the engine of one graph."""
    stored = facts.part_bytes(part)
    if part == "head" or stored == 0:
        return stored
    layout = LAYOUTS[_kind(facts.precision[part])]
    times = layout.vision if part == "vision" else layout.one if facts.one_profile else layout.two
    return round(stored * times) + KERNEL_BYTES


def graph_bytes(facts: MemoryFacts) -> int:
    """What graphs add to a builder at its peak: they are built one after another, and only what was compiled stays."""
    return max(_layer_bytes(facts, "vision"), _layer_bytes(facts, "decoder"), _head_bytes(facts))


def _layer_bytes(facts: MemoryFacts, part: Part) -> int:
    cost = BUILD[facts.target]
    held = cost.of_weights * facts.part_bytes(part) + cost.of_engine * engine_bytes(facts, part)
    return round(held + (UNPACKED_LAYERS * facts.weights(part) if _kind(facts.precision[part]) == "int4" else 0))


def _head_bytes(facts: MemoryFacts) -> int:
    stored = facts.part_bytes("head")
    pieces = PIECES * min(stored, PIECE_BYTES)
    unpacked = UNPACKED_HEAD * facts.head_weights if stored and _kind(facts.precision["head"]) == "int4" else 0
    return round(2 * stored + pieces + unpacked) - COMPILING_BYTES


def _kind(scheme: str) -> str:
    """A row of `LAYOUTS`."""
    if scheme in LAYOUTS:
        return scheme
    if scheme.startswith("int4"):
        return "int4"
    return "int8-channel" if scheme in ("w8a8", "fp8") else "16 bits"
