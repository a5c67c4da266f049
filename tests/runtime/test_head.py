"""Greedy text of a bundle with a screened head is that of the bundle without, and of transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fgr_edge.errors import BundleError
from fgr_edge.runtime.head import EVEN_ROWS
from fgr_edge.runtime.manifest import sealed
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.sampling import Sampler, SamplingConfig

pytest.importorskip("transformers")

from tests.tiny import SHAPES, Feed, TinyModels, drawing, feed, prefill, reference

if TYPE_CHECKING:
    from fgr_edge.runtime.screen import Screen

GRIDS = [(8, 8), (4, 30)]


def pair(models: TinyModels, shape: str, labels: list[str] | None = None) -> tuple[Recognizer, Recognizer]:
    """The same model with a screened head and without."""
    return (
        Recognizer(models.bundle(shape, screened=True), labels, threads=1),
        Recognizer(models.bundle(shape), labels, threads=1),
    )


def screen_of(recognizer: Recognizer) -> Screen:
    head = recognizer.model.decoder._head
    assert head is not None and head.screen is not None
    return head.screen


def generated(recognizer: Recognizer, given: Feed, config: SamplingConfig, ids: np.ndarray, count: int) -> list[int]:
    """Tokens as the answerer generates them, stop tokens or not."""
    sampler = Sampler(config, ids)
    tokens = [sampler.next(prefill(recognizer, given))]
    while len(tokens) < count:
        tokens.append(sampler.next(recognizer.model.advance(tokens[-1:])))
    return tokens


@pytest.mark.parametrize("shape", SHAPES)
def test_64_greedy_tokens_equal_transformers(tiny_models: TinyModels, shape: str) -> None:
    screened, _ = pair(tiny_models, shape)
    told = []
    certain = screen_of(screened).certain
    screen_of(screened).certain = lambda *a: told.append(certain(*a)) or told[-1]  # type: ignore[method-assign, func-returns-value]
    for grid in GRIDS:
        expected = tiny_models.reference(shape, grid)
        given = feed(screened, expected)
        assert generated(screened, given, SamplingConfig(), expected.ids, 64) == expected.greedy, grid
    assert len(told) > 100 and sum(token is not None for token in told) > 0.9 * len(told), "the screen tells them"


@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3-untied"])
@pytest.mark.parametrize("penalty", [1.05, 1.5, 0.7])
def test_tokens_with_a_repetition_penalty_are_the_same(tiny_models: TinyModels, shape: str, penalty: float) -> None:
    given = reference(tiny_models.model(shape), (8, 8), repetition_penalty=penalty)
    config = SamplingConfig(repetition_penalty=penalty)
    found, expected = (generated(one, feed(one, given), config, given.ids, 64) for one in pair(tiny_models, shape))
    assert found == expected == given.greedy
    assert penalty < 1 or len(set(found)) > 10


def test_draws_are_the_same(tiny_models: TinyModels) -> None:
    given = tiny_models.reference("qwen3", (8, 8))
    config = SamplingConfig(do_sample=True, seed=3)
    found, expected = (generated(one, feed(one, given), config, given.ids, 40) for one in pair(tiny_models, "qwen3"))
    assert found == expected


def test_an_engine_that_is_not_to_be_screened_gives_full_logits(tiny_models: TinyModels) -> None:
    from fgr_edge.runtime.bundle import Bundle
    from fgr_edge.runtime.decoder import Decoder
    from fgr_edge.runtime.head import open_head
    from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession

    screened, _ = pair(tiny_models, "qwen2.5")
    bundle = Bundle.open(tiny_models.bundle("qwen2.5", screened=True))
    opened: list[str] = []

    def session(name: str) -> OnnxRuntimeSession:
        opened.append(name)
        return OnnxRuntimeSession(bundle.file(name), threads=1)

    head = open_head(bundle, session, screened=False)
    assert opened == ["head.onnx"]
    given = feed(screened, tiny_models.reference("qwen2.5", (8, 8)))
    expected = [prefill(screened, given).copy(), screened.model.extend([17]).copy()]
    screened.model.decoder = Decoder(session("decoder.onnx"), screened.model.decoder.spec, head)
    np.testing.assert_array_equal(prefill(screened, given), expected[0])
    lazy = screened.model.advance([17])
    assert lazy.likeliest() is None
    np.testing.assert_array_equal(lazy.full(), expected[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_the_same_bits(tiny_models: TinyModels, shape: str) -> None:
    rows: list[list[np.ndarray]] = []
    for recognizer in pair(tiny_models, shape):
        given = feed(recognizer, tiny_models.reference(shape, (10, 6)))
        rows.append([prefill(recognizer, given).copy(), recognizer.model.extend([17]).copy()])
        rows[-1].append(recognizer.model.extend([40, 99]).copy())
        lazy = recognizer.model.advance([12])
        rows[-1] += [lazy.full().copy(), lazy.full().copy()]
        several = recognizer.model.decoder.forward(recognizer.model.embedding.gather(np.arange(5)), np.arange(5))
        rows[-1].append(several.copy())
    for found, expected in zip(*rows, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", ["direct", "reason"])
def test_answers_and_label_scores_are_the_same(tiny_models: TinyModels, mode: Any) -> None:
    labels = ["wren", "green finch", "greenshank", "owl"]
    found, expected = (
        one(drawing(90, 120), mode=mode, think_budget=30, top_k=4) for one in pair(tiny_models, "qwen2.5", labels)
    )
    assert (found.text, found.label, found.top_k) == (expected.text, expected.label, expected.top_k)
    found, expected = (one(drawing(90, 120), mode=mode) for one in pair(tiny_models, "qwen2.5"))
    assert (found.text, found.probability) == (expected.text, expected.probability)


def test_the_thoughts_of_nano_are_the_same(
    nano_checkpoint: Path, nano_bundle: Callable[..., Path], birds: Callable[[int], list[Path]], tmp_path: Path
) -> None:
    from fgr_edge.export.pipeline import ExportConfig, export_checkpoint

    made = export_checkpoint(
        ExportConfig(nano_checkpoint, tmp_path / "b", "cpu", "fp32", proof=False, screened=True, quiet=True)
    )
    screened, plain = Recognizer(made, threads=1), Recognizer(nano_bundle("fp32"), threads=1)
    candidates = []
    for bird in birds(4):
        assert screened(bird, mode="reason").text == plain(bird, mode="reason").text
        candidates.append(screen_of(screened).candidates)
    assert all(count is not None and count < 50 for count in candidates)


# A bundle that is not as export writes it


def changed(models: TinyModels, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a screened bundle with another manifest."""
    bundle = shutil.copytree(models.bundle("qwen2.5", screened=True), folder / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["manifest_sha256"]
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(sealed(manifest)))
    return bundle


