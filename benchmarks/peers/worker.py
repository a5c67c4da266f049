"""A peer in a process of its own: requests come as JSON lines on stdin, answers go as JSON lines to stdout.

One module a peer (`work_*.py`) has a class with the methods of `Worker` and ends in `serve`. It runs in the peer's own
environment, so that nothing here needs more than numpy. Whatever libraries print goes to stderr.

    {"do": "decode", "ids": [...], "new_tokens": 64}   ->  Generated
    {"do": "labels", "ids": [...], "labels": [[...]]}  ->  Scored
    {"do": "picture", "path": "...", "text": "..."}    ->  Seen
    {"do": "logits", "ids": [...], "to": "x.npy"}      ->  {}
    {"do": "picture_logits", "path": "...", "text": "...", "to": "x.npy"}  ->  {}

Anything that goes wrong is answered with {"error": "..."}; the process lives on. The first line, before any request,
is {"ready": true, "open_ms": ..., "versions": {...}}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Generated:
    """Greedy tokens after a prompt, whatever stop tokens come.

    Attributes:
        first_ms: from the prompt's ids, on an empty cache, to the first token.
        ms: from the first token to the last: for each of them the embedding row, the decoder, the logits of one
            position, the choice, and the token's text.
        text: what the tokens say.
    """

    tokens: list[int]
    first_ms: float
    ms: float
    text: str


@dataclass(frozen=True, slots=True)
class Scored:
    """Probabilities of labels after a prompt.

    Attributes:
        log_probs: of each label's tokens.
        prompt_ms: the prompt alone.
        ms: what came on top for all labels.
        best_ms: on top for the likeliest label with a bound on the rest, where the peer can stop there; then also
        best_log_probs: of the labels that it looked at, None for the others;
        best_rest: the bound on the share of those others, in all.
    """

    log_probs: list[float]
    prompt_ms: float
    ms: float
    best_ms: float | None = None
    best_log_probs: list[float | None] | None = None
    best_rest: float | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """ms: from the path of a picture to the first token. prompt_tokens: None where the peer does not say."""

    token: int
    ms: float
    prompt_tokens: int | None


class Worker(Protocol):
    """What the benchmark asks of a peer; `NotImplementedError` says that it cannot do something, and why."""

    def decode(self, ids: Sequence[int], new_tokens: int) -> Generated:
        """Prefill an empty cache, then generate exactly so many tokens."""

    def labels(self, ids: Sequence[int], labels: Sequence[Sequence[int]]) -> Scored:
        """The log-probability of each label in the way that costs this peer least."""

    def picture(self, path: Path, text: str) -> Seen:
        """Open the file, prepare it and the chat around `text`, run the whole model, choose the first token."""

    def logits(self, ids: Sequence[int]) -> Floats:
        """Logits [V] after the last token of a prompt: not timed, the proof that it is the same model."""

    def picture_logits(self, path: Path, text: str) -> Floats:
        """Logits [V] after a picture and the chat around it: not timed."""


def serve(packages: Sequence[str], open_worker: Callable[[], Worker]) -> None:
    """Open the worker and answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print to stdout, C++ ones past sys.stdout

    def say(document: dict[str, Any]) -> None:
        answers.write(json.dumps(document) + "\n")
        answers.flush()

    start = time.perf_counter()
    worker = open_worker()
    open_ms = (time.perf_counter() - start) * 1e3
    say({"ready": True, "open_ms": open_ms, "versions": {name: metadata.version(name) for name in packages}})
    for line in sys.stdin:
        try:
            say(answer(worker, json.loads(line)))
        except Exception as error:  # the peer's libraries raise what they like; the driver decides
            say({"error": f"{type(error).__name__}: {error}"})


def answer(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request.

    Raises:
        ValueError: it asks for something unknown.
    """
    if request["do"] == "decode":
        return asdict(worker.decode(request["ids"], request["new_tokens"]))
    if request["do"] == "labels":
        return asdict(worker.labels(request["ids"], request["labels"]))
    if request["do"] == "picture":
        return asdict(worker.picture(Path(request["path"]), request["text"]))
    if request["do"] == "logits":
        np.save(request["to"], np.asarray(worker.logits(request["ids"]), np.float32))
        return {}
    if request["do"] == "picture_logits":
        logits = worker.picture_logits(Path(request["path"]), request["text"])
        np.save(request["to"], np.asarray(logits, np.float32))
        return {}
    raise ValueError(f"asked to {request['do']!r}; expected decode, labels, picture, logits or picture_logits")


def token_log_probs(logits: Sequence[Floats] | Floats, tokens: Sequence[int]) -> float:
    """Sum of the log-probabilities of `tokens` under the rows [T, V] of logits before them, one pass over each row."""
    total = 0.0
    for row, token in zip(logits, tokens, strict=True):
        most = float(row.max())
        total += float(row[token]) - most - float(np.log(np.exp(row - most).sum(dtype=np.float64)))
    return total


def ms_since(start: float) -> float:
    """Milliseconds since a `perf_counter`."""
    return (time.perf_counter() - start) * 1e3
