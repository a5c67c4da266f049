"""Errors of stages: zero for the same, found where something was changed, bounded where export promises something."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fgr_edge.calibrate.golden_bounds import Bounds
from fgr_edge.calibrate.stage_errors import (
    Key,
    common_length,
    divergence,
    log_prob_error,
    measures_of,
    of_picture,
    of_prompt,
)
from fgr_edge.errors import BundleError
from fgr_edge.runtime.image import Patches
from fgr_edge.runtime.stages import Stages
from fgr_edge.runtime.vision import ImageEmbeds

FP32 = Bounds(dict.fromkeys(("vision", "decoder", "head"), "fp32"), "float32", {})
RNG = np.random.default_rng(0)


def stages(tokens: tuple[int, ...] = (3, 1, 2)) -> Stages:
    rows = RNG.normal(size=(len(tokens), 10)).astype(np.float32)
    rows[np.arange(len(tokens)), list(tokens)] = 6
    pixels = RNG.normal(size=(16, 12)).astype(np.float32)
    embeds = ImageEmbeds.of_arrays(RNG.normal(size=(4, 8)).astype(np.float32), (), (2, 2))
    scores = np.log(RNG.dirichlet(np.ones(5)))
    return Stages(Patches(pixels, (1, 4, 4)), embeds, rows[0], np.array(tokens), rows, scores)


def test_a_bundle_is_no_distance_from_itself() -> None:
    one = stages()
    errors = of_picture(one, one) | of_prompt("direct", one, one, one)
    for (_, _, name), value in errors.items():
        agrees = name in ("cosine", "top_1_agreement", "agreeing_share", "identical", "forced_agreement")
        expected = 3.0 if name == "agreeing_tokens" else float(agrees)
        assert value == pytest.approx(expected, abs=1e-6), name
    assert all(measure["within"] is not False for measure in measures_of([errors], FP32))


def test_the_first_stage_that_differs_is_over_its_bound_and_the_one_before_is_not() -> None:
    one = stages()
    other = replace(one, embeds=ImageEmbeds.of_arrays(one.embeds.tokens + np.float32(0.05), (), one.embeds.grid))
    measures = measures_of([of_picture(one, one), of_picture(one, other)], FP32)
    assert [measure["within"] for measure in measures if measure["bound"] is not None] == [True, False]
    (error,) = (measure for measure in measures if measure["name"] == "relative_error")
    assert error["worst"] == pytest.approx(2 * error["mean"]) and error["pictures"] == 2


def test_the_lowest_agreement_is_the_worst() -> None:
    rows: list[dict[Key, float]] = [{("tokens", None, "agreeing_share"): share} for share in (1.0, 0.25, 0.75)]
    (measure,) = measures_of(rows, FP32)
    assert measure["worst"] == 0.25 and measure["mean"] == pytest.approx(2 / 3)


def test_texts_are_compared_up_to_the_first_difference() -> None:
    one = stages((3, 1, 2))
    own = replace(one, tokens=np.array([3, 1, 4, 7]))
    found = of_prompt("reason", one, one, own)
    assert found["tokens", "reason", "agreeing_tokens"] == 2 and found["tokens", "reason", "identical"] == 0
    assert common_length(np.array([1, 2]), np.array([1, 2, 3])) == 2


def test_a_divergence_is_that_of_the_probabilities() -> None:
    one, other = np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.5, 0.25]])
    shifted = (np.log(other) + 7).astype(np.float32)
    expected = 0.5 * np.log(2) - 0.25 * np.log(2)
    assert divergence(shifted, np.log(one).astype(np.float32))[0] == pytest.approx(expected, rel=1e-5)


def test_a_number_added_to_all_logits_is_no_error() -> None:
    logits = RNG.normal(size=50).astype(np.float32)
    assert log_prob_error(logits + np.float32(3), logits) < 1e-6


def test_bundles_that_cut_pictures_otherwise_are_refused() -> None:
    one = stages()
    other = replace(one, embeds=ImageEmbeds.of_arrays(one.embeds.tokens, (), (1, 4)))
    with pytest.raises(BundleError, match="--image-size"):
        of_picture(one, other)
