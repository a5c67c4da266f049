"""What a peer of a latency comparison does; one peer a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FirstToken:
    """From a picture file to the first token.

    Attributes:
        prompt_ids: What the picture and the question became.
        stages_ms: Milliseconds by stage, where the peer has stages.
    """

    token: int
    ms: float
    prompt_ids: tuple[int, ...]
    stages_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decoded:
    """All greedy tokens, and the milliseconds that those after the first took.

    Attributes:
        candidates: Rows of the output head that each token after the first was chosen among, where it is screened;
            None for those that the full head chose.
    """

    tokens: tuple[int, ...]
    ms: float
    candidates: tuple[int | None, ...] = ()

    @property
    def ms_per_token(self) -> float:
        """Time per output token (TPOT)."""
        return self.ms / (len(self.tokens) - 1)


class Peer(Protocol):
    """One implementation, at one precision, holding one loaded model."""

    name: str

    def first_token(self, picture: Path) -> FirstToken:
        """Open the file, prepare it and the default question, run the model, pick the likeliest token."""

    def decode(self, new_tokens: int) -> Decoded:
        """Generate exactly `new_tokens` tokens greedily for the last picture, whatever stop tokens come."""
