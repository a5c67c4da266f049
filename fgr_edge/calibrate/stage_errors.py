"""How far the stages of one bundle are from those of another, picture by picture, and what may be expected.

In: `runtime.stages.Stages` of the original and of the finished bundle, for the same picture and along the same text.
Out: `Measure`s. Relative errors and their bounds are those of `golden_bounds`, which `fgr-edge verify` uses
too; divergences are KL(original || bundle) in nats. What is not bounded, only the accuracy can judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.golden_bounds import PIXELS, Bounds, error_of
from fgr_edge.calibrate.parity_document import Measure
from fgr_edge.errors import BundleError
from fgr_edge.runtime.confidence import MODES
from fgr_edge.runtime.label_trie.label_scores import log_normalizers
from fgr_edge.runtime.prompt import Mode
from fgr_edge.runtime.stages import Stages

Array: TypeAlias = npt.NDArray[np.floating[Any]]
Key: TypeAlias = tuple[str, Mode | None, str]  # stage, mode, measure

STAGES = ("pixels", "image_embeds", "first_logits", "label_log_probs", "tokens")
LOWEST_IS_WORST = frozenset(
    ("cosine", "top_1_agreement", "agreeing_tokens", "agreeing_share", "identical", "forced_agreement")
)
_STAGES = {
    "image_embeds": ("vision", "image_embeds"),
    "first_logits": ("prefill", "first.log_probs"),
    "label_log_probs": ("labels", "names.log_probs"),
}
"""Stages with a bounded relative error, as `golden_bounds` names them."""


def of_picture(original: Stages, bundle: Stages) -> dict[Key, float]:
    """What does not depend on the prompt.

    Raises:
        BundleError: the bundles do not cut the picture alike.
    """
    found: dict[Key, float] = {}
    if original.embeds.grid != bundle.embeds.grid:
        raise BundleError(
            f"the original makes {original.embeds.grid} tokens of a picture and the bundle {bundle.embeds.grid}; "
            "expected the same: export both with the same --image-size"
        )
    if original.patches is not None and bundle.patches is not None:
        difference = np.abs(bundle.patches.pixels - original.patches.pixels).max()
        found["pixels", None, "max_abs"] = float(difference)
    one, other = (np.concatenate([side.embeds.tokens, *side.embeds.deepstack]) for side in (original, bundle))
    found["image_embeds", None, "relative_error"] = error_of("features", other, one)
    found["image_embeds", None, "cosine"] = cosine(other, one)
    return found


def of_prompt(mode: Mode, original: Stages, along: Stages, own: Stages) -> dict[Key, float]:
    """What depends on it.

    Args:
        along: the bundle along the original's text; own: the bundle's own text.
    """
    found: dict[Key, float] = {
        ("first_logits", mode, "relative_error"): log_prob_error(along.logits, original.logits),
        ("first_logits", mode, "kl_nats"): float(divergence(along.logits[None], original.logits[None])[0]),
        ("first_logits", mode, "top_1_agreement"): float(along.logits.argmax() == original.logits.argmax()),
    }
    if original.label_log_probs is not None and along.label_log_probs is not None:
        found |= of_labels(mode, original.label_log_probs, along.label_log_probs)
    agreed = along.token_logits.argmax(axis=1) == original.tokens
    common = common_length(original.tokens, own.tokens)
    found["tokens", mode, "agreeing_tokens"] = float(common)
    found["tokens", mode, "agreeing_share"] = common / len(original.tokens)
    found["tokens", mode, "identical"] = float(np.array_equal(original.tokens, own.tokens))
    found["tokens", mode, "forced_agreement"] = float(agreed.mean())
    found["tokens", mode, "forced_kl_nats"] = float(divergence(along.token_logits, original.token_logits).mean())
    return found


def of_labels(mode: Mode, original: Array, bundle: Array) -> dict[Key, float]:
    """Label log-probabilities [C] of one picture."""
    change = np.abs(bundle - original)
    return {
        ("label_log_probs", mode, "relative_error"): log_prob_error(bundle, original),
        ("label_log_probs", mode, "mean_abs_nats"): float(change.mean()),
        ("label_log_probs", mode, "max_abs_nats"): float(change.max()),
    }


def measures_of(pictures: Sequence[Mapping[Key, float]], bounds: Bounds) -> list[Measure]:
    """Add up single pictures, each stage's direct prompt before its reasoned one."""
    keys = dict.fromkeys(key for picture in pictures for key in picture)
    found: list[Measure] = []
    for stage, mode, name in sorted(keys, key=lambda key: (STAGES.index(key[0]), MODES.index(key[1] or "direct"))):
        values = [picture[stage, mode, name] for picture in pictures if (stage, mode, name) in picture]
        worst = min(values) if name in LOWEST_IS_WORST else max(values)
        bound = _bound(stage, name, bounds)
        found.append(
            {
                "stage": stage,
                "mode": mode,
                "name": name,
                "mean": float(np.mean(values)),
                "worst": worst,
                "bound": bound,
                "within": None if bound is None else worst <= bound,
                "pictures": len(values),
            }
        )
    return found


def _bound(stage: str, name: str, bounds: Bounds) -> float | None:
    if stage == "pixels":
        return PIXELS
    return bounds.of(*_STAGES[stage], "original") if name == "relative_error" else None


def log_prob_error(found: Array, original: Array) -> float:
    """Relative error of log-probabilities [C], or of logits [V]: what is added to all of them does not count."""
    return error_of("log_probs", (found - found.mean())[None], (original - original.mean())[None])


def cosine(found: Array, original: Array) -> float:
    """Of the rows [M, H], on average."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(original, axis=1)
    return float(np.mean((found * original).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)))


def divergence(found: npt.NDArray[np.float32], original: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """KL(original || found) [R] in nats of softmax over the rows of logits [R, V]."""
    one = original - log_normalizers(original)[:, None]
    other = found - log_normalizers(found)[:, None]
    divergences: npt.NDArray[np.float64] = (np.exp(one) * (one - other)).sum(axis=1)
    return divergences


def common_length(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> int:
    """How many tokens two texts share from their beginning."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if differs.size else length
