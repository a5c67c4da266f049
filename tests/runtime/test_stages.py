"""Stages of one picture: the same as the answers that the recognizer gives, and comparable along another's text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fgr_edge.runtime.label_trie.label_scores import log_normalizers
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.stages import STAGE_TOKENS, Stages


@pytest.fixture(scope="module")
def recognizer(nano_bundle: Callable[..., Path], nano_labels: Path) -> Recognizer:
    return Recognizer(nano_bundle("fp32", nano_labels))


@pytest.fixture(scope="module")
def bird(birds: Callable[[int], list[Path]]) -> Path:
    return birds(1)[0]


def test_direct_stages_score_the_labels_as_evidence_does(recognizer: Recognizer, bird: Path) -> None:
    found = recognizer.stages(bird).label_log_probs
    assert found is not None
    np.testing.assert_allclose(found, recognizer.evidence(bird).log_probs, atol=1e-5)


def test_reason_stages_score_the_labels_after_the_thought(recognizer: Recognizer, bird: Path) -> None:
    stages = recognizer.stages(bird, mode="reason", max_new_tokens=200)
    assert stages.label_log_probs is not None
    np.testing.assert_allclose(stages.label_log_probs, recognizer.evidence(bird, mode="reason").log_probs, atol=1e-4)


def test_a_thought_cut_short_is_closed_before_the_labels_are_scored(recognizer: Recognizer, bird: Path) -> None:
    stages = recognizer.stages(bird, mode="reason", max_new_tokens=6)
    assert len(stages.tokens) == 6 and stages.label_log_probs is not None
    expected = recognizer.evidence(bird, mode="reason", think_budget=6).log_probs
    np.testing.assert_allclose(stages.label_log_probs, expected, atol=1e-4)


def test_along_its_own_text_a_bundle_gives_its_own_logits(recognizer: Recognizer, bird: Path) -> None:
    own = recognizer.stages(bird, mode="reason")
    along = recognizer.stages(bird, mode="reason", along=own.tokens.tolist())
    assert own.token_logits.shape[0] == len(own.tokens) <= STAGE_TOKENS
    np.testing.assert_array_equal(along.token_logits.argmax(axis=1), own.tokens)
    np.testing.assert_allclose(along.token_logits, own.token_logits, atol=1e-3)


def test_along_another_text_the_logits_are_those_of_that_text(recognizer: Recognizer, bird: Path) -> None:
    name = recognizer.labels.names[7] if recognizer.labels is not None else ""
    ids = [*recognizer.model.prompts.encode_text(name), recognizer.model.eos_ids[0]]
    stages: Stages = recognizer.stages(bird, along=ids)
    steps = stages.token_logits[np.arange(len(ids)), ids] - log_normalizers(stages.token_logits)
    assert float(steps.sum()) == pytest.approx(float(recognizer.evidence(bird).log_probs[7]), abs=1e-3)


def test_embeddings_stand_for_the_picture_that_they_were_made_of(recognizer: Recognizer, bird: Path) -> None:
    seen = recognizer.see(bird)
    np.testing.assert_array_equal(recognizer.evidence(seen).log_probs, recognizer.evidence(bird).log_probs)
    assert recognizer.stages(seen).patches is None
    np.testing.assert_array_equal(recognizer.stages(bird).embeds.tokens, seen.tokens)
