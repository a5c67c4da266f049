"""The golden pictures through every stage of a bundle: what `make_golden` records and `verify` repeats.

In: a recognizer and the golden inputs. Out: per stage, arrays by name, small enough to travel with the bundle: large
ones as an evenly spread sample, logits as log-probabilities of some columns (in which all columns count). Knows neither
precisions nor bounds.

Order matters: the stages run in one session, as pictures do in use. What is decoded first leaves rows in the cache that
what is decoded next must not see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import FgrEdgeError
from fgr_edge.runtime.image import Patches
from fgr_edge.runtime.prompt import Prompt
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.stepper import Stepper
from fgr_edge.runtime.vision import ImageEmbeds

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

PICTURES = ("first", "second")
MOST_VALUES = 32_749  # kept of an array; a prime, so that the sample does not keep to some columns
MOST_COLUMNS = 4_093  # kept of a row of logits
GREEDY_TOKENS = 16


@dataclass(frozen=True, slots=True)
class GoldenInputs:
    """What every run is given.

    Attributes:
        pictures: two encoded pictures of different grids.
        greedy: tokens that the original chose after the first.
        spread: as many tokens from all over the vocabulary, unlike those.
        labels: names to score.
    """

    pictures: tuple[bytes, bytes]
    greedy: tuple[int, ...]
    spread: tuple[int, ...]
    labels: tuple[str, ...]


class GoldenRun:
    """One session's way through the golden inputs; call the stages in the order of `OBSERVED`, each once."""

    def __init__(self, recognizer: Recognizer, inputs: GoldenInputs, *, nudge: float = 0.0) -> None:
        """`nudge` is added to and taken from pixels in turn: how far the outcome moves is what rounding is worth."""
        self._steps = Stepper(recognizer)
        self._inputs = inputs
        self._nudge = nudge
        self._patches: dict[str, Patches] = {}
        self._embeds: dict[str, ImageEmbeds] = {}
        self._prompts: dict[str, Prompt] = {}
        self._logits = np.empty(0, np.float32)
        self._refused: FgrEdgeError | None = None

    def preprocessing(self) -> Arrays:
        found: Arrays = {}
        for name, picture in zip(PICTURES, self._inputs.pictures, strict=True):
            patches = self._patches[name] = _nudged(self._steps.patches(picture), self._nudge)
            found |= {f"{name}.grid": np.array(patches.grid), f"{name}.pixels": sampled(patches.pixels)}
        return found

    def vision_tables(self) -> Arrays:
        return {
            f"{name}.{table}": sampled(values)
            for name, patches in self._patches.items()
            for table, values in self._steps.vision_tables(patches).items()
        }

    def vision(self) -> Arrays:
        found: Arrays = {}
        for name, patches in self._patches.items():
            embeds = self._embeds[name] = self._steps.embeds(patches)
            found[f"{name}.image_embeds"] = sampled(embeds.tokens)
            for layer, features in enumerate(embeds.deepstack):
                found[f"{name}.deepstack_{layer}"] = sampled(features)
        return found

    def prompt(self) -> Arrays:
        found: Arrays = {}
        for name, embeds in self._embeds.items():
            prompt = self._prompts[name] = self._steps.prompt("direct", len(embeds.tokens))
            found[f"{name}.direct_ids"] = prompt.ids
            found[f"{name}.reason_ids"] = self._steps.prompt("reason", len(embeds.tokens)).ids
        return found

    def rotary(self) -> Arrays:
        """Reads the first picture into the cache: the rows are made at the start of a sequence."""
        prompt, embeds = self._prompts["first"], self._embeds["first"]
        longest = max(len(prompt.ids) for prompt in self._prompts.values())
        self._steps.reserve(2 * longest + self._room)
        try:
            self._logits = self._steps.prefill(prompt, embeds, self._room)
        except FgrEdgeError as error:
            self._refused = error  # of the graph, when the rows are there: the next stage's to say
        cos, sin = self._steps.rotary_rows(len(prompt.ids) + self._room)
        found = {"first.cos": sampled(cos), "first.sin": sampled(sin)}
        for name in PICTURES:
            found[f"{name}.positions"] = self._steps.positions(self._prompts[name], self._embeds[name])
        return found

    def prefill(self) -> Arrays:
        if self._refused is not None:
            raise self._refused
        return of_logits("first", self._logits[None])

    def decode(self) -> Arrays:
        """Two texts one after the other in the same slots, then the first again and in one call."""
        steps, inputs, length = self._steps, self._inputs, len(self._prompts["first"].ids)
        found: Arrays = {}
        for name, tokens, decoded in (
            ("greedy", inputs.greedy, steps.one_by_one),
            ("spread", inputs.spread, steps.one_by_one),
            ("repeated", inputs.greedy, steps.one_by_one),
            ("at_once", inputs.greedy, steps.at_once),
        ):
            found |= of_logits(name, decoded(tokens))
            steps.rewind(length)
        return found

    def labels(self) -> Arrays:
        steps, prompt = self._steps, self._prompts["first"]
        log_probs = steps.label_log_probs(self._logits)
        after = steps.one_by_one(self._inputs.greedy[:1])
        steps.rewind(len(prompt.ids))
        return {"labels.log_probs": log_probs[None], **of_logits("after", after)}

    def generation(self) -> Arrays:
        """Greedy tokens, and by how many standard deviations of the logits each led the next likeliest."""
        steps, prompt, logits = self._steps, self._prompts["first"], self._logits
        tokens: list[int] = []
        leads: list[float] = []
        for _ in range(GREEDY_TOKENS):
            second, first = np.partition(logits, -2)[-2:]
            tokens.append(int(logits.argmax()))
            leads.append(float(first - second) / float(logits.std() or 1.0))
            logits = steps.one_by_one(tokens[-1:])[0]
        steps.rewind(len(prompt.ids))
        return {"tokens": np.array(tokens), "leads": np.array(leads)}

    def next_picture(self) -> Arrays:
        """The second picture in the first one's cache, then the first again."""
        steps, first, second = self._steps, self._prompts["first"], self._prompts["second"]
        logits = steps.prefill(second, self._embeds["second"], self._room)
        cos, sin = steps.rotary_rows(len(second.ids) + self._room)
        greedy = steps.one_by_one(self._inputs.greedy)
        again = steps.prefill(first, self._embeds["first"], self._room)
        return {
            "second.cos": sampled(cos),
            "second.sin": sampled(sin),
            **of_logits("second", logits[None]),
            **of_logits("second.greedy", greedy),
            **of_logits("again", again[None]),
        }

    @property
    def _room(self) -> int:
        return max(GREEDY_TOKENS, len(self._inputs.greedy)) + 1


