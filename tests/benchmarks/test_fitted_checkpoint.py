"""The fitted checkpoint: what it is fitted to is what it says, and it starts from what transformers computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks.fitted_checkpoint import Reader, copy_checkpoint, divergences, fit, one_of_each, save  # noqa: E402
from benchmarks.peers.transformers_eager import TransformersEager  # noqa: E402
from fgr_edge import Recognizer  # noqa: E402
from fgr_edge.data.labelled import LabelledPicture  # noqa: E402
from fgr_edge.export.pipeline import ExportConfig, export_checkpoint  # noqa: E402

NAMES = ["Ember Finch", "Frost Warbler", "Ember Warbler"]


@pytest.fixture
def copied(nano_checkpoint: Path, tmp_path: Path) -> tuple[Path, Any]:
    """nano, with larger pictures, in a folder of its own, and opened by transformers."""
    copy_checkpoint(nano_checkpoint, tmp_path / "copy")
    torch.manual_seed(0)
    return tmp_path / "copy", TransformersEager(tmp_path / "copy", "copy", 1)


def exported(checkpoint: Path, name: str) -> Recognizer:
    """Its bundle, with the names as labels."""
    output = checkpoint.parent / name
    return Recognizer(
        export_checkpoint(ExportConfig(str(checkpoint), output, precision="fp32", proof=False, quiet=True)),
        NAMES,
        threads=1,
    )


def test_a_model_does_not_diverge_from_itself(copied: tuple[Path, Any], birds: Callable[[int], list[Path]]) -> None:
    folder, peer = copied
    model, picture = peer._model.model, birds(1)[0]
    log_probs = exported(folder, "itself").evidence(picture).log_probs
    shares = np.exp(log_probs - np.logaddexp.reduce(log_probs))
    example = Reader(peer, model).example(picture, NAMES, shares)
    assert len(example.hidden) - len(example.sees) > 200  # prompts of about 300 tokens
    with torch.no_grad():
        (found,) = divergences(model.language_model, [example], example.tokens.unique())
    # The names' share of everything that could be said is no divergence from each other.
    assert float(found) == pytest.approx(-np.logaddexp.reduce(log_probs), abs=0.05)


def test_fitting_turns_the_answer_round(copied: tuple[Path, Any], birds: Callable[[int], list[Path]]) -> None:
    folder, peer = copied
    model, pictures = peer._model.model, birds(2)
    wanted = [np.array([0.05, 0.05, 0.9]), np.array([0.05, 0.9, 0.05])]
    reader = Reader(peer, model)
    found = [reader.example(picture, NAMES, shares) for picture, shares in zip(pictures, wanted, strict=True)]
    assert fit(model, found, epochs=60)["nats"] <= 0.1
    save(model, folder)
    recognizer = exported(folder, "fitted")
    for picture, shares in zip(pictures, wanted, strict=True):
        log_probs = recognizer.evidence(picture).log_probs
        assert np.exp(log_probs - np.logaddexp.reduce(log_probs)) == pytest.approx(shares, abs=0.1)


def test_one_photograph_of_each_class_is_taken_in_order() -> None:
    pictures = [LabelledPicture(Path(f"{i}.jpg"), label) for i, label in enumerate("abbac")]
    assert [picture.path.name for picture in one_of_each(pictures)] == ["0.jpg", "1.jpg", "4.jpg"]
