"""What to change where a bundle does not fit, computed: each change is planned like the bundle itself. And the table.

In: a `MemoryPlan`. Out: the plan with its suggestions, and its text for people.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fgr_edge.runtime.inspection import readable
from fgr_edge.runtime.memory_facts import BYTES_PER_WEIGHT, CACHE_STEP, INT4, MemoryFacts
from fgr_edge.runtime.memory_plan import Item, MemoryPlan, Suggestion, plan_memory
from fgr_edge.runtime.plan_devices import PlanDevice

PICTURES = ((1280, 720), (640, 480), (448, 336))  # a camera's usual sizes
ANSWERS = (512, 256, 64)  # tokens after the prompt: a shorter thought, then direct answers
HEAD_PARTS = 4
Change = tuple[str, MemoryFacts, int]  # what is changed, the facts then, parts of the head


def advised(plan: MemoryPlan) -> MemoryPlan:
    """The plan with what to change; the plan itself where nothing need be changed."""
    if plan.fits is not False:
        return plan
    suggestions = [_planned(change, plan.device) for change in _changes(plan.facts)]
    # What saves nothing is no suggestion.
    helpful = [s for s in suggestions if s.run_bytes < plan.run_bytes or s.build_bytes < plan.build_bytes]
    return replace(plan, suggestions=tuple(helpful))


def _planned(change: Change, device: PlanDevice) -> Suggestion:
    text, facts, parts = change
    plan = plan_memory(facts, device, head_parts=parts)
    return Suggestion(text, plan.run_bytes, plan.build_bytes, plan.fits)


def _changes(facts: MemoryFacts) -> Iterator[Change]:
    """One change at a time, then all of them."""
    smallest, parts, words = facts, 1, []
    for width, height in PICTURES:
        if width * height < facts.pixels:
            smaller = facts.changed(pixels=width * height)
            yield f"smaller pictures: export again with --image-size {width}x{height}", smaller, 1
    if facts.pixels > 640 * 480:
        smallest = smallest.changed(pixels=640 * 480)
        words.append("640x480")
    for name, precision in _narrower(facts):
        yield f"narrower weights: export again with --precision {name}", facts.changed(precision=precision), 1
        if name == "int4":
            smallest = smallest.changed(precision=precision)
            words.append("int4")
    for answer in ANSWERS:
        shorter = _rounded(facts.prompt_tokens + answer)
        if shorter < facts.tokens:
            yield f"shorter sequences: --max-tokens {shorter}", facts.changed(tokens=shorter), 1
    if facts.target in ("tensorrt", "tensorrt-rtx"):
        yield f"the head built in {HEAD_PARTS} parts", facts, HEAD_PARTS
        parts = HEAD_PARTS
        words.append("split head")
    if facts.screen_bytes:
        yield "no coarse copy of the head: export again with --no-screen", replace(facts, screen_bytes=0), 1
        smallest = replace(smallest, screen_bytes=0)
    if len(words) > 1:
        yield f"together: {', '.join(words)}", smallest, parts


def _narrower(facts: MemoryFacts) -> Iterator[tuple[str, dict[str, str]]]:
    widest = max(BYTES_PER_WEIGHT[scheme] for scheme in facts.precision.values())
    if widest > 2:
        yield "fp16", dict.fromkeys(facts.precision, "fp16")
    if widest > 1.1:
        yield "int8", dict.fromkeys(facts.precision, "int8")
    if BYTES_PER_WEIGHT[facts.precision["decoder"]] > 0.7:
        yield "int4", dict(INT4)


def _rounded(tokens: int) -> int:
    return -(-tokens // CACHE_STEP) * CACHE_STEP


def plan_table(plan: MemoryPlan) -> str:
    """The plan for a person."""
    device, facts = plan.device, plan.facts
    whose = "shared by CPU and GPU" if device.shared and device.has_gpu else "of the GPU" if device.has_gpu else "RAM"
    lines = [
        f"{device.name}: {readable(device.memory_bytes)} {whose}, {readable(device.reserved_bytes)} reserved for "
        f"{device.reserved_for}, {readable(device.available_bytes)} left",
        f"pictures of at most {facts.pixels:,} pixels ({facts.image_tokens:,} tokens), {facts.tokens:,} tokens in all",
        "",
    ]
    running, building = ([item for item in plan.items if item.phase == phase] for phase in ("run", "build"))
    lines += _phase("to run", running, plan.run_bytes, split=not device.shared)
    lines += _phase("to build", building, plan.build_bytes, split=not device.shared)
    lines.append(_verdict(plan))
    lines += [_suggested(suggestion) for suggestion in plan.suggestions]
    return "\n".join(lines)


def _phase(title: str, rows: list[Item], total: int, *, split: bool) -> list[str]:
    if not rows:
        return []
    lines = [f"  {row.name:<38} {readable(row.bytes):>10}  {_where(row, split=split)}{row.basis}" for row in rows]
    counted = sum(row.bytes for row in rows)
    if total > counted:
        lines.append(f"  {'while opening: the head held twice':<38} {readable(total - counted):>10}  measured")
    return [f"{title}: {readable(total)}", *lines, ""]


def _where(row: Item, *, split: bool) -> str:
    return f"{'GPU' if row.place == 'device' else 'CPU'}, " if split else ""


def _verdict(plan: MemoryPlan) -> str:
    if plan.fits is None:
        return (
            f"the memory of {plan.device.name}'s host is not known; this bundle needs {readable(plan.run_bytes)} of it"
        )
    left = readable(plan.device.available_bytes)
    if plan.fits:
        return f"fits into {left}"
    tail = ":" if plan.suggestions else ", and no change that is known here makes it smaller"
    return f"does not fit into {left}{tail}"


def _suggested(suggestion: Suggestion) -> str:
    build = f", build {readable(suggestion.build_bytes)}" if suggestion.build_bytes else ""
    verdict = "fits" if suggestion.fits else "does not fit yet"
    return f"  {suggestion.change}: run {readable(suggestion.run_bytes)}{build}, {verdict}"
