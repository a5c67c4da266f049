"""How much memory a bundle will take on a device, before anything is built: `fgr-edge inspect --plan`.

In: `MemoryFacts` and a `PlanDevice`. Out: a `MemoryPlan`: what each part takes while it runs and while engines are
built, whether that fits, and what each change would make of it. Opens no graph.

Formulas (P patches, S tokens prefilled at once, T cache slots; C, H widths of vision and decoder, I its feed-forward):
    KV cache            2 * layers * kv_heads * head_dim * T numbers
    vision, ONNX R.     28 * C * P numbers, 8 where our own products multiply (int8, int4): fitted to three towers,
                        linear in P
    picture             3 * patch_inputs * P numbers of 4 bytes, on the host: resized, cut into patches, kept
    prefill, ONNX R.    2 * (3 * I + 4 * H) * S numbers, half of it where our own products multiply: the three rows of
                        SwiGLU and four of the residual
    opening, ONNX R.    weights as they become the engine's, and the largest matrix once more (it is repacked), unless
                        our own products pack it: they let go of what they packed
    vision, TensorRT    21 * C * P numbers, and heads * P^2 where attention is decomposed (dialect basic)
    prefill, TensorRT   (3 * I + 4 * H) * S numbers, and heads * S * T likewise
                        (the larger of both: all engines share one block of memory)
    engines, building   see `building.py`; TensorRT also tries tactics for the head, on the GPU
Where a number comes from is said in each item: "exact", "measured" on a CPU of this kind, or "assumed".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from fgr_edge.runtime.memory.building import BUILD, Basis, engine_bytes, graph_bytes
from fgr_edge.runtime.memory.devices import MIB, PlanDevice
from fgr_edge.runtime.memory.facts import MemoryFacts, Part

Phase = Literal["run", "build"]
PARTS: tuple[Part, ...] = ("vision", "decoder", "head")
Place = Literal["host", "device"]

PROCESS_BYTES = 63 * MIB  # Python, numpy, Pillow, tokenizers, onnxruntime; a third of it is libraries' code
SESSION_BYTES = 8 * MIB  # each graph that ONNX Runtime opens, without its weights
TOKENIZER_FACTOR = 13.3  # resident bytes of a byte of tokenizer.json: 76 MiB for the Qwen vocabulary
VISION_ROWS = 28  # of C numbers for a patch
OWN_VISION_ROWS = 8
IN_BLOCKS = ("int8", "int8-channel", "int4-32", "int4-128")  # what our own products multiply, where they were built
VISION_LIVE_ROWS = 21
PICTURE_COPIES = 3
CUDA_CONTEXT_BYTES = 350 * MIB
TENSORRT_BYTES = 450 * MIB  # code of libnvinfer, on the host
HEAD_TACTIC_BYTES = 3.45  # of a weight of the head: 1 GiB, in one piece, for the 3B model's


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that takes memory.

    Attributes:
        place: "device" is the GPU's memory; on machines that share one it is the same as "host".
    """

    name: str
    bytes: int
    phase: Phase
    place: Place
    basis: Basis


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A change, and what the plan would be with it."""

    change: str
    run_bytes: int
    build_bytes: int
    fits: bool | None


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """A bundle on a device.

    Attributes:
        run_bytes, build_bytes: peaks, host and device together; building is another process, not at the same time.
        fits: None where the device says nothing of its host's memory and the bundle needs that alone.
        suggestions: empty where it fits.
    """

    device: PlanDevice
    facts: MemoryFacts
    items: tuple[Item, ...]
    run_bytes: int
    build_bytes: int
    fits: bool | None
    suggestions: tuple[Suggestion, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What `inspect --plan --json` prints under `plan`."""
        values = asdict(self)
        values["device"]["available_bytes"] = self.device.available_bytes
        used = self.facts
        values["facts"] = {
            "target": used.target,
            "precision": dict(used.precision),
            "pixels": used.pixels,
            "image_tokens": used.image_tokens,
            "tokens": used.tokens,
            "prefill_tokens": used.prefill_tokens,
        }
        return values


def plan_memory(facts: MemoryFacts, device: PlanDevice, *, workspace_bytes: int | None = None) -> MemoryPlan:
    """The plan, without suggestions.

    Args:
        workspace_bytes: that a kernel may use while it is built; None is all that it wants.
    """
    items = (*_run_items(facts), *_build_items(facts, workspace_bytes))
    opening = _opening_bytes(facts) if facts.target in ("cpu", "cuda") else 0
    run = max(_total(items, "run"), opening)
    build = _total(items, "build")
    return MemoryPlan(device, facts, items, run, build, _fits(items, run, build, facts, device))


def _total(items: tuple[Item, ...], phase: Phase, place: Place | None = None) -> int:
    return sum(item.bytes for item in items if item.phase == phase and place in (None, item.place))


