"""The schema of `fgr-edge bench -o json`. Plain JSON types only; units stand in the names; what is not known is None.

No path of the machine is in it: bundle and pictures by name, the command as it would be typed beside them.
"""

from __future__ import annotations

from typing import Any, TypedDict

from fgr_edge.bench.energy import Energy
from fgr_edge.bench.noise import Noise
from fgr_edge.bench.spread import Spread

SCHEMA_VERSION = 1


class Subject(TypedDict):
    """What was measured. weight_bytes: of all graphs; labels: how many, 0 where the model answered freely."""

    name: str
    family: str
    target: str
    dialect: str
    precision: dict[str, str]
    total_bytes: int
    weight_bytes: int
    labels: int
    max_positions: int


class Settings(TypedDict):
    """How.

    Attributes:
        threads: of one operator, as given; None left it to the runtime.
        products: whose kernels multiply weights of 4 or 8 bits, see `runtime.model.Model`; None where there are none.
        think_budget: None let thoughts end by themselves.
    """

    prompt_tokens: list[int]
    new_tokens: list[int]
    rounds: int
    warmups: int
    modes: list[str]
    cascade_below: float
    think_budget: int | None
    threads: int | None
    device: str
    products: str | None
    pictures: list[str]
    pictures_drawn: bool


class Prefill(TypedDict):
    """So many text tokens read at once into an empty cache (llama-bench's pp)."""

    prompt_tokens: int
    prefill_ms: Spread
    tokens_per_s: Spread


class Decode(TypedDict):
    """So many tokens generated greedily after the first picture's prompt in reason mode (llama-bench's tg).

    Attributes:
        context_start_tokens: in the cache before the first of them.
        tpot_ms: of every token; the rates are of whole repetitions.
        bytes_per_token: read by one step at the mean context, see `traffic`.
        full_head_share: of tokens that a screened head's coarse copy could not tell; None without a screen.
        roofline_tokens_per_s: the bandwidth over those bytes.
        roofline_share: of it reached, each repetition against the bandwidth of its own round.
    """

    new_tokens: int
    context_start_tokens: int
    tpot_ms: Spread
    tokens_per_s: Spread
    bytes_per_token: int
    full_head_share: float | None
    roofline_tokens_per_s: float | None
    roofline_share: Spread | None


class Answers(TypedDict):
    """Pictures to answers in one mode, through `Recognizer`.

    Attributes:
        answer_ms: from the path of the picture to the answer.
        stages: by name, in the units of their names; empty for the cascade.
        reasoned_share: of pictures that went on to reason; None but for the cascade.
        abstained_share: of answers.
        tokens_per_call: of thoughts, where the runtime guesses several and checks them in one call of the decoder.
    """

    answer_ms: Spread
    stages: dict[str, Spread]
    reasoned_share: float | None
    abstained_share: float
    tokens_per_call: float | None


class Starts(TypedDict):
    """Fresh processes, from their start to the first direct answer; the command line is not loaded.

    Attributes:
        disk_read_bytes: largest, what the block devices delivered.
    """

    first_answer_ms: Spread
    import_ms: Spread
    open_ms: Spread
    answer_ms: Spread
    disk_read_bytes: int


class ColdStart(TypedDict):
    """cached: files in the page cache; uncached: the bundle's files put out of it first; None with the reason."""

    cached: Starts | None
    uncached: Starts | None
    not_measured: str | None


class Memory(TypedDict):
    """Of fresh processes that answer one picture, so that the benchmark's own memory does not count.

    Attributes:
        peak_bytes: by mode, the kernel's high-water mark (VmHWM), mapped files included.
        anonymous_bytes: of it, what is the process's own at the end.
        cache_bytes: of the KV cache that the answer took.
        over_weights: peak over weights and cache.
    """

    peak_bytes: dict[str, int]
    anonymous_bytes: dict[str, int]
    cache_bytes: dict[str, int]
    over_weights: dict[str, float]
    not_measured: str | None


class Bandwidth(TypedDict):
    """Of memory reads, measured in every round between the others."""

    read_gbps: Spread | None
    threads: int | None
    not_measured: str | None


class Level(TypedDict):
    """So many recognizers at once, each in a thread of this process, answering directly as fast as they can."""

    recognizers: int
    seconds: float
    answers_per_s: float
    answer_ms: Spread
    p99_ms_of_each: list[float]


class Document(TypedDict):
    """One run. samples: the numbers behind the spreads, in the order measured."""

    benchmark: str
    schema_version: int
    command: str
    bundle: Subject
    settings: Settings
    noise: Noise
    prefill: list[Prefill]
    decode: list[Decode]
    answers: dict[str, Answers]
    cold_start: ColdStart
    memory: Memory
    bandwidth: Bandwidth
    energy: Energy
    concurrency: list[Level]
    notes: list[str]
    samples: dict[str, list[float]]
    machine: dict[str, Any]
    seconds: float