OBSERVED: dict[str, Callable[[GoldenRun], Arrays]] = {
    "preprocessing": GoldenRun.preprocessing,
    "vision tables": GoldenRun.vision_tables,
    "vision": GoldenRun.vision,
    "prompt": GoldenRun.prompt,
    "rotary": GoldenRun.rotary,
    "prefill": GoldenRun.prefill,
    "decode": GoldenRun.decode,
    "labels": GoldenRun.labels,
    "generation": GoldenRun.generation,
    "next picture": GoldenRun.next_picture,
}
"""The stages that need the engine or the host's part of the model, in order."""


def sampled(values: Array) -> Array:
    """All values of a small array; of a large one as many as `MOST_VALUES`, evenly spread and flat."""
    if values.size <= MOST_VALUES:
        return values.copy()
    kept: Array = values.reshape(-1)[np.linspace(0, values.size - 1, MOST_VALUES).astype(np.int64)]
    return kept


def of_logits(name: str, logits: npt.NDArray[np.float32]) -> Arrays:
    """Logits [R, V] as log-probabilities of evenly spread columns, [R, C]."""
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # of infinite logits: NaN is found when compared
        log_probs = wide - np.logaddexp.reduce(wide, axis=1, keepdims=True)
    columns = logits.shape[1]
    if columns > MOST_COLUMNS:
        log_probs = log_probs[:, np.linspace(0, columns - 1, MOST_COLUMNS).astype(np.int64)]
    return {f"{name}.log_probs": log_probs.astype(np.float32)}


def _nudged(patches: Patches, nudge: float) -> Patches:
    if not nudge:
        return patches
    signs = np.resize(np.array([nudge, -nudge], np.float32), patches.pixels.shape[1] + 1)
    # A row longer than the patches', so that the signs do not stand in columns.
    pattern = np.resize(signs, patches.pixels.shape)
    return Patches(patches.pixels + pattern, patches.grid)
