"""The figures of a parity report as rows of text, for its page and for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from fgr_edge.calibrate.parity_document import Accuracy, Measure, Parity
from fgr_edge.calibrate.parity_verdict import points
from fgr_edge.evaluate.summary import Share

NAMES = {
    "image_embeds": "image embeddings",
    "first_logits": "first logits",
    "label_log_probs": "label log-probabilities",
    "tokens": "tokens",
    "max_abs": "largest difference",
    "relative_error": "relative error",
    "cosine": "cosine",
    "kl_nats": "KL, nats",
    "top_1_agreement": "same first token",
    "mean_abs_nats": "mean difference, nats",
    "max_abs_nats": "largest difference, nats",
    "agreeing_tokens": "tokens until the first difference",
    "agreeing_share": "share of the text until then",
    "identical": "the same text",
    "forced_agreement": "same token, forced",
    "forced_kl_nats": "KL a token, forced, nats",
}
LATENCY = (
    ("preprocess_ms", "preprocessing, ms"),
    ("vision_ms", "vision, ms"),
    ("ttft_ms", "picture to first token, ms"),
    ("tpot_ms", "a further token, ms"),
    ("answer_ms", "picture to answer, direct, ms"),
)


def accuracy_rows(accuracy: Accuracy) -> list[tuple[str, str, str, str]]:
    """Name, original, bundle, change."""
    before, after = accuracy["original"], accuracy["bundle"]
    low, high = accuracy["difference_95"]
    gain, (less, more) = accuracy["log_likelihood_change"], accuracy["log_likelihood_change_95"]
    return [
        (
            "top-1",
            _share(before["top_1"]),
            _share(after["top_1"]),
            f"{points(accuracy['difference'])} points ({points(low)} to {points(high)})",
        ),
        ("right only here", str(accuracy["lost"]), str(accuracy["gained"]), f"p = {accuracy['mcnemar_p']:.2g}"),
        (
            "calibration error (ECE)",
            f"{before['ece']:.4f}",
            f"{after['ece']:.4f}",
            f"{after['ece'] - before['ece']:+.4f}",
        ),
        (
            "log-likelihood of the right class, nats",
            f"{-before['nll']:.4f}",
            f"{-after['nll']:.4f}",
            f"{gain:+.4f} ({less:+.4f} to {more:+.4f})",
        ),
    ]


def stage_rows(measures: Sequence[Measure]) -> list[tuple[str, str, str, str, str, str, str]]:
    """Stage (where it is another than before), prompt, measure, mean, worst, expected, pictures."""
    before = (None, *(one["stage"] for one in measures))
    return [
        (
            NAMES.get(one["stage"], one["stage"]) if one["stage"] != previous else "",
            one["mode"] or "",
            NAMES.get(one["name"], one["name"]),
            f"{one['mean']:.4g}",
            f"{one['worst']:.4g}",
            "" if one["bound"] is None else f"at most {one['bound']:.3g}",
            str(one["pictures"]),
        )
        for one, previous in zip(measures, before, strict=False)
    ]


def cost_rows(parity: Parity) -> list[tuple[str, str, str, str]]:
    """Name, original, bundle, ratio."""
    one, other = parity["original"], parity["bundle"]
    rows = [_size(f"{part}, MB", one["part_bytes"][part], other["part_bytes"][part]) for part in one["part_bytes"]]
    rows.append(_size("on disk, MB", one["total_bytes"], other["total_bytes"]))
    before, after = parity["latency"]["original"], parity["latency"]["bundle"]
    for key, name in LATENCY:
        a, b = (cast("float | None", side[key]) for side in (before, after))  # type: ignore[literal-required]
        if a is not None and b is not None:
            rows.append((name, f"{a:.2f}", f"{b:.2f}", f"{b / a:.2f}x" if a else ""))
    return rows


def fact_rows(parity: Parity) -> list[tuple[str, str]]:
    """Name and value of what the numbers rest on."""
    data, machine = parity["data"], parity["machine"]
    calibration = parity["calibration"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    rows = [
        ("pictures", f"{data['source']}: {data['pictures']}, {data['repeated']} repeated ones left out"),
        ("pictures, SHA-256", data["sha256"]),
        ("labels", f"{data['labels']}, SHA-256 {data['labels_sha256']}"),
        (
            "calibrated on",
            "nothing" if calibration is None else ", ".join(_plain(calibration)),
        ),
        ("checkpoint", parity["bundle"]["checkpoint_digest"] or "unknown"),
        ("graphs and weights, SHA-256", parity["bundle"]["graphs_sha256"]),
        ("machine", f"{machine['cpu'] or 'unknown CPU'}, {machine['cores']} cores, {machine['os']}"),
        ("versions", f"Python {machine['python']}, {versions}"),
    ]
    return rows


def _plain(facts: Mapping[str, Any]) -> Iterator[str]:
    """Facts that a line can hold; lists and tables stay in the document."""
    for key, value in facts.items():
        if isinstance(value, (str, int, float)):
            yield f"{key.replace('_', ' ')} {value}"


def _share(share: Share) -> str:
    return f"{100 * share['share']:.1f} % ({100 * share['low']:.1f} to {100 * share['high']:.1f})"


def _size(name: str, before: int, after: int) -> tuple[str, str, str, str]:
    return name, f"{before / 1e6:.1f}", f"{after / 1e6:.1f}", f"{after / before:.2f}x" if before else ""
