"""What is asked of a picture. Knows no picture and no bundle."""

from __future__ import annotations

from dataclasses import dataclass

from fgr_edge.errors import ConfigError
from fgr_edge.runtime.prompt import Mode
from fgr_edge.runtime.sampling import SamplingConfig


@dataclass(frozen=True, slots=True)
class Request:
    """Options of one call, checked.

    Attributes:
        wording: the whole message, instead of the bundle's wording around the question.
        max_new_tokens: generated at most, without `sampling`; None takes the mode's.

    Raises:
        ConfigError: an option makes no sense.
    """

    mode: Mode = "direct"
    question: str | None = None
    think_budget: int | None = None
    sampling: SamplingConfig | None = None
    wording: str | None = None
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("direct", "reason"):
            raise ConfigError(f"mode is {self.mode!r}, expected 'direct' or 'reason'")
        if self.think_budget is not None and self.think_budget < 1:
            raise ConfigError(f"think_budget is {self.think_budget}, expected at least 1 token")
