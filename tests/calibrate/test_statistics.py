"""Statistics of layer inputs: what they say of X, what they keep on disk, what they become when X is divided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fgr_edge.calibrate.statistics import Statistics, StatisticsWriter
from fgr_edge.errors import EngineError


def documents(count: int = 6, columns: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((20 + 7 * i, columns)).astype(np.float32) for i in range(count)]


def gathered(folder: Path, given: list[np.ndarray], *, gram: bool = False, sample_rows: int = 30) -> Statistics:
    writer = StatisticsWriter(folder, sample_rows=sample_rows)
    for number, x in enumerate(given):
        writer.add(number, len(given), ["gate", "up"], x, gram=gram)
    return writer.close()


def test_they_are_those_of_all_rows_together(tmp_path: Path) -> None:
    given = documents()
    x = np.concatenate(given)
    found = gathered(tmp_path, given, gram=True).inputs("up")
    assert found is not None and found.gram is not None
    np.testing.assert_allclose(found.abs_mean, np.abs(x).mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(found.abs_max, np.abs(x).max(axis=0))
    np.testing.assert_allclose(found.gram, x.T @ x / len(x), rtol=1e-4, atol=1e-6)


def test_the_sample_has_rows_of_every_document_and_each_once(tmp_path: Path) -> None:
    given = documents()
    found = gathered(tmp_path, given).inputs("gate")
    assert found is not None and found.sample.shape == (30, 5)
    places = [[bool((row == x).all(axis=1).any()) for x in given].index(True) for row in found.sample]
    assert np.bincount(places).tolist() == [5] * 6
    assert len(np.unique(found.sample, axis=0)) == 30


def test_a_document_shorter_than_its_share_gives_all_it_has(tmp_path: Path) -> None:
    found = gathered(tmp_path, documents(2), sample_rows=100).inputs("gate")
    assert found is not None and len(found.sample) == 20 + 27


def test_matrices_of_one_input_share_files_and_others_have_their_own(tmp_path: Path) -> None:
    writer = StatisticsWriter(tmp_path)
    writer.add(0, 1, ["gate", "up"], np.ones((4, 3), np.float32))
    writer.flush()
    writer.add(0, 1, ["down"], np.full((4, 2), -2, np.float32))
    statistics = writer.close()
    assert statistics.files["gate"] == statistics.files["up"] != statistics.files["down"]
    down = Statistics.open(tmp_path).inputs("down")
    assert down is not None and down.abs_mean.tolist() == [2, 2] and down.gram is None
    assert statistics.inputs("lm_head") is None and statistics.rows["down"] == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_inputs_that_are_no_numbers_are_refused_with_the_layer(tmp_path: Path, bad: float) -> None:
    given = documents()
    given[3][2, 1] = bad
    with pytest.raises(EngineError, match=r"inputs of gate are NaN or infinite .*checkpoint's weights"):
        gathered(tmp_path, given)


def test_dividing_gives_the_statistics_of_the_divided_inputs(tmp_path: Path) -> None:
    given = documents()
    scale = np.array([0.5, 1, 2, 4, 8], np.float32)
    for name in "ab":
        (tmp_path / name).mkdir()
    found = gathered(tmp_path / "a", given, gram=True).divided({"up": scale})
    expected = gathered(tmp_path / "b", [x / scale for x in given], gram=True).inputs("up")
    divided, untouched = found.inputs("up"), found.inputs("gate")
    assert divided is not None and expected is not None and untouched is not None
    for kind in ("abs_mean", "abs_max", "sample", "gram"):
        np.testing.assert_allclose(getattr(divided, kind), getattr(expected, kind), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(untouched.abs_max, expected.abs_max * scale, rtol=1e-6)
