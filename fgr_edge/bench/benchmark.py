"""`fgr-edge bench`: one bundle, measured on this machine.

In: a `BenchConfig`. Out: a `Document`. In this order: fresh processes, while nothing is open here; then rounds, each of
which does all the work once, in an order that turns with the round, and measures the memory bandwidth once; then
several recognizers at once; then energy. The first rounds warm up and are thrown away. Nothing is pinned, and no clock
or governor is changed: what the machine did is told in `noise`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from fgr_edge.bench import facts
from fgr_edge.bench.answers import Asker, BenchMode, summarize
from fgr_edge.bench.bandwidth import ReadBandwidth
from fgr_edge.bench.concurrency import measure_level
from fgr_edge.bench.config import BenchConfig
from fgr_edge.bench.document import SCHEMA_VERSION, ColdStart, Document, Level, Memory
from fgr_edge.bench.energy import Energy, Work, find_meters, measure_energy
from fgr_edge.bench.machine import describe_machine
from fgr_edge.bench.noise import Snapshot, judge
from fgr_edge.bench.pictures import open_pictures
from fgr_edge.bench.rounds import Rounds, run_rounds
from fgr_edge.bench.spread import rounded
from fgr_edge.bench.starts import Starter, measure_starts, processes
from fgr_edge.bench.tokens import TokenRunner, prompt_tokens
from fgr_edge.errors import ConfigError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.recognizer import Recognizer

ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def bench(config: BenchConfig, progress: ProgressBar) -> Document:
    """Measure.

    Raises:
        BundleError, LabelError, EngineError, MissingExtraError: what cannot be opened.
        ImageError: a picture cannot be used.
        ConfigError: more tokens are asked for than the model has positions.
    """
    start = time.perf_counter()
    bundle = Bundle.open(config.bundle)
    config = _without_zeros(config)
    _check_positions(config, bundle)
    with TemporaryDirectory(prefix="fgr-edge-bench-") as folder:
        pictures = open_pictures(config.images, Path(folder))
        _check_room(config, prompt_tokens(bundle, pictures[0]), bundle)
        return _bench(config, bundle, pictures, progress, start)


def _bench(
    config: BenchConfig, bundle: Bundle, pictures: Sequence[Path], progress: ProgressBar, start: float
) -> Document:
    before = Snapshot.take()
    cold_start, memory = _starts(config, bundle, pictures[0], progress)
    recognizer = _open(config, keep_picture="cascade" in config.modes)
    asker = Asker(recognizer, pictures, config.cascade_below, config.think_budget)
    tokens = TokenRunner(recognizer)
    device = facts.device_of(bundle, config.device)
    bandwidth = ReadBandwidth(config.threads) if device == "cpu" else None
    jobs = Rounds(asker, tokens, pictures, config.modes, config.prompt_tokens, config.new_tokens)
    with progress("rounds", (config.warmups + config.rounds) * len(jobs.work())) as step:
        done = run_rounds(jobs, config.rounds, config.warmups, bandwidth, lambda: step(1))
    levels = _levels(config, pictures, progress)
    after = Snapshot.take()
    energy = _energy(config, asker, tokens, pictures)
    traffic = facts.traffic_of(bundle, device)
    machine = describe_machine()
    return Document(
        benchmark="fgr-edge bench",
        schema_version=SCHEMA_VERSION,
        command=facts.command_of(config),
        bundle=facts.subject_of(bundle, recognizer),
        settings=facts.settings_of(config, device, recognizer.model.products, pictures),
        noise=judge(before, after, done.bandwidth_gbps, done.unsteadiness(), done.slow_first_rounds()),
        prefill=done.prefill_rows(),
        decode=done.decode_rows(traffic),
        answers={mode: summarize(runs, mode) for mode, runs in done.answers.items()},
        cold_start=cold_start,
        memory=memory,
        bandwidth=facts.bandwidth_of(done.bandwidth_gbps, config.threads, device),
        energy=energy,
        concurrency=levels,
        notes=[
            *facts.notes_of(done, bundle, recognizer, device, traffic, machine),
            *facts.about_starts(cold_start, bundle),
        ],
        samples=done.samples(),
        machine=machine,
        seconds=rounded(time.perf_counter() - start),
    )


def _starts(config: BenchConfig, bundle: Bundle, picture: Path, progress: ProgressBar) -> tuple[ColdStart, Memory]:
    asked = [mode for mode in config.modes if mode != "cascade"]
    starter = Starter(bundle, picture, config.labels, config.device, config.threads, config.think_budget)
    with progress("fresh processes", processes(config.starts, asked)) as step:
        return measure_starts(starter, config.starts, asked, lambda: step(1))


def _levels(config: BenchConfig, pictures: Sequence[Path], progress: ProgressBar) -> list[Level]:
    levels: list[Level] = []
    if not config.concurrency:
        return levels
    with progress("several at once", len(config.concurrency)) as step:
        for count in config.concurrency:
            opener = partial(_open, config)
            levels.append(measure_level(opener, pictures, count, seconds=config.level_s, least=config.rounds))
            step(1)
    return levels


def _open(config: BenchConfig, *, keep_picture: bool = False) -> Recognizer:
    return Recognizer(
        config.bundle, config.labels, device=config.device, threads=config.threads, keep_picture=keep_picture
    )


def _energy(config: BenchConfig, asker: Asker, tokens: TokenRunner, pictures: Sequence[Path]) -> Energy:
    """Joules of an answer in each mode, and of a generated token."""

    def answers(mode: BenchMode) -> Work:
        return lambda: len(asker.ask_all(mode))

    work: dict[str, Work] = {}
    if config.new_tokens:  # first, because answers overwrite what was read
        count = config.new_tokens[0]
        tokens.read(pictures[0], count)
        work["token"] = lambda: len(tokens.generate(count).token_ms)
    work |= {f"{mode}_answer": answers(mode) for mode in config.modes}
    meters, absent = find_meters()
    try:
        return measure_energy(work, meters, absent, work_s=config.work_s)
    finally:
        for meter in meters:
            meter.close()


def _without_zeros(config: BenchConfig) -> BenchConfig:
    """`-p 0` and `-n 0` leave a measure out, as in llama-bench."""
    return replace(
        config,
        prompt_tokens=tuple(count for count in config.prompt_tokens if count),
        new_tokens=tuple(count for count in config.new_tokens if count),
    )


def _check_positions(config: BenchConfig, bundle: Bundle) -> None:
    most = bundle.manifest["decoder"]["max_positions"]
    for option, counts in (("-p", config.prompt_tokens), ("-n", config.new_tokens)):
        over = [count for count in counts if count > most]
        if over:
            raise ConfigError(
                f"{option} asks for {over[0]} tokens, the model has positions for {most}; give at most that"
            )


def _check_room(config: BenchConfig, read: int, bundle: Bundle) -> None:
    most = bundle.manifest["decoder"]["max_positions"]
    for count in config.new_tokens:
        if read + count > most:
            raise ConfigError(
                f"-n asks for {count} tokens after the {read} of the picture's prompt, the model has "
                f"positions for {most}; give -n {max(0, most - read)} at most, or a smaller picture"
            )