def _run_items(facts: MemoryFacts) -> list[Item]:
    on_gpu = facts.target != "cpu"
    place: Place = "device" if on_gpu else "host"
    engine = facts.target not in ("cpu", "cuda")
    sessions = 2 + (0 if facts.head_inside else 1) + (1 if facts.screen_bytes else 0)
    process = PROCESS_BYTES + (0 if engine else sessions * SESSION_BYTES)
    basis: Basis = "assumed" if on_gpu else "measured"
    vision, prefill = _activation_bytes(facts)
    if engine:  # all engines run in one block of memory, one after another
        vision, prefill = max(vision - prefill, 0), prefill
    items = [
        _weights(facts, place),
        Item(f"KV cache, {facts.cache_slots:,} tokens", _cache_bytes(facts), "run", place, "exact"),
        Item(f"vision, {facts.patches:,} patches{', beyond prefill' if engine else ''}", vision, "run", place, basis),
        Item(f"prefill, {facts.prefill_tokens:,} tokens at once", prefill, "run", place, basis),
        Item("picture", PICTURE_COPIES * facts.patch_inputs * facts.patches * 4, "run", "host", "measured"),
        Item("process", process, "run", "host", "measured"),
        Item("tokenizer", int(facts.tokenizer_bytes * TOKENIZER_FACTOR), "run", "host", "measured"),
    ]
    if on_gpu:
        items.append(Item("CUDA context", CUDA_CONTEXT_BYTES, "run", place, "assumed"))
        items.append(Item("engine's libraries", TENSORRT_BYTES, "run", "host", "assumed"))
    return items


def _weights(facts: MemoryFacts, place: Place) -> Item:
    """As they lie in memory: RTX's engines are larger than what is stored."""
    if facts.target != "tensorrt-rtx":
        return Item("weights", facts.weight_bytes, "run", place, "exact")
    size = sum(engine_bytes(facts, part) for part in PARTS) + facts.screen_bytes
    return Item("engines", size, "run", place, "measured")


def _build_items(facts: MemoryFacts, workspace_bytes: int | None) -> list[Item]:
    """Of the graph that takes most; graphs are built one after another."""
    cost = BUILD.get(facts.target)
    if cost is None:
        return []
    items = [
        Item("builder", cost.base_bytes, "build", "host", cost.basis),
        Item("graph at work", graph_bytes(facts), "build", "host", cost.basis),
    ]
    if facts.target == "tensorrt-rtx":  # builds without a GPU, and times nothing
        return items
    tactic = round(facts.head_weights * HEAD_TACTIC_BYTES)
    tactic = tactic if workspace_bytes is None else min(tactic, workspace_bytes)
    return [
        *items,
        Item("head tactics, in one piece", tactic, "build", "device", "assumed"),
        Item("CUDA context", CUDA_CONTEXT_BYTES, "build", "device", "assumed"),
    ]


def _cache_bytes(facts: MemoryFacts) -> int:
    return 2 * facts.layers * facts.kv_heads * facts.head_dim * facts.cache_slots * facts.cache_bytes


def _activation_bytes(facts: MemoryFacts) -> tuple[int, int]:
    """(vision, prefill): arenas of different graphs are not shared, so that both count."""
    rows, times = (VISION_ROWS, 2) if facts.target in ("cpu", "cuda") else (VISION_LIVE_ROWS, 1)
    if _has_own_products(facts, "vision"):
        rows = OWN_VISION_ROWS
    if _has_own_products(facts, "decoder"):
        times = 1
    vision = rows * facts.vision_hidden * facts.patches
    prefill = times * (3 * facts.intermediate + 4 * facts.hidden) * facts.prefill_tokens + facts.vocab
    if facts.decomposed:
        vision += facts.vision_heads * facts.patches**2
        prefill += facts.heads * facts.prefill_tokens * facts.cache_slots
    return vision * facts.working_bytes, prefill * facts.working_bytes


def _opening_bytes(facts: MemoryFacts) -> int:
    """ONNX Runtime's peak while it opens the graphs; it holds the largest matrix twice where it packs it itself."""
    fixed = PROCESS_BYTES + 2 * SESSION_BYTES + int(facts.tokenizer_bytes * TOKENIZER_FACTOR)
    return fixed + facts.weight_bytes + (0 if _has_own_products(facts, "head") else facts.head_graph_bytes)


def _has_own_products(facts: MemoryFacts, part: Part) -> bool:
    return facts.target == "cpu" and facts.precision[part] in IN_BLOCKS


def _fits(items: tuple[Item, ...], run: int, build: int, facts: MemoryFacts, device: PlanDevice) -> bool | None:
    if device.shared:
        return max(run, build) <= device.available_bytes
    needed = max(_total(items, phase, "device") for phase in ("run", "build"))
    if needed > device.available_bytes:
        return False
    host = max(run if facts.target == "cpu" else _total(items, "run", "host"), _total(items, "build", "host"))
    if device.host_bytes is not None:
        return host <= device.host_bytes
    return None if facts.target == "cpu" else True
