"""A calibration pass in spans sees what hooks on transformers see, in both families, and tells no spans apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from fgr_edge.calibrate.statistics import Statistics, StatisticsWriter
from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.export import settings
from fgr_edge.export.assembly import IMAGE_TOKEN
from fgr_edge.export.calibration_pass import CalibrationPass
from fgr_edge.export.calibration_texts import TextFeeder
from fgr_edge.export.chat import prompt_spec
from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.export.model import Model, open_model
from fgr_edge.runtime.prompt import PromptBuilder

torch = pytest.importorskip("torch")

from tests.tiny import drawing, reference_of, relative  # noqa: E402

if TYPE_CHECKING:
    from tests.tiny import HuggingFace, TinyModels

SHAPES = ["qwen2.5", "qwen2.5-untied", "qwen3"]
THOUGHTS = ["round and red", "<think>long</think> <answer>Pear</answer>"]
EVERY_ROW = 100_000


def pictures(folder: Path) -> list[LabelledPicture]:
    found = []
    for number, (label, size) in enumerate({"Apple": (120, 80), "Pear": (64, 150)}.items()):
        path = folder / f"{number}.png"
        drawing(*size, seed=number).save(path)
        found.append(LabelledPicture(path, label))
    return found


def prompts(model: Model) -> PromptBuilder:
    template = model.checkpoint.chat_template() or model.family.chat_template
    return PromptBuilder(model.checkpoint.tokenizer_path, prompt_spec(template, IMAGE_TOKEN))


def taken(model: Model, given: list[LabelledPicture], folder: Path, *, span_weights: int = 1) -> Statistics:
    """Statistics of a pass, every row in the sample."""
    for name in ("statistics", "scratch"):
        (folder / name).mkdir(parents=True)
    writer = StatisticsWriter(folder / "statistics", sample_rows=EVERY_ROW)
    run = CalibrationPass(model, folder / "scratch", writer, lambda _: True, span_weights)
    image = settings.image_config(model.checkpoint, model.family, model.vision_dims, None)
    seen = run.see([picture.path for picture in given], image, lambda _: None)
    feeder = TextFeeder(prompts(model), model.embedding)
    run.read([feeder.calls(*row) for row in zip(given, seen, THOUGHTS, strict=True)], lambda _: None)
    assert not list((folder / "scratch").iterdir())
    return writer.close()


@contextmanager
def hooked(model: Any) -> Iterator[dict[str, list[np.ndarray]]]:
    """Inputs [n, K] of every linear layer, one array a call, by the name of the weight below its prefix."""
    inputs: dict[str, list[np.ndarray]] = {}

    def hook(name: str) -> Any:
        def keep(module: Any, given: Any, _: Any) -> None:
            x = given[0].detach().float()
            x = x.reshape(x.shape[0], -1) if isinstance(module, torch.nn.Conv3d) else x.reshape(-1, x.shape[-1])
            inputs.setdefault(name, []).append(x.numpy().copy())

        return keep

    handles = [
        module.register_forward_hook(hook(below_prefix(f"{name}.weight")))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv3d)
    ]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def below_prefix(name: str) -> str:
    for prefix in ("model.language_model.", "model.visual.", "visual.", "model."):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return "lm_head" if name == "lm_head.weight" else name


def expected_inputs(model: Model, reference: HuggingFace, given: list[LabelledPicture]) -> dict[str, np.ndarray]:
    """What transformers' linear layers are given when each text is read whole, without what the pass reads once."""
    builder = prompts(model)
    last = f"layers.{model.decoder_dims.layers - 1}."
    rows: dict[str, list[np.ndarray]] = {}
    for picture, thought in zip(given, THOUGHTS, strict=True):
        whole: list[list[int]] = []
        for mode, answer in (("direct", picture.label), ("reason", thought)):
            spec = builder.spec
            wording = (spec.direct if mode == "direct" else spec.reason).replace("{question}", spec.question)
            inputs = reference.inputs(Image.open(picture.path), wording)
            ids = inputs["input_ids"][0].tolist()
            more = builder.encode_text(answer)
            whole.append(ids + more)
            with hooked(reference.model) as seen:
                reference.logits(inputs, more)
            first = 0
            if len(whole) == 2:
                first = next(i for i, (a, b) in enumerate(zip(*whole, strict=False)) if a != b)
            for name, calls in seen.items():
                (x,) = calls
                if name == "lm_head" or (name.startswith(last) and not name.endswith(QKV)):
                    x = x[len(ids) - 1 :]
                elif name.startswith("layers."):
                    x = x[first:]
                elif first:
                    continue  # the picture was seen once
                rows.setdefault(name, []).append(x)
    return {name: np.concatenate(calls) for name, calls in rows.items()}


QKV = ("q_proj.weight", "k_proj.weight", "v_proj.weight")


@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_equal_those_of_hooks_on_transformers(tiny_models: TinyModels, shape: str, tmp_path: Path) -> None:
    model = open_model(Checkpoint.open(tiny_models.checkpoint(shape)))
    given = pictures(tmp_path)
    statistics = taken(model, given, tmp_path / "pass")
    reference = reference_of(tiny_models.checkpoint(shape), tiny_models.model(shape))
    expected = expected_inputs(model, reference, given)
    names = {below_prefix(name) for name in statistics.files}
    assert names | {name for name in expected if name.endswith(QKV)} == set(expected)
    assert len(expected) > 40
    for name in statistics.files:
        found, x = statistics.inputs(name), expected[below_prefix(name)]
        assert found is not None and found.gram is not None and statistics.rows[name] == len(x), name
        assert relative(found.abs_mean, np.abs(x).mean(axis=0)) < 1e-4, name
        assert relative(found.abs_max, np.abs(x).max(axis=0)) < 1e-4, name
        assert relative(found.gram, x.T @ x / len(x)) < 1e-3, name
        assert found.sample.shape == x.shape
        assert relative(np.sort(found.sample, axis=0), np.sort(x, axis=0)) < 1e-4, name


@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
def test_the_length_of_spans_changes_nothing(tiny_models: TinyModels, shape: str, tmp_path: Path) -> None:
    model = open_model(Checkpoint.open(tiny_models.checkpoint(shape)))
    given = pictures(tmp_path)
    layer_by_layer = taken(model, given, tmp_path / "one")
    at_once = taken(model, given, tmp_path / "all", span_weights=10**9)
    assert layer_by_layer.files.keys() == at_once.files.keys()
    for name in at_once.files:
        found, expected = layer_by_layer.inputs(name), at_once.inputs(name)
        assert found is not None and expected is not None
        assert relative(found.sample, expected.sample) < 1e-5, name
