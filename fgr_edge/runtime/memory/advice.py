"""What to change where a bundle does not fit, computed: each change is planned like the bundle itself. And the table.

In: a `MemoryPlan`. Out: the plan with its suggestions, and its text for people.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fgr_edge.runtime.inspection import readable
from fgr_edge.runtime.memory.devices import GIB, MIB, PlanDevice
from fgr_edge.runtime.memory.facts import BYTES_PER_WEIGHT, INT4, MemoryFacts
from fgr_edge.runtime.memory.plan import Item, MemoryPlan, Suggestion, plan_memory

PICTURES = ((1280, 720), (640, 480), (448, 336))  # a camera's usual sizes
SMALL_PICTURE = (640, 480)
THOUGHTS = (512, 256, 64)  # tokens of an answer; the last is a direct one
WORKSPACE_MIB = 256
ENGINES = ("tensorrt", "tensorrt-rtx")
Change = tuple[str, MemoryFacts, int | None]  # what is changed, the facts then, bytes that a kernel may use in building


def advised(plan: MemoryPlan) -> MemoryPlan:
    """The plan with what to change; the plan itself where nothing need be changed."""
    if plan.fits is not False:
        return plan
    suggestions = [_planned(change, plan.device) for change in _changes(plan.facts)]
    # What saves nothing is no suggestion.
    helpful = [s for s in suggestions if s.run_bytes < plan.run_bytes or s.build_bytes < plan.build_bytes]
    return replace(plan, suggestions=(*helpful, *_swap(plan)))


def _planned(change: Change, device: PlanDevice) -> Suggestion:
    text, facts, workspace_bytes = change
    plan = plan_memory(facts, device, workspace_bytes=workspace_bytes)
    return Suggestion(text, plan.run_bytes, plan.build_bytes, plan.fits)


def _changes(facts: MemoryFacts) -> Iterator[Change]:
    """One change at a time, then those that cost the least, together."""
    yield from _smaller_pictures(facts)
    for name, precision in _narrower(facts):
        yield f"narrower weights: export again with --precision {name}", facts.changed(precision=precision), None
    yield from _shorter(facts)
    if facts.target in ENGINES:
        yield "one profile for prompts and single tokens: build with --one-profile", _one_profile(facts), None
    if facts.target in ENGINES and facts.head_inside:
        yield "the head as a graph of its own: export again with this version", facts.with_head_apart(), None
    if facts.target == "tensorrt":
        yield f"smaller head tactics: build with --workspace-mb {WORKSPACE_MIB}", facts, WORKSPACE_MIB * MIB
    if facts.screen_bytes:
        yield "no coarse copy of the head: export again with --no-screen", replace(facts, screen_bytes=0), None
    yield from _together(facts)


def _smaller_pictures(facts: MemoryFacts) -> Iterator[Change]:
    for width, height in PICTURES:
        if width * height < facts.pixels:
            smaller = facts.changed(pixels=width * height)
            yield f"smaller pictures: export again with --image-size {width}x{height}", smaller, None


def _one_profile(facts: MemoryFacts) -> MemoryFacts:
    return replace(facts, one_profile=True)


def _shorter(facts: MemoryFacts) -> Iterator[Change]:
    """Engines have a cache of one length, ONNX Runtime's is as long as the answer wants."""
    seen = {facts.cache_slots}
    for tokens in THOUGHTS:
        shorter = facts.changed(tokens=facts.prompt_tokens + tokens)
        if shorter.cache_slots < min(seen):
            seen.add(shorter.cache_slots)
            how = f"build with --cache-length {shorter.cache_slots}"
            text = how if facts.target in ENGINES else f"recognize with --think-budget {tokens}"
            yield f"shorter answers: {text}", shorter, None


def _together(facts: MemoryFacts) -> Iterator[Change]:
    """Small pictures, int4, the head apart and its tactics small: what leaves thoughts as long as they are."""
    words = []
    width, height = SMALL_PICTURE
    if facts.pixels > width * height:
        facts = facts.changed(pixels=width * height)
        words.append(f"--image-size {width}x{height}")
    if any(name == "int4" for name, _ in _narrower(facts)):
        facts = facts.changed(precision=dict(INT4))
        words.append("--precision int4")
    if facts.target in ENGINES and facts.head_inside:
        facts = facts.with_head_apart()
        words.append("the head apart")
    if facts.target in ENGINES:
        facts = _one_profile(facts)
        words.append("--one-profile")
    workspace_bytes = WORKSPACE_MIB * MIB if facts.target == "tensorrt" else None
    if workspace_bytes:
        words.append(f"--workspace-mb {WORKSPACE_MIB}")
    if len(words) > 1:
        yield f"together: {', '.join(words)}", facts, workspace_bytes


def _swap(plan: MemoryPlan) -> Iterator[Suggestion]:
    """A builder's own memory can be swapped out, what the GPU uses cannot."""
    left = plan.device.available_bytes
    if plan.device.shared and plan.run_bytes <= left < plan.build_bytes:
        gib = -(-(plan.build_bytes - left) // GIB)
        yield Suggestion(
            f"{gib} GiB of swap while building, which takes longer", plan.run_bytes, plan.build_bytes, True
        )


def _narrower(facts: MemoryFacts) -> Iterator[tuple[str, dict[str, str]]]:
    widest = max(BYTES_PER_WEIGHT[scheme] for scheme in facts.precision.values())
    if widest > 2:
        yield "fp16", dict.fromkeys(facts.precision, "fp16")
    if widest > 1.1:
        yield "int8", dict.fromkeys(facts.precision, "int8")
    if BYTES_PER_WEIGHT[facts.precision["decoder"]] > 0.7:
        yield "int4", dict(INT4)


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
