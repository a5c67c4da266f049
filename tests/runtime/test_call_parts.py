"""Calls that are longer than an engine takes are cut where they must be, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fgr_edge.runtime.call_parts import call_parts


@pytest.mark.parametrize(
    ("count", "rows", "most_tokens", "most_rows", "expected"),
    [
        (5, [4], None, None, [(0, 5, [4])]),
        (5, [4], 5, 1, [(0, 5, [4])]),
        (5, [4], 2, None, [(0, 2, []), (2, 4, []), (4, 5, [0])]),
        (5, [0, 1, 2, 3, 4], None, 2, [(0, 2, [0, 1]), (2, 4, [0, 1]), (4, 5, [0])]),
        (6, [3, 4, 5], None, 2, [(0, 5, [3, 4]), (5, 6, [0])]),
        (6, [1, 2, 5], 4, 1, [(0, 2, [1]), (2, 5, [0]), (5, 6, [0])]),
    ],
)
def test_parts(
    count: int,
    rows: list[int],
    most_tokens: int | None,
    most_rows: int | None,
    expected: list[tuple[int, int, list[int]]],
) -> None:
    parts = call_parts(count, np.array(rows), most_tokens, most_rows)
    assert [(part.start, part.stop, part.rows.tolist()) for part in parts] == expected


def test_parts_cover_all_tokens_and_rows_within_the_limits() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        count = int(draw.integers(1, 40))
        rows = np.flatnonzero(draw.random(count) < 0.5)
        most_tokens, most_rows = int(draw.integers(1, 12)), int(draw.integers(1, 12))
        parts = list(call_parts(count, rows, most_tokens, most_rows))
        assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])] and parts[-1].stop == count
        assert np.concatenate([part.rows + part.start for part in parts]).tolist() == rows.tolist()
        assert all(0 < part.stop - part.start <= most_tokens and len(part.rows) <= most_rows for part in parts)
        assert all((part.rows < part.stop - part.start).all() for part in parts)


def test_labels_scored_in_short_calls_score_alike(
    nano_bundle: Callable[..., Path],
    nano_labels: Path,
    birds: Callable[[int], list[Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fgr_edge.runtime.recognizer import Recognizer
    from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession

    bundle, picture = nano_bundle("fp32", nano_labels), birds(1)[0]
    whole = Recognizer(bundle, threads=1)
    expected, stages = whole.evidence(picture).log_probs, whole.stages(picture, max_new_tokens=12)
    limits = {"inputs_embeds": 10, "logit_rows": 4}
    monkeypatch.setattr(OnnxRuntimeSession, "longest", lambda self, name, axis: limits.get(name))
    cut = Recognizer(bundle, threads=1)
    np.testing.assert_allclose(cut.evidence(picture).log_probs, expected, atol=1e-4)
    along = cut.stages(picture, along=stages.tokens.tolist())
    np.testing.assert_allclose(along.token_logits, stages.token_logits, atol=1e-3)