def without(name: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        del manifest["files"][name]

    return change


@pytest.mark.parametrize("name", ["head.onnx", "head.onnx.data", "screen.onnx", "screen.npz"])
def test_a_file_that_the_manifest_lacks_is_named(tiny_models: TinyModels, tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match=f"has no file '{name}'"):
        Recognizer(changed(tiny_models, tmp_path, without(name)))


@pytest.mark.parametrize(
    ("screen", "message"),
    [
        ("int8", r"has \"int8\" under 'screen', expected a object"),
        ({"scheme": "int8"}, r"no key 'screen.block_size'"),
        ({"scheme": "int8", "block_size": 0}, r"has 0 under 'screen.block_size', expected a size"),
    ],
)
def test_a_screen_of_the_wrong_kind_is_an_error(
    tiny_models: TinyModels, tmp_path: Path, screen: object, message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        Recognizer(changed(tiny_models, tmp_path, lambda manifest: manifest.update(screen=screen)))


def test_a_weight_or_norms_of_another_size_are_an_error(tiny_models: TinyModels, tmp_path: Path) -> None:
    def shorter(manifest: dict[str, Any]) -> None:
        manifest["files"]["head.onnx.data"]["size"] -= 4

    bundle = changed(tiny_models, tmp_path, shorter)
    data = (bundle / "head.onnx.data").read_bytes()
    (bundle / "head.onnx.data").write_bytes(data[:-4])
    with pytest.raises(BundleError, match=r"head.onnx.data"):
        Recognizer(bundle)


@pytest.mark.parametrize("count", [1, 13, 49, 100, 239])
def test_logits_in_parts_are_those_of_all_rows_at_once(
    tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    recognizer = Recognizer(tiny_models.bundle("qwen2.5", screened=True), threads=1)
    head, spec = recognizer.model.decoder._head, recognizer.model.decoder.spec
    assert head is not None
    hidden = np.random.default_rng(0).standard_normal((count, spec.hidden), np.float32)
    given = recognizer.model.decoder._session.buffer((1, count, spec.hidden), np.float32)
    given.array[0] = hidden
    logits, run = head.bind(given)
    run()
    monkeypatch.setattr("fgr_edge.runtime.head.PART_BYTES", 4 * spec.vocab * (4 * EVEN_ROWS + 1))
    parts = [part.copy() for part in head.in_parts(hidden)]
    assert head.part_rows == 4 * EVEN_ROWS >= max(map(len, parts)) and len(parts) == -(-count // (4 * EVEN_ROWS))
    np.testing.assert_allclose(np.concatenate(parts), logits.array[0], atol=1e-5)
