"""What an export keeps on the way: the original, and what writes its thoughts where the original is too large."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fgr_edge.export import workshop
from fgr_edge.export.assembly import BundleOptions
from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.export.model import open_model
from fgr_edge.export.targets import TARGETS
from fgr_edge.export.workshop import Workshop
from fgr_edge.runtime.bundle import Bundle

pytest.importorskip("torch")

if TYPE_CHECKING:
    from tests.tiny import TinyModels


def opened(models: TinyModels, folder: Path) -> Workshop:
    model = open_model(Checkpoint.open(models.checkpoint("qwen2.5")))
    return Workshop(folder, model, TARGETS["cpu"], BundleOptions("tiny", "0" * 64, quiet=True))


def test_a_small_original_writes_its_thoughts_itself(tiny_models: TinyModels, tmp_path: Path) -> None:
    shop = opened(tiny_models, tmp_path)
    assert shop.thinker == shop.original
    assert Bundle.open(shop.thinker).manifest["precision"]["decoder"] == "fp32"


def test_a_large_original_writes_its_thoughts_in_int8_and_never_in_float32(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workshop, "THINKER_BYTES", 1000)
    shop = opened(tiny_models, tmp_path)
    assert Bundle.open(shop.thinker).manifest["precision"]["decoder"] == "int8"
    assert shop.thinker == shop.thinker and [path.name for path in tmp_path.iterdir()] == ["thinker"]
