"""Picking the next token from logits, with the argument names and the order of transformers' `generate`.

Source: transformers, `generation/logits_process.py`: repetition penalty, temperature, top-k, top-p, then a draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import ConfigError, EngineError
from fgr_edge.runtime.decoder import NOT_FINITE
from fgr_edge.runtime.head import LazyLogits


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How tokens are chosen. The defaults are greedy.

    Attributes:
        max_new_tokens: tokens generated at most.
        do_sample: draw instead of taking the likeliest.
        temperature: divides the logits; > 0.
        top_k: keep the k likeliest; 0 keeps all.
        top_p: keep the smallest set whose probability reaches top_p; in (0, 1].
        repetition_penalty: divides positive and multiplies negative logits of tokens seen before; > 0.
        seed: of the draw; None draws differently each time.
    """

    max_new_tokens: int = 1024
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        checks = (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature > 0, "above 0 (use do_sample=False for greedy decoding)"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
        )
        for name, good, expected in checks:
            if not good:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected {expected}")


class Sampler:
    """Draws tokens for one sequence.

    Args:
        config: how.
        prompt_ids: tokens that the repetition penalty counts as seen.
    """

    def __init__(self, config: SamplingConfig, prompt_ids: Sequence[int] | npt.NDArray[np.int64] = ()) -> None:
        self._config = config
        self._random = np.random.default_rng(config.seed)
        self._seen = np.unique(np.asarray(prompt_ids, np.int64))

    def next(self, logits: npt.NDArray[np.float32] | LazyLogits) -> int:
        """Choose a token from logits [V], which are left as they are; greedily without computing all, where it can.

        Greedily, logits that are in doubt are computed again where the first two are too near to each other; draws go
        by them as they are: rounding changes a probability by no more than that.

        Raises:
            EngineError: a logit is not a number, or +inf.
        """
        config, penalty = self._config, self._config.repetition_penalty
        doubted: LazyLogits | None = None
        if isinstance(logits, LazyLogits):
            known = None if config.do_sample else logits.likeliest(self._seen, penalty)
            if known is not None:
                return self._chosen(known)
            doubted = logits if not config.do_sample and logits.again is not None else None
            logits = logits.full()
        if penalty != 1.0:
            logits = self._penalized(logits)
        likeliest = int(logits.argmax())  # the first NaN, where there is one
        if not np.isfinite(logits[likeliest]):
            raise EngineError(NOT_FINITE)
        if doubted is not None and _lead(logits, likeliest) <= doubted.doubt * max(penalty, 1 / penalty):
            assert doubted.again is not None
            return self.next(doubted.again())
        return self._chosen(self._draw(logits) if config.do_sample else likeliest)

    def _chosen(self, token: int) -> int:
        if self._config.repetition_penalty != 1.0:
            self._seen = np.union1d(self._seen, [token])
        return token

    def _penalized(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        logits = logits.copy()
        seen = logits[self._seen]
        penalty = np.float32(self._config.repetition_penalty)
        logits[self._seen] = np.where(seen < 0, seen * penalty, seen / penalty)
        return logits

    def _draw(self, logits: npt.NDArray[np.float32]) -> int:
        probabilities, tokens = self.distribution(logits)
        return int(tokens[self._random.choice(len(tokens), p=probabilities)])

    def distribution(self, logits: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Probabilities, likeliest first, and the tokens that have them, after temperature, top-k and top-p."""
        config = self._config
        scores = logits.astype(np.float64) / config.temperature
        if 0 < config.top_k < len(scores):
            kth = np.partition(scores, -config.top_k)[-config.top_k]
            tokens = np.flatnonzero(scores >= kth)
        else:
            tokens = np.arange(len(scores))
        tokens = tokens[np.argsort(-scores[tokens], kind="stable")]
        weights = np.exp(scores[tokens] - scores[tokens[0]])
        probabilities = weights / weights.sum()
        if config.top_p < 1.0:
            keep = np.cumsum(probabilities) - probabilities < config.top_p
            tokens, probabilities = tokens[keep], probabilities[keep] / probabilities[keep].sum()
        return probabilities, tokens


def _lead(logits: npt.NDArray[np.float32], first: int) -> float:
    """How far the largest logit is above the others."""
    largest = logits[first]
    logits[first] = -np.inf  # and back: a copy of a large vocabulary would take longer
    second = logits.max()
    logits[first] = largest
    return float(largest - second)
