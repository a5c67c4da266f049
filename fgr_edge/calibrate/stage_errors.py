"""How far the stages of one bundle are from those of another, picture by picture, and what may be expected.

In: `runtime.stages.Stages` of the original and of the finished bundle, for the same picture and along the same text.
Out: `Measure`s. Relative errors are the largest difference over the largest magnitude of the original; divergences are
KL(original || bundle) in nats.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.parity_document import Measure
from fgr_edge.errors import BundleError
from fgr_edge.runtime.label_scores import log_normalizers
from fgr_edge.runtime.prompt import Mode
from fgr_edge.runtime.stages import Stages

Array: TypeAlias = npt.NDArray[np.floating[Any]]
Key: TypeAlias = tuple[str, Mode | None, str]  # stage, mode, measure

LOWEST_IS_WORST = frozenset(
    ("cosine", "top_1_agreement", "agreeing_tokens", "agreeing_share", "identical", "forced_agreement")
)
PIXELS = 1e-5
# In fp32 both are the same computation, and these are the numbers that export itself must keep (image embeddings 1e-4,
# logits and label scores 1e-3). Half precision is bound by its rounding, 8 bits by what they cost models of this family
# where they do no harm. Below 8 bits errors grow with the weights, and only the accuracy says which matter.
_BOUNDS: Mapping[str, Mapping[str, float]] = {
    "fp32": {"image_embeds": 1e-4, "first_logits": 1e-3, "label_log_probs": 1e-3},
    "half": {"image_embeds": 0.05, "first_logits": 0.05, "label_log_probs": 0.5},
    "int8": {"image_embeds": 0.1, "first_logits": 0.1, "label_log_probs": 1.5},
}
_BOUNDED = {"image_embeds": "relative_error", "first_logits": "relative_error", "label_log_probs": "max_abs_nats"}
_COARSENESS = ("fp32", "half", "int8", "lower")


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
    found["image_embeds", None, "relative_error"] = relative_error(other, one)
    found["image_embeds", None, "cosine"] = cosine(other, one)
    return found


def of_prompt(mode: Mode, original: Stages, along: Stages, own: Stages) -> dict[Key, float]:
    """What depends on it.

    Args:
        along: the bundle along the original's text; own: the bundle's own text.
    """
    found: dict[Key, float] = {
        ("first_logits", mode, "relative_error"): relative_error(along.logits, original.logits),
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
        ("label_log_probs", mode, "mean_abs_nats"): float(change.mean()),
        ("label_log_probs", mode, "max_abs_nats"): float(change.max()),
    }


def measures_of(pictures: Sequence[Mapping[Key, float]], precision: Mapping[str, str]) -> list[Measure]:
    """Add up single pictures.

    Args:
        precision: of the bundle's parts by name; "vision" decides the bound of the embeddings, the coarsest of all
            that of what follows.
    """
    keys = dict.fromkeys(key for picture in pictures for key in picture)
    found: list[Measure] = []
    for stage, mode, name in keys:
        values = [picture[stage, mode, name] for picture in pictures if (stage, mode, name) in picture]
        worst = min(values) if name in LOWEST_IS_WORST else max(values)
        bound = _bound(stage, name, precision)
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


def _bound(stage: str, name: str, precision: Mapping[str, str]) -> float | None:
    if stage == "pixels":
        return PIXELS
    if _BOUNDED.get(stage) != name:
        return None
    parts = ("vision",) if stage == "image_embeds" else ("vision", "decoder", "head")
    return _BOUNDS.get(_coarsest(precision[part] for part in parts if part in precision), {}).get(stage)


def _coarsest(names: Iterable[str]) -> str:
    kinds = {"fp32": "fp32", "fp16": "half", "bf16": "half", "int8": "int8", "int8-channel": "int8"}
    return max((kinds.get(name, "lower") for name in names), key=_COARSENESS.index)


def relative_error(found: Array, original: Array) -> float:
    """Largest difference over largest magnitude."""
    return float(np.abs(found - original).max() / max(float(np.abs(original).max()), np.finfo(np.float32).tiny))


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
