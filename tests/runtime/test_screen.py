"""The screen finds the full head's token or leaves it to the full head: on real graphs, with heads made to fool it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fgr_edge.errors import BundleError
from fgr_edge.runtime.head import LazyLogits
from fgr_edge.runtime.sampling import Sampler, SamplingConfig
from fgr_edge.runtime.screen import LONGEST_PAUSE, Screen
from fgr_edge.runtime.screen_bounds import Penalties, RowNorms, split
from fgr_edge.runtime.sessions.onnxruntime import HostBuffer, OnnxRuntimeSession
from fgr_edge.runtime.sessions.session import Buffer

pytest.importorskip("onnx")

Floats = npt.NDArray[np.float32]
BLOCK = 128


@dataclass
class Heads:
    """One weight as the full head and as its screen, both as export writes them."""

    screen: Screen
    session: OnnxRuntimeSession
    norms: RowNorms
    weight: Floats
    full: Callable[[Floats], Floats]

    def lazy(self, hidden: Floats) -> LazyLogits:
        return LazyLogits(lambda: self.full(hidden), hidden, self.screen)

    def agrees(self, hidden: Floats, **penalty: Any) -> bool:
        """Whether the screen could tell; what it tells is the full head's."""
        seen, factor = penalty.get("seen", []), penalty.get("penalty", 1.0)
        expected = Sampler(SamplingConfig(repetition_penalty=factor), seen).next(self.full(hidden))
        found = self.screen.certain(hidden, np.unique(np.asarray(seen, np.int64)), factor)
        assert found in (None, expected)
        return found is not None


def heads(weight: Floats, folder: Path) -> Heads:
    from fgr_edge.calibrate.plan import Plan
    from fgr_edge.calibrate.schemes import SCHEMES
    from fgr_edge.export.dialects.onnxruntime import OnnxRuntimeDialect
    from fgr_edge.export.graphs.head import build_head, build_screen
    from fgr_edge.export.lazy_tensor import VirtualTensor
    from fgr_edge.export.screen import write_norms
    from fgr_edge.export.weights import Matrix

    weight = np.ascontiguousarray(weight, np.float32)
    tensor = VirtualTensor("head", weight.shape, "float32", lambda start, stop: weight[start:stop].copy())
    head = Matrix("lm_head", (tensor,), weight.shape[1], "head", "head")
    exact, coarse = (OnnxRuntimeDialect(Plan.uniform(SCHEMES[name])) for name in ("fp32", "int8"))
    build_head(folder, head, exact, lambda _: None)
    build_screen(folder, head, coarse, lambda _: None)
    write_norms(head, coarse.plan, folder / "screen.npz", lambda _: None)
    stored = np.load(folder / "screen.npz")
    norms = RowNorms(stored["errors"], stored["rows"])
    session = OnnxRuntimeSession(folder / "screen.onnx", threads=1)
    full = OnnxRuntimeSession(folder / "head.onnx", threads=1)
    screen = Screen(session, weight, norms, BLOCK)
    return Heads(
        screen, session, norms, weight, lambda hidden: full.run({"hidden": hidden[None, None]})["logits"][0, 0]
    )


def gaussian(rows: int, columns: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)


