"""What a run's document says beside its numbers: the subject, the settings, the command, and what to make of it all.

In: a bundle, a configuration, what was measured. Out: parts of a `Document`. No path of the machine gets into them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fgr_edge.bench.config import BenchConfig
from fgr_edge.bench.document import Bandwidth, ColdStart, Settings, Subject
from fgr_edge.bench.rounds import Measured
from fgr_edge.bench.spread import TAIL_NEEDS, spread
from fgr_edge.bench.starts import weight_bytes
from fgr_edge.bench.traffic import Traffic
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.inspection import readable
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.threads import usable_cores

READ_AT_LEAST = 0.3  # of the weights, by a start whose files were put out of the page cache
WIDENED = ("fp16", "bf16")  # on a CPU, engines keep these weights in float32


def device_of(bundle: Bundle, device: str | None) -> str:
    """Where the graphs run."""
    return bundle.manifest["target"] if device is None else device


def traffic_of(bundle: Bundle, device: str) -> Traffic:
    """What decoding reads there; a screened head is used on the CPU alone."""
    return Traffic.of(bundle, screened=device == "cpu")


def subject_of(bundle: Bundle, recognizer: Recognizer) -> Subject:
    """The bundle, without its path."""
    manifest = bundle.manifest
    return Subject(
        name=manifest["name"],
        family=manifest["family"],
        target=manifest["target"],
        dialect=manifest["dialect"],
        precision=manifest["precision"],
        total_bytes=sum(entry["size"] for entry in manifest["files"].values()),
        weight_bytes=weight_bytes(bundle),
        labels=0 if recognizer.labels is None else len(recognizer.labels),
        max_positions=manifest["decoder"]["max_positions"],
    )


def settings_of(config: BenchConfig, device: str, products: str | None, pictures: Sequence[Path]) -> Settings:
    """As they were used."""
    return Settings(
        prompt_tokens=list(config.prompt_tokens),
        new_tokens=list(config.new_tokens),
        rounds=config.rounds,
        warmups=config.warmups,
        modes=list(config.modes),
        cascade_below=config.cascade_below,
        think_budget=config.think_budget,
        threads=config.threads,
        device=device,
        products=products,
        pictures=[path.name for path in pictures],
        pictures_drawn=config.images is None,
    )


def command_of(config: BenchConfig) -> str:
    """What would be typed beside the bundle; paths by their last part."""
    words = ["fgr-edge", "bench", _name(config.bundle)]
    words += ["-p", _list(config.prompt_tokens) or "0", "-n", _list(config.new_tokens) or "0", "-r", str(config.rounds)]
    options: Mapping[str, str | None] = {
        "--images": None if config.images is None else _name(config.images),
        "--labels": None if config.labels is None else _name(config.labels),
        "--modes": ",".join(config.modes),
        "--cascade-below": f"{config.cascade_below:g}" if "cascade" in config.modes else None,
        "--think-budget": None if config.think_budget is None else str(config.think_budget),
        "--concurrency": _list(config.concurrency) or None,
        "--starts": str(config.starts),
        "--warmups": str(config.warmups),
        "--threads": None if config.threads is None else str(config.threads),
        "--device": config.device,
    }
    words += [word for option, value in options.items() if value is not None for word in (option, value)]
    return shlex.join(words)


def bandwidth_of(gbps: Sequence[float], threads: int | None, device: str) -> Bandwidth:
    """Of the rounds; null with the reason where decoding does not read the host's memory."""
    if not gbps:
        reason = f"decoding on {device} reads the GPU's memory, whose bandwidth is not measured"
        return Bandwidth(read_gbps=None, threads=None, not_measured=reason)
    return Bandwidth(read_gbps=spread(gbps), threads=usable_cores() if threads is None else threads, not_measured=None)


def notes_of(
    done: Measured, bundle: Bundle, recognizer: Recognizer, device: str, traffic: Traffic, machine: Mapping[str, Any]
) -> list[str]:
    """What a reader should know before quoting a number."""
    return [
        *_about_tails(done),
        *_about_answers(done, recognizer),
        *_about_memory(done, bundle, device, traffic, machine["last_level_cache_bytes"]),
    ]


def about_starts(cold_start: ColdStart, bundle: Bundle) -> Iterator[str]:
    """Whether uncached starts were uncached."""
    uncached = cold_start["uncached"]
    if uncached is not None and uncached["disk_read_bytes"] < READ_AT_LEAST * weight_bytes(bundle):
        yield (
            f"uncached starts read {readable(uncached['disk_read_bytes'])} from a disk, less than the weights: the "
            "bundle's pages stayed in memory (another process maps them, or the files have no disk)"
        )


def _about_tails(done: Measured) -> Iterator[str]:
    fewest = min((len(runs) for runs in done.answers.values()), default=TAIL_NEEDS)
    if fewest < TAIL_NEEDS:
        yield f"p99 of {fewest} answers lies next to the slowest of them; {TAIL_NEEDS} answers and more make it a p99"


def _about_answers(done: Measured, recognizer: Recognizer) -> Iterator[str]:
    if recognizer.labels is None and done.answers:
        yield "no labels were given and the bundle has none: the model answered freely, and no probabilities were read"
    if recognizer.speculated is not None and "reason" in done.answers:
        yield (
            "thoughts: the runtime guesses tokens from the bundle's phrases and from what it wrote about the pictures "
            "before, and checks several at once; each round it began with none written. tg decodes one by one"
        )
    runs = done.answers.get("cascade")
    if runs:
        yield (
            "the cascade asks directly, and again with reasoning, the picture kept, where the direct answer "
            f"abstained or was below the bound: {sum(run.reasoned for run in runs)} of {len(runs)} went on"
        )


def _about_memory(
    done: Measured, bundle: Bundle, device: str, traffic: Traffic, cache_bytes: int | None
) -> Iterator[str]:
    if device != "cpu":
        yield f"peak memory is the host's; what {device} takes of the GPU's is not measured"
    if not done.decodes or device != "cpu":
        return
    if cache_bytes is not None and traffic.weight_bytes < cache_bytes:
        yield (
            f"the {readable(traffic.weight_bytes)} that a token reads fit into the processor's last cache "
            f"({readable(cache_bytes)}): the share of the memory bandwidth may exceed 100 %"
        )
    if bundle.manifest["precision"].get("decoder") in WIDENED:
        yield "16-bit weights are counted as stored; the engine keeps them in float32 on a CPU, and moves twice as much"


def _list(counts: Sequence[int]) -> str:
    return ",".join(map(str, counts))


def _name(path: Path) -> str:
    return path.resolve().name
