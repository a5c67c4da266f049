"""Which bundles get a screened head, and what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.errors import ConfigError
from fgr_edge.export import screen as screen_module
from fgr_edge.export.assembly import BundleOptions, write_bundle
from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.export.model import open_model
from fgr_edge.export.pipeline import ExportConfig, export_checkpoint
from fgr_edge.export.targets import TARGETS
from fgr_edge.export.tensor_places import tensor_places
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.inspection import summary
from fgr_edge.runtime.recognizer import Recognizer

onnx = pytest.importorskip("onnx")
pytest.importorskip("transformers")

from tests.tiny import feed, greedy, prefill  # noqa: E402

if TYPE_CHECKING:
    from tests.tiny import TinyModels

FILES = {"head.onnx", "head.onnx.data", "screen.onnx", "screen.onnx.data", "screen.npz"}


def test_a_screened_bundle_holds_the_head_once_and_its_coarse_copy(tiny_models: TinyModels) -> None:
    plain, screened = (Bundle.open(tiny_models.bundle("qwen2.5-wide", screened=s), verify="full") for s in (None, True))
    assert not FILES & set(plain.manifest["files"]) and "screen" not in plain.manifest
    assert set(screened.manifest["files"]) == FILES | set(plain.manifest["files"])
    assert screened.manifest["screen"] == {"scheme": "int8", "block_size": 64}  # of 144 columns
    sizes = {name: entry["size"] for name, entry in screened.manifest["files"].items()}
    head = 320 * 144 * 4
    assert sizes["head.onnx.data"] == head
    assert plain.manifest["files"]["decoder.onnx.data"]["size"] - sizes["decoder.onnx.data"] == pytest.approx(
        head, abs=64
    )
    assert sizes["screen.onnx.data"] == 320 * (3 * 64 + 3 * 4)  # two whole blocks and a partial one, a scale each
    for name in ("head", "screen"):
        onnx.checker.check_model(str(screened.file(f"{name}.onnx")))
    assert "int8 copy of the head" in summary(screened.path)
    assert "copy of the head" not in summary(plain.path)


def test_every_byte_of_head_and_screen_is_digested_for_verify(tiny_models: TinyModels) -> None:
    bundle = tiny_models.bundle("qwen2.5-wide", screened=True)
    places = tensor_places(bundle)
    for name in FILES:
        covered = sum(place.length for place in places if place.file == name and (place.offset == 0 or ".data" in name))
        assert covered == (bundle / name).stat().st_size, name


def test_exporting_twice_gives_the_same_files(tiny_models: TinyModels, tmp_path: Path) -> None:
    config = ExportConfig(
        tiny_models.checkpoint("qwen3"), tmp_path / "again", "cpu", "fp32", screened=True, proof=False, quiet=True
    )
    again, first = Bundle.open(export_checkpoint(config)), Bundle.open(tiny_models.bundle("qwen3", screened=True))
    assert again.manifest["files"] == first.manifest["files"]


def test_small_heads_get_no_screen_unasked_and_large_ones_do(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen_module, "PAYS_FROM_BYTES", 320 * 64 * 4)
    for shape, precision, screened, expected in (
        ("qwen2.5", "fp32", None, True),  # 64 columns
        ("qwen2.5", "fp32", False, False),
        ("qwen2.5", "int8", None, False),
        ("qwen3", "fp32", None, False),  # 48 columns
    ):
        config = ExportConfig(
            tiny_models.checkpoint(shape),
            tmp_path / "b",
            "cpu",
            precision,
            screened=screened,
            force=True,
            proof=False,
            quiet=True,
        )
        assert ("screen" in Bundle.open(export_checkpoint(config)).manifest) == expected, (shape, precision, screened)


@pytest.mark.parametrize(("target", "precision", "found"), [("cpu", "int8", "int8"), ("cuda", "fp32", "'cuda'")])
def test_a_head_that_cannot_have_one_is_refused_before_anything_is_written(
    tiny_models: TinyModels, tmp_path: Path, target: str, precision: str, found: str
) -> None:
    config = ExportConfig(
        tiny_models.checkpoint("qwen3"), tmp_path / "b", target, precision, screened=True, proof=False, quiet=True
    )
    with pytest.raises(ConfigError, match=f"needs target cpu and a head in fp32; found .*{found}"):
        export_checkpoint(config)
    assert not list(tmp_path.iterdir())


def test_a_float32_head_on_an_int8_decoder_is_screened(tiny_models: TinyModels, tmp_path: Path) -> None:
    model = open_model(Checkpoint.open(tiny_models.checkpoint("qwen2.5-wide")))
    plan = Plan(SCHEMES["int8"], SCHEMES["int8"], SCHEMES["fp32"])
    bundles = []
    for screened in (True, False):
        options = BundleOptions("here", "", screened=screened, quiet=True)
        bundles.append(write_bundle(model, TARGETS["cpu"], plan, tmp_path / str(screened), options))
    tokens = []
    for bundle in bundles:
        recognizer = Recognizer(bundle, threads=1)
        logits = prefill(recognizer, feed(recognizer, tiny_models.reference("qwen2.5-wide", (8, 8))))
        tokens.append(greedy(recognizer, logits))
    assert tokens[0] == tokens[1]
    assert np.load(bundles[0] / "screen.npz")["errors"].shape == (320,)