def outlying(values: Floats, factor: float, seed: int = 0) -> Floats:
    """Some columns larger by far, as trained models have them."""
    columns = np.random.default_rng(seed).choice(values.shape[-1], max(1, values.shape[-1] // 50), replace=False)
    changed = values.copy()
    changed[..., columns] *= np.float32(factor)
    return changed


HIDDEN: dict[str, Callable[[Floats], Floats]] = {
    "plain": lambda h: h,
    "outliers": lambda h: outlying(h, 300),
    "one block small": lambda h: h * np.where(np.arange(h.shape[-1]) < 64, 1e-6, 1).astype(np.float32),
    "sparse": lambda h: h * (np.arange(h.shape[-1]) % 29 == 0),
    "tiny": lambda h: h * np.float32(1e-34),
    "large": lambda h: h * np.float32(1e12),
}
WEIGHTS: dict[str, Callable[[Floats], Floats]] = {
    "plain": lambda w: w * np.float32(0.02),
    "outliers": lambda w: outlying(w, 40, seed=1),
    "zero rows": lambda w: w * (np.arange(len(w)) % 3 > 0)[:, None],
    "rows of all sizes": lambda w: w * np.logspace(-8, 1, len(w), dtype=np.float32)[:, None],
    "positive": np.abs,  # sums with zero points are largest here
}


# The bound


@pytest.mark.parametrize("columns", [64, 200, 768])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_no_logit_is_further_from_the_exact_one_than_the_bound(tmp_path: Path, kind: str, columns: int) -> None:
    made = heads(WEIGHTS[kind](gaussian(500, columns)), tmp_path)
    rows, weight = np.arange(500), made.weight.astype(np.float64)
    for name, change in HIDDEN.items():
        for hidden in change(gaussian(10, columns, seed=5)):
            halves = split(hidden, BLOCK)
            bounds = made.screen._bounds(rows, halves, Penalties())
            exact = weight @ hidden.astype(np.float64)
            assert (np.abs(made.screen._coarse(halves.rows) - exact) <= bounds).all(), name
            # With the full head's own rounding between: what is said of candidates is said of its logits.
            assert (np.abs(made.screen._coarse(halves.rows) - made.full(hidden)) <= bounds).all(), name
            _, low, high = made.screen._exact(rows, hidden.astype(np.float64), Penalties())
            assert ((low <= made.full(hidden)) & (made.full(hidden) <= high)).all(), name


def test_two_halves_make_the_rounding_of_inputs_vanish_beside_that_of_weights() -> None:
    for hidden in (*gaussian(20, 768), *outlying(gaussian(20, 768), 300)):
        halves = split(hidden, BLOCK)
        lost = halves.row_factor / halves.error_factor  # relative to |h|
        assert lost < 1e-3 < 0.0068, "0.0068 is the rounding of Gaussian weights in int8"
        np.testing.assert_allclose(halves.rows.sum(axis=0), hidden, rtol=0, atol=1e-6 * np.abs(hidden).max())


def test_norms_are_upper_bounds(tmp_path: Path) -> None:
    from fgr_edge.calibrate.schemes.int8 import quantize

    made = heads(WEIGHTS["rows of all sizes"](gaussian(300, 200)), tmp_path)
    coarse = quantize(made.weight).dequantize().astype(np.float64)
    errors = np.linalg.norm(made.weight.astype(np.float64) - coarse, axis=1)
    rows = np.maximum(np.linalg.norm(made.weight.astype(np.float64), axis=1), np.linalg.norm(coarse, axis=1))
    for found, exact in ((made.norms.errors, errors), (made.norms.rows, rows)):
        assert (found >= exact).all() and (found <= exact * (1 + 1e-6) + 1e-40).all()


# The token


@pytest.mark.parametrize("kind", WEIGHTS)
def test_the_token_is_the_full_heads(tmp_path: Path, kind: str) -> None:
    made = heads(WEIGHTS[kind](gaussian(2000, 256)), tmp_path)
    for name in ("plain", "outliers", "sparse", "large"):
        told = [made.agrees(hidden) for hidden in HIDDEN[name](gaussian(50, 256, seed=5))]
        # Inputs that miss the large columns: what these lose in int8 is counted and does not matter.
        if (kind, name) != ("outliers", "sparse"):
            assert sum(told) > 35, f"{name}: could tell {sum(told)} of 50"


@pytest.mark.parametrize("penalty", [1.05, 3.0, 0.5])
def test_repetition_penalties_are_the_samplers(tmp_path: Path, penalty: float) -> None:
    made = heads(WEIGHTS["plain"](gaussian(2000, 256)), tmp_path)
    random = np.random.default_rng(1)
    hidden = gaussian(60, 256, seed=6)
    (tmp_path / "below").mkdir()
    below = heads(made.weight - hidden[0] * np.float32(0.01), tmp_path / "below")
    around = hidden[0] + gaussian(60, 256, seed=7) * np.float32(0.1)
    assert (below.full(hidden[0]) < 0).all() and (below.full(around[5]) < 0).all()
    for each, rows in ((made, hidden), (below, around)):
        told = 0
        for row in rows:
            seen = np.unique(np.concatenate([random.choice(2000, 300), each.full(row).argsort()[-3:]]))
            told += each.agrees(row, seen=seen, penalty=penalty)
        assert told > 30


def test_the_penalty_changes_the_token(tmp_path: Path) -> None:
    made = heads(WEIGHTS["plain"](gaussian(2000, 256)), tmp_path)
    hidden = gaussian(1, 256, seed=8)[0]
    first = made.screen.certain(hidden)
    assert first is not None and made.screen.certain(hidden, np.array([first]), 2.0) not in (None, first)


# Heads made to fool it


def test_equal_rows_are_left_to_the_full_head(tmp_path: Path) -> None:
    weight = WEIGHTS["plain"](gaussian(2000, 256))
    weight[1500] = weight[7]
    weight[1501] = np.nextafter(weight[8], np.float32(1))  # next to equal
    made = heads(weight, tmp_path)
    for pair in ((7, 1500), (8, 1501)):
        for seed in range(20):
            hidden = 30 * weight[pair[0]] + gaussian(1, 256, seed)[0] * np.float32(0.1)
            assert made.full(hidden).argmax() in pair
            assert not made.agrees(hidden) and made.screen.candidates is None
    assert made.agrees(weight[9] * 30)


def test_two_rows_closer_than_the_coarse_copy_can_tell_are_told_apart(tmp_path: Path) -> None:
    weight = WEIGHTS["plain"](gaussian(2000, 256))
    weight[1500] = weight[7] * np.float32(1.0005)
    made = heads(weight, tmp_path)
    for seed in range(20):
        hidden = 30 * weight[7] + gaussian(1, 256, seed)[0] * np.float32(0.1)
        assert made.screen.certain(hidden) == 1500 and made.screen.candidates == 2


def test_a_row_far_larger_than_all_others_hides_nothing(tmp_path: Path) -> None:
    weight = WEIGHTS["plain"](gaussian(2000, 256))
    weight[77] *= 1e5
    made = heads(weight, tmp_path)
    hidden = gaussian(60, 256, seed=5)
    hidden[::2] -= weight[77] * (hidden[::2] @ weight[77] / np.square(weight[77]).sum() + 0.01)[:, None] / 1
    assert {bool(made.full(row).argmax() == 77) for row in hidden} == {True, False}
    assert sum(made.agrees(row) for row in hidden) > 40


@pytest.mark.parametrize("kind", ["zero head", "zero hidden", "equal head"])
def test_a_flat_distribution_is_left_to_the_full_head(tmp_path: Path, kind: str) -> None:
    weight = WEIGHTS["plain"](gaussian(2000, 256))
    if kind != "zero hidden":
        weight = np.zeros_like(weight) if kind == "zero head" else np.repeat(weight[:1], 2000, axis=0)
    hidden = gaussian(1, 256)[0] * np.float32(kind != "zero hidden")
    made = heads(weight, tmp_path)
    assert made.screen.likeliest(hidden) is None
    assert made.screen.candidates is None
    assert Sampler(SamplingConfig()).next(made.lazy(hidden)) == int(made.full(hidden).argmax()) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_inputs_that_are_no_numbers_are_left_to_the_full_head(tmp_path: Path, bad: float) -> None:
    made = heads(gaussian(300, 128), tmp_path)
    hidden = gaussian(1, 128)[0]
    hidden[5] = bad
    with np.errstate(all="ignore"):
        assert made.screen.likeliest(hidden) is None


def test_a_head_with_a_row_that_is_no_number_is_left_to_the_full_head(tmp_path: Path) -> None:
    weight = gaussian(300, 128)
    weight[200, 3] = np.nan
    with np.errstate(all="ignore"):
        made = heads(weight, tmp_path)
        assert made.screen.likeliest(gaussian(1, 128)[0]) is None


# When it does not help, or must not be believed


def test_after_tokens_it_cannot_tell_it_pauses_longer_and_longer(tmp_path: Path) -> None:
    weight = WEIGHTS["plain"](gaussian(500, 128))
    made = heads(weight, tmp_path)
    asked: list[int] = []
    certain = made.screen.certain

    def recorded(*arguments: Any) -> int | None:
        asked.append(number)
        return certain(*arguments)

    made.screen.certain = recorded  # type: ignore[method-assign, assignment]
    for number in range(100):  # noqa: B007
        assert made.screen.likeliest(np.zeros(128, np.float32)) is None
    assert asked == [0, 2, 6, 14, 30, 62, 94]
    assert np.diff(asked)[-1] == LONGEST_PAUSE + 1
    for number in range(100, 160):  # noqa: B007
        made.screen.likeliest(weight[3])
    assert asked[-30:] == list(range(130, 160)), "one answer ends the pauses"


class Shifted:
    """An engine whose logits are off for some rows, from some call on."""

    def __init__(self, inner: OnnxRuntimeSession, row: int, by: float, after: int) -> None:
        self._inner, self._row, self._by, self._left = inner, row, by, after

    def buffer(self, *arguments: Any, **options: Any) -> Buffer:
        return self._inner.buffer(*arguments, **options)

    def bind(self, inputs: Any, outputs: Any) -> Callable[[], None]:
        run = self._inner.bind(inputs, outputs)

        def shifted() -> None:
            run()
            self._left -= 1
            if self._left < 0:
                outputs["coarse_logits"].array[0, 0, self._row] += self._by

        return shifted


@pytest.mark.parametrize("after", [0, 3])
def test_an_engine_that_rounds_otherwise_is_not_believed(
    tmp_path: Path, after: int, caplog: pytest.LogCaptureFixture
) -> None:
    made = heads(WEIGHTS["plain"](gaussian(500, 128)), tmp_path)
    hidden = made.weight[0] * 20
    session: Any = Shifted(made.session, 0, 0.2, after)
    screen = Screen(session, made.weight, made.norms, BLOCK)  # three calls to probe
    assert ("further from it" in caplog.text) == (after == 0)
    assert screen.likeliest(hidden) is None
    assert "further from it" in caplog.text and screen.candidates is None
    assert screen.likeliest(made.weight[1] * 20) is None
    assert len(caplog.records) == 1


def in_steps(rows: Floats, levels: int, block: int) -> Floats:
    """Rounded as an engine does, by one scale a block."""
    blocks = rows.reshape(len(rows), -1, min(block, rows.shape[1]))
    step = np.abs(blocks).max(axis=2, keepdims=True) / levels
    rounded: Floats = (np.rint(blocks / step) * step).reshape(rows.shape)
    return rounded


class Rounding:
    """An engine in numpy, with its own way to round inputs."""

    def __init__(self, coarse: Floats, rule: Callable[[Floats], Floats]) -> None:
        self._coarse, self._rule = coarse, rule

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike, *, on_host: bool = False) -> Any:
        return HostBuffer(pytest.importorskip("onnxruntime"), np.zeros(shape, dtype))

    def bind(self, inputs: Any, outputs: Any) -> Callable[[], None]:
        def run() -> None:
            outputs["coarse_logits"].array[0] = self._rule(inputs["halves"].array[0]) @ self._coarse.T

        return run


@pytest.mark.parametrize(
    ("rule", "trusted"),
    [
        (lambda rows: in_steps(rows, 127, BLOCK), True),
        (lambda rows: rows, True),  # not rounded at all
        (lambda rows: in_steps(rows, 128, BLOCK), False),
        (lambda rows: in_steps(rows, 127, 10**6), False),  # one scale for the whole row
        (lambda rows: in_steps(rows, 63, BLOCK), False),
        (lambda rows: rows.view(np.uint32).__and__(0xFFFF0000).view(np.float32), False),  # bfloat16
    ],
    ids=["as expected", "not at all", "to 128 levels", "one scale", "to 63 levels", "bfloat16"],
)
def test_only_engines_that_round_inputs_as_expected_are_believed(
    tmp_path: Path, rule: Callable[[Floats], Floats], trusted: bool
) -> None:
    from fgr_edge.calibrate.schemes.int8 import quantize

    made = heads(WEIGHTS["plain"](gaussian(500, 512)), tmp_path)
    session: Any = Rounding(quantize(made.weight).dequantize(), rule)
    screen = Screen(session, made.weight, made.norms, BLOCK)
    assert (screen._adds_up(), screen._trusted) == (trusted, trusted)
    assert (screen.likeliest(made.weight[1]) is not None) == trusted


def test_norms_of_another_head_are_refused(tmp_path: Path) -> None:
    made = heads(gaussian(300, 128), tmp_path)
    short = RowNorms(made.norms.errors[:-1], made.norms.rows)
    with pytest.raises(BundleError, match=r"errors are float32 \[299\], expected float32 \[300\]"):
        Screen(made.session, made.weight, short, BLOCK)
    stored: Any = made.norms.rows.astype(np.float64)
    wide = RowNorms(made.norms.errors, stored)
    with pytest.raises(BundleError, match=r"rows are float64 \[300\]"):
        Screen(made.session, made.weight, wide, BLOCK)
