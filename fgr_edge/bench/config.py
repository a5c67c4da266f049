"""What `fgr-edge bench` is asked for: a bundle, pictures, and which measures are taken how often. Measures nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fgr_edge.bench.answers import MODES, BenchMode
from fgr_edge.bench.concurrency import LEVEL_S
from fgr_edge.bench.energy import WORK_S
from fgr_edge.errors import ConfigError
from fgr_edge.runtime.opening import Device


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """What to measure, and how often.

    Attributes:
        images: a picture or a folder of them; None draws some.
        labels: class names; None takes the bundle's, if it has any.
        prompt_tokens: prefills of so much text, each count a measure; 0 and none leave it out.
        new_tokens: likewise, tokens generated after the first picture's prompt.
        rounds, warmups: counted, and thrown away before.
        cascade_below: probability of a direct answer under which the cascade reasons.
        think_budget: tokens after which a thought is closed; None lets it end.
        concurrency: so many recognizers at once, each count a measure.
        starts: fresh processes of each kind.
        level_s, work_s: least seconds of a concurrency level, and of a piece of work whose energy is measured.

    Raises:
        ConfigError: an option makes no sense.
    """

    bundle: Path
    images: Path | None = None
    labels: Path | None = None
    prompt_tokens: tuple[int, ...] = (512,)
    new_tokens: tuple[int, ...] = (128,)
    rounds: int = 5
    warmups: int = 1
    modes: tuple[BenchMode, ...] = MODES
    cascade_below: float = 0.5
    think_budget: int | None = None
    concurrency: tuple[int, ...] = ()
    starts: int = 5
    threads: int | None = None
    device: Device | None = None
    level_s: float = LEVEL_S
    work_s: float = WORK_S

    def __post_init__(self) -> None:
        unknown = [mode for mode in self.modes if mode not in MODES]
        if unknown or not self.modes:
            raise ConfigError(f"modes are {', '.join(unknown) or 'none'}, expected some of {', '.join(MODES)}")
        checks = (
            ("rounds", self.rounds >= 1, "at least 1"),
            ("warmups", self.warmups >= 0, "0 or more"),
            ("starts", self.starts >= 0, "0 or more"),
            ("cascade_below", 0 <= self.cascade_below <= 1, "a probability, from 0 to 1"),
            ("think_budget", self.think_budget is None or self.think_budget >= 1, "at least 1 token"),
            ("threads", self.threads is None or self.threads >= 1, "at least 1"),
            ("concurrency", all(count >= 1 for count in self.concurrency), "at least 1 recognizer"),
            ("prompt_tokens", all(count >= 0 for count in self.prompt_tokens), "0 or more tokens"),
            ("new_tokens", all(count >= 0 for count in self.new_tokens), "0 or more tokens"),
        )
        for name, good, expected in checks:
            if not good:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected {expected}")
