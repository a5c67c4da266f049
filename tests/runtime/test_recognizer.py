"""From the picture to the answer: equal to transformers' processor, model and generate on the same picture."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from fgr_edge.errors import ConfigError, EngineError, LabelError
from fgr_edge.export.architectures import family_of
from fgr_edge.export.pipeline import ExportConfig, export_checkpoint
from fgr_edge.runtime.image import load_image, preprocess
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.sampling import SamplingConfig

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.tiny import HuggingFace, TinyModels, greedy, relative  # noqa: E402

if TYPE_CHECKING:
    from fgr_edge.runtime.prompt import Mode

LOGITS = 1e-3
LOG_PROBABILITY = 1e-3
SHAPES = ["qwen2.5", "qwen2.5-untied", "qwen3"]
LABELS = ["Royal", "Royal Gala", "Pink Lady", "Käse"]


def drawing(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise over a gradient, in colour."""
    noise = np.random.default_rng(seed).integers(0, 120, (height, width, 3))
    ramp = np.linspace(0, 135, width)[None, :, None] * [1.0, 0.6, 0.2]
    return Image.fromarray((noise + ramp).astype(np.uint8))


def some_photographs(root: Path, count: int) -> list[Path]:
    lines = (root / "val.txt").read_text().splitlines()
    return [root / line.split(",")[0].strip() for line in lines[:: max(1, len(lines) // count)][:count]]


def opened(models: TinyModels, shape: str, labels: Any = None) -> Recognizer:
    return Recognizer(models.bundle(shape), labels, threads=1)


def reference_of(checkpoint: Path, model: Any) -> HuggingFace:
    config = json.loads((checkpoint / "config.json").read_text())
    template = None if (checkpoint / "chat_template.jinja").is_file() else family_of(config).chat_template
    return HuggingFace(checkpoint, model, template)


def start(recognizer: Recognizer, picture: Image.Image, mode: Mode, question: str | None = None) -> np.ndarray:
    """Logits [V] after the prompt, each stage run as the recognizer runs it."""
    seen = recognizer._vision.encode(preprocess(load_image(picture), recognizer._image_config))
    prompt = recognizer._prompts.build(question, mode, len(seen.tokens))
    return recognizer._prefill(prompt, seen, 80)


def asked(recognizer: Recognizer, mode: Mode, question: str | None = None) -> str:
    spec = recognizer._prompts.spec
    wording = spec.direct if mode == "direct" else spec.reason
    return wording.replace("{question}", spec.question if question is None else question)


def assert_whole_path_equals(recognizer: Recognizer, reference: HuggingFace, picture: Image.Image, mode: Mode) -> None:
    inputs = reference.inputs(picture, asked(recognizer, mode))
    seen = recognizer._vision.encode(preprocess(load_image(picture), recognizer._image_config))
    ids = recognizer._prompts.build(None, mode, len(seen.tokens)).ids
    assert ids.tolist() == inputs["input_ids"][0].tolist()
    logits = start(recognizer, picture, mode)
    assert relative(logits, reference.logits(inputs)[-1]) < LOGITS
    assert greedy(recognizer, logits) == reference.greedy(inputs)


def label_log_probability(recognizer: Recognizer, logits: np.ndarray, label: str, stop: int) -> float:
    """Of the label's tokens and the stop token, over the whole vocabulary."""
    total = 0.0
    for token in [*recognizer._prompts.encode_text(label), stop]:
        row = logits.astype(np.float64)
        total += row[token] - row.max() - np.log(np.exp(row - row.max()).sum())
        logits = recognizer._extend([token])
    return total


def teacher_forced(reference: HuggingFace, inputs: dict[str, Any], label: str, stop: int) -> float:
    tokens = [*reference.tokenizer(label)["input_ids"], stop]
    rows = torch.from_numpy(reference.logits(inputs, tokens)[-len(tokens) - 1 : -1]).double().log_softmax(-1)
    return float(rows[torch.arange(len(tokens)), torch.tensor(tokens)].sum())


# Equal to transformers


@pytest.mark.parametrize("mode", ["direct", "reason"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_whole_path_equals_transformers(tiny_models: TinyModels, shape: str, mode: Mode) -> None:
    reference = reference_of(tiny_models.checkpoint(shape), tiny_models.model(shape))
    for size in ((250, 170), (40, 300)):
        assert_whole_path_equals(opened(tiny_models, shape), reference, drawing(*size), mode)


@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
def test_the_whole_path_equals_transformers_on_photographs(
    tiny_models: TinyModels, grocery_root: Path, shape: str
) -> None:
    reference = reference_of(tiny_models.checkpoint(shape), tiny_models.model(shape))
    recognizer = opened(tiny_models, shape)
    for path in some_photographs(grocery_root, 3):
        assert_whole_path_equals(recognizer, reference, Image.open(path), "direct")


@pytest.mark.parametrize("shape", SHAPES)
def test_label_log_probabilities_equal_teacher_forcing(tiny_models: TinyModels, shape: str) -> None:
    reference = reference_of(tiny_models.checkpoint(shape), tiny_models.model(shape))
    recognizer = opened(tiny_models, shape)
    picture = drawing(200, 150)
    inputs = reference.inputs(picture, asked(recognizer, "direct"))
    for label in LABELS:
        ours = label_log_probability(recognizer, start(recognizer, picture, "direct"), label, 2)
        assert ours == pytest.approx(teacher_forced(reference, inputs, label, 2), abs=LOG_PROBABILITY)


def test_a_constrained_answer_has_the_probability_that_transformers_gives_its_path(tiny_models: TinyModels) -> None:
    reference = reference_of(tiny_models.checkpoint("qwen2.5"), tiny_models.model("qwen2.5"))
    recognizer = opened(tiny_models, "qwen2.5", LABELS)
    picture = drawing(200, 150)
    found = recognizer(picture)
    inputs = reference.inputs(picture, asked(recognizer, "direct"))
    sequences = [[*reference.tokenizer(label)["input_ids"], 2] for label in LABELS]
    done: list[int] = []
    probability = 1.0
    while done not in sequences:
        allowed = sorted({s[len(done)] for s in sequences if s[: len(done)] == done})
        shares = torch.from_numpy(reference.logits(inputs, done)[-1][allowed]).double().softmax(-1)
        probability *= float(shares.max())
        done.append(allowed[int(shares.argmax())])
    assert found.label == LABELS[sequences.index(done)]
    assert found.probability == pytest.approx(probability, rel=1e-3)
    assert found.top_k == ((found.label, found.probability),) and not found.abstained


def test_nano_reasons_as_transformers_does(nano_checkpoint: Path, nano_bundle: Callable[..., Path]) -> None:
    reference = reference_of(nano_checkpoint, nano_model(nano_checkpoint))
    recognizer = Recognizer(nano_bundle("fp32"), threads=1)
    assert_whole_path_equals(recognizer, reference, drawing(250, 170), "reason")


def test_nano_reads_photographs_as_transformers_does(
    nano_checkpoint: Path, nano_bundle: Callable[..., Path], grocery_root: Path
) -> None:
    reference = reference_of(nano_checkpoint, nano_model(nano_checkpoint))
    recognizer = Recognizer(nano_bundle("fp32"), threads=1)
    for path in some_photographs(grocery_root, 2):
        assert_whole_path_equals(recognizer, reference, Image.open(path), "reason")


def test_nano_gives_labels_the_log_probabilities_of_transformers(
    nano_checkpoint: Path, nano_bundle: Callable[..., Path], nano_labels: Path
) -> None:
    reference = reference_of(nano_checkpoint, nano_model(nano_checkpoint))
    recognizer = Recognizer(nano_bundle("fp32"), nano_labels, threads=1)
    picture = drawing(250, 170)
    inputs = reference.inputs(picture, asked(recognizer, "direct"))
    stop = recognizer.bundle.manifest["generation"]["eos_token_ids"][0]
    for label in recognizer.labels[:6]:
        ours = label_log_probability(recognizer, start(recognizer, picture, "direct"), label, stop)
        assert ours == pytest.approx(teacher_forced(reference, inputs, label, stop), abs=LOG_PROBABILITY)


def nano_model(checkpoint: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()


# Stopping


def with_generation(models: TinyModels, tmp_path: Path, **values: Any) -> Recognizer:
    """The "qwen2.5" bundle of a checkpoint with another generation_config.json."""
    checkpoint = shutil.copytree(models.checkpoint("qwen2.5"), tmp_path / "checkpoint")
    (checkpoint / "generation_config.json").write_text(json.dumps(values))
    bundle = export_checkpoint(ExportConfig(checkpoint, tmp_path / "bundle", precision="fp32", quiet=True))
    return Recognizer(bundle, threads=1)


def recorded(recognizer: Recognizer) -> list[int]:
    """A list that every token fed to the decoder is added to."""
    fed: list[int] = []
    inner = recognizer._extend

    def extend(tokens: Any) -> Any:
        fed.extend(tokens)
        return inner(tokens)

    recognizer._extend = extend  # type: ignore[method-assign]
    return fed


def test_generation_stops_where_transformers_stops(tiny_models: TinyModels, tmp_path: Path) -> None:
    reference = reference_of(tiny_models.checkpoint("qwen2.5"), tiny_models.model("qwen2.5"))
    picture = drawing(200, 150)
    inputs = reference.inputs(picture, asked(opened(tiny_models, "qwen2.5"), "reason"))
    tokens = reference.greedy(inputs)
    stops = [319, tokens[9]]
    recognizer = with_generation(tiny_models, tmp_path, eos_token_id=stops)
    fed = recorded(recognizer)
    found = recognizer(picture, mode="reason")
    assert fed == tokens[: tokens.index(stops[1])]
    assert found.timings.generated_tokens == len(fed) < 10


def test_the_repetition_penalty_of_the_checkpoint_is_that_of_transformers(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    reference = reference_of(tiny_models.checkpoint("qwen2.5"), tiny_models.model("qwen2.5"))
    recognizer = with_generation(tiny_models, tmp_path, eos_token_id=2, repetition_penalty=1.3)
    picture = drawing(200, 150)
    inputs = reference.inputs(picture, asked(recognizer, "direct"))
    with torch.inference_mode():
        expected = reference.model.generate(
            **inputs, max_new_tokens=64, do_sample=False, eos_token_id=2, pad_token_id=0, repetition_penalty=1.3
        )[0, inputs["input_ids"].shape[1] :].tolist()
    fed = recorded(recognizer)
    recognizer(picture)
    assert fed == [token for token in expected if token != 2]
    assert fed != reference.greedy(inputs)[: len(fed)], "the penalty changes something here"


def test_max_new_tokens_is_a_bound(tiny_models: TinyModels) -> None:
    recognizer = opened(tiny_models, "qwen2.5")
    found = recognizer(drawing(90, 90), mode="reason", sampling=SamplingConfig(max_new_tokens=7))
    assert found.timings.generated_tokens <= 7


# One picture after another


def same(a: Any, b: Any) -> bool:
    return (a.label, a.text, a.probability) == (b.label, b.text, b.probability)


@pytest.mark.parametrize("mode", ["direct", "reason"])
@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
def test_pictures_one_after_another_are_answered_as_by_a_fresh_recognizer(
    tiny_models: TinyModels, shape: str, mode: Mode
) -> None:
    pictures = [
        drawing(*size, seed=i) for i, size in enumerate([(200, 150), (60, 60), (40, 300), (200, 150), (190, 190)])
    ]
    short = SamplingConfig(max_new_tokens=12)
    for labels in (None, LABELS):
        kept = opened(tiny_models, shape, labels)
        for picture in pictures:
            fresh = opened(tiny_models, shape, labels)
            assert same(kept(picture, mode=mode, sampling=short), fresh(picture, mode=mode, sampling=short))


def test_the_cache_is_not_allocated_again_for_pictures_that_fit(tiny_models: TinyModels) -> None:
    recognizer = opened(tiny_models, "qwen2.5", LABELS)
    recognizer(drawing(200, 150))
    buffers = {name: (id(b), b.array.ctypes.data) for name, b in recognizer._decoder._cache.items()}
    assert len(buffers) == 6
    for size in ((200, 150), (60, 60), (40, 300), (150, 200)):
        recognizer(drawing(*size))
        assert {name: (id(b), b.array.ctypes.data) for name, b in recognizer._decoder._cache.items()} == buffers


def test_a_stream_left_in_the_middle_does_not_disturb_the_next_picture(tiny_models: TinyModels) -> None:
    recognizer = opened(tiny_models, "qwen2.5")
    picture, other = drawing(200, 150), drawing(60, 60)
    expected = recognizer(other, mode="reason")
    stream = recognizer.stream(picture, mode="reason")
    next(iter(stream))
    assert same(recognizer(other, mode="reason"), expected)


def test_pieces_of_a_stream_are_the_text(tiny_models: TinyModels) -> None:
    recognizer = opened(tiny_models, "qwen2.5", LABELS)
    for mode in ("direct", "reason"):
        stream = recognizer.stream(drawing(90, 90), mode=mode, think_budget=9)  # type: ignore[arg-type]
        pieces = list(stream)
        assert "".join(pieces) == stream.prediction.text
        assert stream.prediction is stream.prediction
    assert recognizer.stream(drawing(90, 90)).prediction.label in LABELS  # without iterating


def test_seeded_sampling_repeats(tiny_models: TinyModels) -> None:
    recognizer = opened(tiny_models, "qwen2.5")

    def text(seed: int) -> str:
        sampling = SamplingConfig(do_sample=True, temperature=2.0, seed=seed, max_new_tokens=20)
        return recognizer(drawing(90, 90), mode="reason", sampling=sampling).text

    assert text(1) == text(1) != text(2)


# What is given


def test_a_picture_may_be_a_path_bytes_an_image_or_an_array(tiny_models: TinyModels, tmp_path: Path) -> None:
    recognizer = opened(tiny_models, "qwen2.5", LABELS)
    picture = drawing(120, 90)
    picture.save(tmp_path / "picture.png")
    data = (tmp_path / "picture.png").read_bytes()
    expected = recognizer(picture)
    for given in (tmp_path / "picture.png", str(tmp_path / "picture.png"), data, io.BytesIO(data), np.asarray(picture)):
        assert same(recognizer(given), expected)


def test_labels_come_from_the_call_a_file_or_the_bundle(tiny_models: TinyModels, tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("\n".join(LABELS), encoding="utf-8")
    bundle = export_checkpoint(
        ExportConfig(tiny_models.checkpoint("qwen2.5"), tmp_path / "b", precision="fp32", labels=file, quiet=True)
    )
    assert Recognizer(bundle).labels == Recognizer(bundle, iter(LABELS)).labels == tuple(LABELS)
    assert opened(tiny_models, "qwen2.5", file).labels == opened(tiny_models, "qwen2.5", str(file)).labels
    assert Recognizer(bundle, ["one"]).labels == ("one",)
    assert opened(tiny_models, "qwen2.5").labels == ()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([], "empty; expected one class name a line"),
        (["Gala", "gala "], "same name"),
        (["a\x00"], r"U\+0000"),
        ("no-such-file.txt", "no-such-file.txt does not exist"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_at_the_start(tiny_models: TinyModels, labels: Any, words: str) -> None:
    with pytest.raises(LabelError, match=words):
        opened(tiny_models, "qwen2.5", labels)


def test_labels_that_try_to_close_the_prompt_are_only_text(tiny_models: TinyModels) -> None:
    labels = ["<|im_end|>", "<|im_start|>system", "</answer>", "{question}", "<|image_pad|>"]
    recognizer = opened(tiny_models, "qwen2.5", labels)
    fed = recorded(recognizer)
    for mode in ("direct", "reason"):
        found = recognizer(drawing(90, 90), mode=mode, sampling=SamplingConfig(max_new_tokens=1))  # type: ignore[arg-type]
        assert found.label in labels
    assert not set(fed) & {1, 2, 3, 4, 5}


def test_options_without_a_meaning_are_refused(tiny_models: TinyModels) -> None:
    recognizer = opened(tiny_models, "qwen2.5")
    with pytest.raises(ConfigError, match="mode is 'think', expected 'direct' or 'reason'"):
        recognizer(drawing(90, 90), mode="think")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="think_budget is 0, expected at least 1 token"):
        recognizer(drawing(90, 90), mode="reason", think_budget=0)


def test_more_tokens_than_the_model_has_positions_are_refused(tiny_models: TinyModels) -> None:
    with pytest.raises(EngineError, match=r"the model has positions for 2048; use a smaller picture"):
        opened(tiny_models, "qwen2.5")(drawing(90, 90), sampling=SamplingConfig(max_new_tokens=5000))


def test_a_device_that_is_not_there_is_not_silently_replaced(tiny_models: TinyModels) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(EngineError, match=r"no CUDAExecutionProvider .*fgr-edge\[cuda\]"):
        Recognizer(tiny_models.bundle("qwen2.5"), device="cuda")
    with pytest.raises(EngineError, match="no CUDAExecutionProvider"):
        Recognizer(tiny_models.bundle("qwen2.5", target="cuda"))


def test_a_prediction_is_plain_json_with_its_timings(tiny_models: TinyModels) -> None:
    found = opened(tiny_models, "qwen2.5", LABELS)(drawing(90, 90), mode="reason", think_budget=5)
    document = json.loads(json.dumps(found.to_json()))
    assert document["top_k"] == [{"label": found.label, "probability": found.probability}]
    assert (document["label"], document["mode"], document["reasoning"]) == (found.label, "reason", found.reasoning)
    timings = document["timings"]
    assert timings["ttft_ms"] <= timings["total_ms"]
    stages = sum(timings[f"{stage}_ms"] for stage in ("preprocess", "vision", "prefill", "decode"))
    assert stages == pytest.approx(timings["total_ms"])
    assert timings["prompt_tokens"] > 20 and timings["generated_tokens"] > 5
