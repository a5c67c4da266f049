"""bfloat16 graphs, which ONNX Runtime's CPU does not run, on ONNX's own reference implementation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fgr_edge.runtime.decoder import Decoder, DecoderSpec
from fgr_edge.runtime.head import Head
from fgr_edge.runtime.image import Patches
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.sessions.session import Buffer, HostArray
from fgr_edge.runtime.specs import read_spec
from fgr_edge.runtime.vision import VisionEncoder, VisionSpec

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from tests.export.dialects.test_standard import bundle  # noqa: E402
from tests.tiny import feed, relative  # noqa: E402

if TYPE_CHECKING:
    from tests.tiny import TinyModels

BOUND = 6e-2  # bfloat16 rounds to 1/256; random weights forgive nothing. float16 is at 3e-3


class ReferenceSession:
    """A `Session` on onnx.reference."""

    def __init__(self, path: Path) -> None:
        from onnx.reference import ReferenceEvaluator

        model = onnx.load(str(path))
        self.input_names = frozenset(value.name for value in model.graph.input)
        self._names = [value.name for value in model.graph.output]
        self._evaluator = ReferenceEvaluator(model)

    def longest(self, name: str, axis: int) -> int | None:
        return None

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(zip(self._names, self._evaluator.run(None, dict(inputs)), strict=True))

    def run_resident(self, inputs: Mapping[str, Any]) -> dict[str, Buffer]:
        return {name: HostArray(value) for name, value in self.run(inputs).items()}

    def buffer(self, shape: tuple[int, ...], dtype: Any, *, on_host: bool = False) -> HostArray:
        return HostArray(np.zeros(shape, dtype))

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Callable[[], None]:
        def run() -> None:
            found = self.run({name: buffer.array for name, buffer in inputs.items()})
            for name, buffer in outputs.items():
                buffer.array[...] = found[name]

        return run


@pytest.mark.parametrize("spelling", ["standard", "basic"])
@pytest.mark.parametrize("family", ["qwen2.5", "qwen3"])
def test_bfloat16_stays_near_transformers(tiny_models: TinyModels, family: str, spelling: str) -> None:
    expected = tiny_models.reference(family, (4, 4))
    path = bundle(tiny_models, family, spelling, "bf16")
    recognizer = Recognizer(bundle(tiny_models, family, spelling), device="cpu", threads=1)
    manifest = recognizer.bundle.manifest
    vision = VisionEncoder(ReferenceSession(path / "vision.onnx"), read_spec(VisionSpec, manifest["vision"], "vision"))
    seen = vision.encode(Patches(expected.pixels, (1, 4, 4)))
    assert relative(seen.tokens, expected.image_embeds) < BOUND
    spec = read_spec(DecoderSpec, {**manifest["decoder"], "cache_dtype": "float16"}, "decoder")
    apart = path / "head.onnx"
    head = Head(ReferenceSession(apart), None, spec.vocab) if apart.is_file() else None
    decoder = Decoder(ReferenceSession(path / "decoder.onnx"), spec, head)
    given = feed(recognizer, expected)
    prompt = decoder.prefill(given.embeds, given.positions, max_new_tokens=8, deepstack=given.deepstack)
    assert relative(prompt, expected.logits[-1]) < BOUND
    # A step on the cache that the prompt left, the last token once more in its place.
    decoder.rewind(decoder.length - 1)
    last = [layer[-1:] for layer in given.deepstack]
    again = decoder.forward(given.embeds[-1:], np.array([0]), last)[0]
    assert relative(again, expected.logits[-1]) < BOUND
