"""The schema of parity.json: what a finished bundle does on photographs, beside what the original does.

Plain JSON types only. "Original" is the same checkpoint in fp32 on the CPU. Shares are 0..1, differences are after less
before, probabilities are among the classes and not calibrated.
"""

from __future__ import annotations

from typing import Any, TypedDict

from fgr_edge.evaluate.evaluation import Skipped
from fgr_edge.evaluate.summary import Share
from fgr_edge.runtime.prompt import Mode

SCHEMA_VERSION = 1


class Side(TypedDict):
    """One of the two bundles.

    Attributes:
        graphs_sha256: over names and digests of graphs, weights and embedding: what computes, whatever lies beside it.
        part_bytes: on disk, by vision, decoder, embedding and other.
    """

    name: str
    target: str
    precision: dict[str, str]
    graphs_sha256: str
    checkpoint_digest: str | None
    part_bytes: dict[str, int]
    total_bytes: int


class Measure(TypedDict):
    """How far one stage is from the original, over some pictures.

    Attributes:
        stage: "pixels", "image_embeds", "first_logits", "label_log_probs" or "tokens".
        mode: of the prompt; None where no prompt was read.
        name: what was measured, with its unit.
        mean, worst: over the pictures.
        bound: what `worst` should keep within at this precision; None where only the accuracy decides.
        within: None without a bound.
        pictures: how many.
    """

    stage: str
    mode: Mode | None
    name: str
    mean: float
    worst: float
    bound: float | None
    within: bool | None
    pictures: int


class Answer(TypedDict):
    """The likeliest class, its probability, and that of the right class."""

    label: str
    probability: float
    truth_probability: float


class Answered(TypedDict):
    """One picture; path: below the folder that all pictures share."""

    path: str
    truth: str
    original: Answer
    bundle: Answer


class Flip(TypedDict):
    """A picture whose answer changed; kind: "lost" (right before), "gained" (right after) or "moved" (never right)."""

    sha256: str
    kind: str
    truth: str
    original: Answer
    bundle: Answer


class Bin(TypedDict):
    """See `ReliabilityBin`."""

    confidence: float
    accuracy: float
    count: int


class Fit(TypedDict):
    """One side's answers in one mode; nll: mean, in nats; ece: 15 bins of equal mass."""

    top_1: Share
    ece: float
    nll: float
    reliability: list[Bin]


class Accuracy(TypedDict):
    """One mode on all pictures.

    Attributes:
        difference, difference_95: of top-1, with its paired 95 % interval (Newcombe).
        lost, gained: pictures that were right only before, only after.
        mcnemar_p: of as many changes in one direction by chance.
        log_likelihood_change, log_likelihood_change_95: of the right class, nats a picture, with a paired bootstrap.
        flips: every changed answer, lost ones first.
        answers: by SHA-256 of the picture's file: what a device should answer.
    """

    mode: Mode
    pictures: int
    original: Fit
    bundle: Fit
    difference: float
    difference_95: tuple[float, float]
    lost: int
    gained: int
    mcnemar_p: float
    log_likelihood_change: float
    log_likelihood_change_95: tuple[float, float]
    flips: list[Flip]
    answers: dict[str, Answered]


class Latency(TypedDict):
    """Medians in milliseconds, both sides in turns; tpot_ms: of thoughts; answer_ms: picture to answer, direct."""

    preprocess_ms: float
    vision_ms: float
    ttft_ms: float
    tpot_ms: float | None
    answer_ms: float
    runs: int


class Data(TypedDict):
    """What was measured on.

    Attributes:
        source: of the pictures; "aviary" where they were drawn because there were no photographs.
        users: whether they are the user's own.
        pictures, classes: with at least one picture; labels: that were chosen among.
        repeated: pictures left out because another has the same bytes.
        sha256: over the pictures' digests and classes, whatever their order.
    """

    source: str
    users: bool
    pictures: int
    repeated: int
    classes: int
    labels: int
    labels_sha256: str
    sha256: str
    skipped: list[Skipped]


class Sensitivity(TypedDict):
    """How far the label log-probabilities move when only this unit is quantized; see `calibrate.sensitivity`."""

    unit: str
    error: float
    kept: str | None


class Verdict(TypedDict):
    """Whether the bundle may be used; see `calibrate.parity_verdict`."""

    passed: bool
    max_accuracy_drop: float | None
    headline: str
    found: list[str]
    advice: list[str]


class Parity(TypedDict):
    """parity.json."""

    schema_version: int
    original: Side
    bundle: Side
    data: Data
    stages: list[Measure]
    accuracy: list[Accuracy]
    latency: dict[str, Latency]
    sensitivity: list[Sensitivity]
    calibration: dict[str, Any] | None
    machine: dict[str, Any]
    verdict: Verdict
