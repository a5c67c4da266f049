"""Ranking of units and the number of them that must be kept: few builds, and the bound holds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fgr_edge.calibrate.sensitivity import class_divergence, keep_until, rank, with_kept
from fgr_edge.data.aviary import NAMES, SPECIES
from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.export.pipeline import ExportConfig, export_checkpoint
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.vision import ImageEmbeds

UNITS = [f"decoder.{layer}" for layer in range(20)]


@contextmanager
def quiet(title: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


@pytest.mark.parametrize("needed", [0, 1, 7, 19, 20])
def test_as_few_units_are_kept_as_hold_the_bound_and_few_are_built(needed: int) -> None:
    built: list[int] = []

    def drop(kept: tuple[str, ...]) -> float:
        assert list(kept) == UNITS[: len(kept)]
        built.append(len(kept))
        return 0.003 if len(kept) >= needed else 0.02

    kept = keep_until(0.003, UNITS, drop)
    assert (len(kept.units), kept.within, kept.drop) == (needed, True, 0.003)
    assert (
        len(built) == len(set(built)) <= 2 + np.ceil(np.log2(len(UNITS)))
        and [count for count, _ in kept.tried] == built
    )


def test_where_no_number_holds_the_bound_all_are_kept_and_it_says_so() -> None:
    kept = keep_until(0.01, UNITS, lambda kept: 0.05)
    assert not kept.within and kept.units == tuple(UNITS) and kept.drop == 0.05


def test_where_the_drop_is_not_monotonic_the_answer_still_holds_the_bound() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        drops = rng.choice([0.0, 0.02], len(UNITS) + 1)
        drops[-1] = 0.0
        kept = keep_until(0.01, UNITS, lambda units, drops=drops: float(drops[len(units)]))  # type: ignore[misc]
        assert kept.within and drops[len(kept.units)] == 0
        assert not kept.units or drops[len(kept.units) - 1] > 0 or len(kept.units) - 1 not in dict(kept.tried)


def test_a_bound_is_held_in_spite_of_rounding() -> None:
    assert keep_until(0.003, UNITS, lambda kept: 0.1 + 0.2 - 0.297).units == ()


def test_a_divergence_of_classes_does_not_count_what_all_of_them_lose() -> None:
    scores = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]))
    assert class_divergence(scores - 2, scores) == pytest.approx(0, abs=1e-12)
    expected = 0.7 * np.log(0.7 / 0.2) + 0.2 * np.log(0.2 / 0.7)
    assert class_divergence(scores[:1, [1, 0, 2]], scores[:1]) == pytest.approx(expected)


def test_units_are_ranked_by_what_their_quantization_moves(
    nano_checkpoint: Path,
    nano_bundle: Callable[..., Path],
    birds: Callable[[int], list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Three "units" made of whole bundles: nothing changed, the decoder in int8, everything in int4.
    fp32, int8 = nano_bundle("fp32"), nano_bundle("int8")
    int4 = export_checkpoint(
        ExportConfig(nano_checkpoint, tmp_path / "all", "cpu", "int4", method="nearest", proof=False, quiet=True)
    )
    mixed = tmp_path / "decoder"
    shutil.copytree(fp32, mixed)
    _take_decoder(mixed, int8)
    bundles = {"nothing": fp32, "decoder": mixed, "all": int4}
    pictures = [LabelledPicture(path, SPECIES[number * 5].name) for number, path in enumerate(birds(8))]
    seen: list[Path] = []
    see = Recognizer.see

    def counted(self: Recognizer, image: Path) -> ImageEmbeds:
        seen.append(image)
        return see(self, image)

    monkeypatch.setattr(Recognizer, "see", counted)
    found = rank(list(bundles), bundles.__getitem__, fp32, pictures, LabelSet.from_names(NAMES), quiet)
    assert [row["unit"] for row in found] == ["all", "decoder", "nothing"]
    assert found[0]["error"] > found[1]["error"] > 1e-9 > abs(found[2]["error"])
    assert len(seen) == len(pictures)  # the original's embeddings served the other two
    kept = with_kept(found, {"all": "int8"})
    assert [row["kept"] for row in kept] == ["int8", None, None]


def _take_decoder(bundle: Path, other: Path) -> None:
    """Put another bundle's decoder into a copy of a bundle."""
    from fgr_edge.runtime.bundle_amendment import BundleAmendment

    with BundleAmendment(bundle) as amendment:
        for name in ("decoder.onnx", "decoder.onnx.data"):
            shutil.copyfile(other / name, amendment.path(name))
    assert Bundle.open(bundle, verify="full").manifest["files"]["decoder.onnx"]["size"] > 0
