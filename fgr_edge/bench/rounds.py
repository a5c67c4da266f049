"""Rounds: all the work once, in an order that turns, with the memory bandwidth measured in between.

In: what to do. Out: `Measured`, the numbers of the rounds that count. Turning the order and measuring bandwidth in
every round keeps a machine that drifts (heat, neighbours) from favouring what comes first.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fgr_edge.bench.answers import AnswerRun, Asker, BenchMode, relative_iqr, unsteadiness
from fgr_edge.bench.bandwidth import ReadBandwidth
from fgr_edge.bench.document import Decode, Prefill
from fgr_edge.bench.spread import rounded, spread
from fgr_edge.bench.tokens import DecodeRun, TokenRunner
from fgr_edge.bench.traffic import Traffic

BANDWIDTH_S = 0.3  # a round
SETTLE_S = 0.05  # worker threads of the engine spin for a while after a call; the reader waits until they sleep
SLOW_FIRST = 1.3
LEAST_FOR_SPREAD = 4  # rounds, before their spread says anything of the machine


@dataclass(slots=True)
class Measured:
    """Numbers by round, in the order of the rounds."""

    answers: dict[BenchMode, list[AnswerRun]] = field(default_factory=dict)
    prefill_ms: dict[int, list[float]] = field(default_factory=dict)
    decodes: dict[int, list[DecodeRun]] = field(default_factory=dict)
    bandwidth_gbps: list[float] = field(default_factory=list)

    def prefill_rows(self) -> list[Prefill]:
        """One row a count."""
        return [
            Prefill(
                prompt_tokens=count,
                prefill_ms=spread(times),
                tokens_per_s=spread([count / ms * 1e3 for ms in times]),
            )
            for count, times in self.prefill_ms.items()
        ]

    def decode_rows(self, traffic: Traffic) -> list[Decode]:
        """One row a count, against the bandwidth."""
        return [self._decode_row(count, runs, traffic) for count, runs in self.decodes.items()]

    def _decode_row(self, count: int, runs: Sequence[DecodeRun], traffic: Traffic) -> Decode:
        rates = [_tokens_per_s(run) for run in runs]
        told = [run.full_head_tokens for run in runs if run.full_head_tokens is not None]
        full = sum(told) / (count * len(told)) if told else None
        context = runs[0].context_start_tokens
        moved = traffic.bytes_per_token(context + (count - 1) / 2, full or 0.0)
        middle = spread(self.bandwidth_gbps)["p50"]
        shares = [rate * moved / 1e9 / gbps for rate, gbps in zip(rates, self.bandwidth_gbps, strict=False)]
        return Decode(
            new_tokens=count,
            context_start_tokens=context,
            tpot_ms=spread([ms for run in runs for ms in run.token_ms]),
            tokens_per_s=spread(rates),
            bytes_per_token=round(moved),
            full_head_share=None if full is None else rounded(full),
            roofline_tokens_per_s=None if middle is None else rounded(middle * 1e9 / moved),
            roofline_share=spread(shares) if shares else None,
        )

    def unsteadiness(self) -> dict[str, float]:
        """Interquartile range over median of what repeats the same work; nothing of fewer rounds than four."""
        found = {f"{mode} answers": unsteadiness(runs) for mode, runs in self.answers.items()}
        for count, times in self.prefill_ms.items():
            found[f"pp{count}"] = relative_iqr(spread(times)) if len(times) >= LEAST_FOR_SPREAD else None
        for count, runs in self.decodes.items():
            rates = [_tokens_per_s(run) for run in runs]
            found[f"tg{count}"] = relative_iqr(spread(rates)) if len(rates) >= LEAST_FOR_SPREAD else None
        return {name: value for name, value in found.items() if value is not None}

    def slow_first_rounds(self) -> dict[str, float]:
        """How many times the median of the others the first round that counts took, of what took noticeably more."""
        found = {f"{mode} answers": _by_round(runs) for mode, runs in self.answers.items()}
        found |= {f"pp{count}": times for count, times in self.prefill_ms.items()}
        found |= {f"tg{count}": [sum(run.token_ms) for run in runs] for count, runs in self.decodes.items()}
        ratios = {
            name: times[0] / statistics.median(times[1:])
            for name, times in found.items()
            if len(times) >= LEAST_FOR_SPREAD
        }
        return {name: rounded(ratio) for name, ratio in ratios.items() if ratio > SLOW_FIRST}

    def samples(self) -> dict[str, list[float]]:
        """The numbers themselves, in the order measured."""
        found = {f"{mode}_answer_ms": [run.answer_ms for run in runs] for mode, runs in self.answers.items()}
        found |= {f"pp{count}_ms": times for count, times in self.prefill_ms.items()}
        for count, runs in self.decodes.items():
            found[f"tg{count}_tpot_ms"] = [ms for run in runs for ms in run.token_ms]
            found[f"tg{count}_tokens_per_s"] = [_tokens_per_s(run) for run in runs]
        found["read_bandwidth_gbps"] = self.bandwidth_gbps
        return {name: [rounded(value) for value in values] for name, values in found.items()}


@dataclass(frozen=True, slots=True)
class Rounds:
    """The work of one round."""

    asker: Asker
    tokens: TokenRunner
    pictures: Sequence[Path]
    modes: Sequence[BenchMode]
    prompt_tokens: Sequence[int]
    new_tokens: Sequence[int]

    def work(self) -> list[Callable[[Measured], None]]:
        """Each adds what it measured."""
        return [
            *(self._answers(mode) for mode in self.modes),
            *(self._prefill(count) for count in self.prompt_tokens),
            *(self._decode(count) for count in self.new_tokens),
        ]

    def _answers(self, mode: BenchMode) -> Callable[[Measured], None]:
        return lambda into: into.answers.setdefault(mode, []).extend(self.asker.ask_all(mode))

    def _prefill(self, count: int) -> Callable[[Measured], None]:
        return lambda into: into.prefill_ms.setdefault(count, []).append(self.tokens.prefill_ms(count))

    def _decode(self, count: int) -> Callable[[Measured], None]:
        def measure(into: Measured) -> None:
            into.decodes.setdefault(count, []).append(self.tokens.decode(self.pictures[0], count))

        return measure


def run_rounds(
    jobs: Rounds, rounds: int, warmups: int, bandwidth: ReadBandwidth | None, step: Callable[[], None]
) -> Measured:
    """Do the work `warmups + rounds` times.

    Args:
        bandwidth: measured once a round, half-way through it; None leaves it out.
        step: called after each piece of work.
    """
    measured = Measured()
    work = jobs.work()
    for number in range(warmups + rounds):
        into = measured if number >= warmups else Measured()
        turn = number % len(work)
        for place, once in enumerate([*work[turn:], *work[:turn]]):
            if place == len(work) // 2 and bandwidth is not None:
                time.sleep(SETTLE_S)
                into.bandwidth_gbps.append(bandwidth.gbps(BANDWIDTH_S))
            once(into)
            step()
    return _sorted(measured, jobs)


def _sorted(measured: Measured, jobs: Rounds) -> Measured:
    """Measures in the order asked for, not in that of the first round that counts."""
    return Measured(
        answers={mode: measured.answers[mode] for mode in jobs.modes},
        prefill_ms={count: measured.prefill_ms[count] for count in jobs.prompt_tokens},
        decodes={count: measured.decodes[count] for count in jobs.new_tokens},
        bandwidth_gbps=measured.bandwidth_gbps,
    )


def _by_round(runs: Sequence[AnswerRun]) -> list[float]:
    """Milliseconds of all pictures of each round."""
    pictures = 1 + max(run.picture for run in runs)
    times = [run.answer_ms for run in runs]
    return [sum(times[start : start + pictures]) for start in range(0, len(times), pictures)]


def _tokens_per_s(run: DecodeRun) -> float:
    return len(run.token_ms) / sum(run.token_ms) * 1e3
