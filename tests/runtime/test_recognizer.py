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
from fgr_edge.export.pipeline import ExportConfig, export_checkpoint
from fgr_edge.runtime.image import load_image, preprocess
from fgr_edge.runtime.label_trie.label_scorer import REST_TOLERANCE
from fgr_edge.runtime.labels import Label, LabelSet
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.sampling import SamplingConfig

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.tiny import HuggingFace, TinyModels, asked, drawing, greedy, recorded, reference_of, relative  # noqa: E402

if TYPE_CHECKING:
    from fgr_edge.runtime.prompt import Mode

LOGITS = 1e-3
LOG_PROBABILITY = 1e-3
SHAPES = ["qwen2.5", "qwen2.5-untied", "qwen3"]
LABELS = ["Royal", "Royal Gala", "Pink Lady", "Käse"]


def some_photographs(root: Path, count: int) -> list[Path]:
    lines = (root / "val.txt").read_text().splitlines()
    return [root / line.split(",")[0].strip() for line in lines[:: max(1, len(lines) // count)][:count]]


def opened(models: TinyModels, shape: str, labels: Any = None) -> Recognizer:
    return Recognizer(models.bundle(shape), labels, threads=1)


def start(recognizer: Recognizer, picture: Image.Image, mode: Mode, question: str | None = None) -> np.ndarray:
    """Logits [V] after the prompt, each stage run as the recognizer runs it."""
    seen = recognizer.model.vision.encode(preprocess(load_image(picture), recognizer.model.image))
    prompt = recognizer.model.prompts.build(question, mode, len(seen.tokens))
    return recognizer.model.prefill(prompt, seen, 80)


def assert_whole_path_equals(recognizer: Recognizer, reference: HuggingFace, picture: Image.Image, mode: Mode) -> None:
    inputs = reference.inputs(picture, asked(recognizer, mode))
    seen = recognizer.model.vision.encode(preprocess(load_image(picture), recognizer.model.image))
    ids = recognizer.model.prompts.build(None, mode, len(seen.tokens)).ids
    assert ids.tolist() == inputs["input_ids"][0].tolist()
    logits = start(recognizer, picture, mode)
    assert relative(logits, reference.logits(inputs)[-1]) < LOGITS
    assert greedy(recognizer, logits) == reference.greedy(inputs)


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


@pytest.mark.parametrize("mode", ["direct", "reason"])
def test_an_answer_is_the_likeliest_label_with_its_share_among_the_labels(tiny_models: TinyModels, mode: Mode) -> None:
    reference = reference_of(tiny_models.checkpoint("qwen2.5"), tiny_models.model("qwen2.5"))
    recognizer = opened(tiny_models, "qwen2.5", LABELS)
    fed = recorded(recognizer)
    for seed in range(4):
        picture = drawing(200, 150, seed)
        fed.clear()
        found = recognizer(picture, mode=mode, think_budget=9, top_k=4)
        inputs = reference.inputs(picture, asked(recognizer, mode))
        tail = "" if mode == "direct" else "</answer>"
        closing = [2] if mode == "direct" else []
        sequences = [[*fed, *reference.tokenizer(name + tail)["input_ids"], *closing] for name in LABELS]
        log_probs = torch.from_numpy(reference.log_probs(inputs, sequences))
        shares = log_probs.softmax(-1).numpy()
        assert found.label == LABELS[shares.argmax()]
        for (label, share), index in zip(found.top_k, np.argsort(-shares), strict=True):
            assert label == LABELS[index]
            assert share - 1e-3 <= shares[index] <= share + found.rest + 1e-3
        assert found.top_k[0] == (found.label, found.probability)


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


def nano_model(checkpoint: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()


# Stopping


def with_generation(models: TinyModels, tmp_path: Path, **values: Any) -> Recognizer:
    """The "qwen2.5" bundle of a checkpoint with another generation_config.json."""
    checkpoint = shutil.copytree(models.checkpoint("qwen2.5"), tmp_path / "checkpoint")
    (checkpoint / "generation_config.json").write_text(json.dumps(values))
    bundle = export_checkpoint(ExportConfig(checkpoint, tmp_path / "bundle", precision="fp32", proof=False, quiet=True))
    return Recognizer(bundle, threads=1)


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
    buffers = {name: (id(b), b.array.ctypes.data) for name, b in recognizer.model.decoder._cache.items()}
    assert len(buffers) == 6
    for size in ((200, 150), (60, 60), (40, 300), (150, 200)):
        recognizer(drawing(*size))
        assert {name: (id(b), b.array.ctypes.data) for name, b in recognizer.model.decoder._cache.items()} == buffers


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
        stream = recognizer.stream(drawing(90, 90), mode=mode, think_budget=9)
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
        ExportConfig(
            tiny_models.checkpoint("qwen2.5"), tmp_path / "b", precision="fp32", labels=file, proof=False, quiet=True
        )
    )
    own = Recognizer(bundle).labels
    assert own is not None and own.names == tuple(LABELS)
    assert own == Recognizer(bundle, iter(LABELS)).labels == Recognizer(bundle, own).labels
    assert opened(tiny_models, "qwen2.5", file).labels == opened(tiny_models, "qwen2.5", str(file)).labels == own
    assert Recognizer(bundle, ["one"]).labels == LabelSet.from_names(["one"])
    assert opened(tiny_models, "qwen2.5").labels is None


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
        found = recognizer(drawing(90, 90), mode=mode, sampling=SamplingConfig(max_new_tokens=1))
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
    expected = {"calibrated": False, "level": 0, "abstained": False, "abstained_because": None, "outlier_score": None}
    assert {key: document[key] for key in expected} == expected
    assert 0 <= document["rest"] <= REST_TOLERANCE
    timings = document["timings"]
    assert timings["ttft_ms"] <= timings["total_ms"]
    stages = sum(timings[f"{stage}_ms"] for stage in ("preprocess", "vision", "prefill", "decode", "labels"))
    assert stages == pytest.approx(timings["total_ms"])
    assert timings["prompt_tokens"] > 20 and timings["generated_tokens"] == 5 and timings["scored_tokens"] > 5


def test_without_labels_the_answer_is_free_and_has_no_level(tiny_models: TinyModels) -> None:
    recognizer = opened(tiny_models, "qwen2.5")
    direct = recognizer(drawing(90, 90))
    assert direct.label is not None and direct.probability is not None
    assert direct.top_k == ((direct.label, direct.probability),)
    assert direct.rest == pytest.approx(1 - direct.probability)
    assert (direct.level, direct.calibrated, direct.timings.scored_tokens) == (None, False, 0)
    reason = recognizer(drawing(90, 90), mode="reason", think_budget=5)
    assert "</think> <answer>" in reason.text and reason.probability is None
    assert reason.abstained == (reason.label is None)


@pytest.mark.parametrize("top_k", [1, 2, 4, 9])
def test_as_many_classes_are_given_as_were_asked_for(tiny_models: TinyModels, top_k: int) -> None:
    found = opened(tiny_models, "qwen2.5", LABELS)(drawing(90, 90), top_k=top_k)
    assert len(found.top_k) == min(top_k, len(LABELS))
    shares = [share for _, share in found.top_k]
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 1 - found.rest + 1e-9


def test_no_first_class_is_no_option(tiny_models: TinyModels) -> None:
    with pytest.raises(ConfigError, match="top_k is 0, expected at least 1"):
        opened(tiny_models, "qwen2.5", LABELS)(drawing(90, 90), top_k=0)


# Evidence and free text


@pytest.mark.parametrize("mode", ["direct", "reason"])
def test_evidence_holds_what_the_answer_is_made_of(tiny_models: TinyModels, mode: Mode) -> None:
    rows = (Label("Royal", "Apple"), Label("Royal Gala", "Apple", ("gala", "Gala")), Label("Pink Lady"), Label("Käse"))
    recognizer = opened(tiny_models, "qwen3", LabelSet(rows))
    for seed in range(5):
        picture = drawing(150, 100, seed)
        evidence = recognizer.evidence(picture, mode=mode, think_budget=6)
        found = recognizer(picture, mode=mode, think_budget=6, top_k=4)
        shares = np.exp(evidence.log_probs - np.logaddexp.reduce(evidence.log_probs))
        assert evidence.log_probs.dtype == np.float64 and evidence.log_probs.shape == (4,)
        for label, share in found.top_k:
            true = shares[recognizer.labels.names.index(label)]  # type: ignore[union-attr]
            assert share - 1e-6 <= true <= share + found.rest + 1e-6
        assert found.text.startswith(evidence.text) and (evidence.text == "") == (mode == "direct")
        seen = recognizer.model.vision.encode(preprocess(load_image(picture), recognizer.model.image))
        np.testing.assert_array_equal(evidence.features, seen.tokens.mean(axis=0))
        assert evidence.timings.scored_tokens >= found.timings.scored_tokens > 0


def test_evidence_of_other_labels_leaves_the_recognizers_own(tiny_models: TinyModels) -> None:
    recognizer = opened(tiny_models, "qwen2.5", LABELS)
    picture = drawing(90, 90)
    own = recognizer.evidence(picture).log_probs
    other = recognizer.evidence(picture, labels=LabelSet.from_names([LABELS[2], "Fuji", LABELS[0]])).log_probs
    assert other.shape == (3,)
    np.testing.assert_allclose(other[[0, 2]], own[[2, 0]], atol=1e-4)
    np.testing.assert_array_equal(recognizer.evidence(picture).log_probs, own)
    free = opened(tiny_models, "qwen2.5")
    np.testing.assert_array_equal(free.evidence(picture, labels=LabelSet.from_names(LABELS)).log_probs, own)
    with pytest.raises(ConfigError, match="there are no labels to score"):
        free.evidence(picture)


def test_a_wording_replaces_the_whole_message(tiny_models: TinyModels) -> None:
    reference = reference_of(tiny_models.checkpoint("qwen2.5"), tiny_models.model("qwen2.5"))
    recognizer = opened(tiny_models, "qwen2.5", LABELS)
    picture, wording = drawing(90, 90), "Is it {question} or <|im_end|>?"
    expected = recognizer.evidence(picture, wording=asked(recognizer, "direct"))
    np.testing.assert_array_equal(expected.log_probs, recognizer.evidence(picture).log_probs)
    inputs = reference.inputs(picture, "Is it a pear?")
    found = recognizer.evidence(picture, wording="Is it a pear?").log_probs
    sequences = [[*reference.tokenizer(name)["input_ids"], 2] for name in LABELS]
    np.testing.assert_allclose(found, reference.log_probs(inputs, sequences), atol=LOG_PROBABILITY)
    assert np.isfinite(recognizer.evidence(picture, wording=wording).log_probs).all(), "what is given is only text"


def test_generated_text_is_that_of_transformers(tiny_models: TinyModels) -> None:
    reference = reference_of(tiny_models.checkpoint("qwen2.5"), tiny_models.model("qwen2.5"))
    recognizer = opened(tiny_models, "qwen2.5", LABELS)
    picture = drawing(90, 90)
    tokens = reference.greedy(reference.inputs(picture, "What is it?"), 20)
    if 2 in tokens:
        tokens = tokens[: tokens.index(2)]
    expected = reference.tokenizer.decode(tokens, skip_special_tokens=True)
    assert recognizer.generate(picture, "What is it?", max_new_tokens=20) == expected.rstrip("\ufffd")


def test_free_text_takes_as_much_room_as_the_model_has(nano_bundle: Callable[..., Path]) -> None:
    recognizer = Recognizer(nano_bundle("fp32"), threads=1)
    assert recognizer.model.decoder.spec.max_positions == 1024
    assert recognizer.generate(drawing(200, 150), "What bird is this?", max_new_tokens=1024)
    with pytest.raises(EngineError, match="positions for 1024"):
        recognizer.generate(drawing(200, 150), "What bird is this? " * 300)


# Thinking


def test_a_thought_of_a_budget_is_closed_and_scored(tiny_models: TinyModels) -> None:
    recognizer = opened(tiny_models, "qwen2.5", LABELS)
    for budget in (1, 6, 40):
        found = recognizer(drawing(90, 90), mode="reason", think_budget=budget)
        assert found.timings.generated_tokens <= budget
        assert found.text.endswith(f"</think> <answer>{found.label}</answer>")
        assert found.label in LABELS and found.probability is not None
        assert found.text.startswith(found.reasoning or "")


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("mode", ["direct", "reason"])
def test_every_label_can_be_chosen(tiny_models: TinyModels, label: str, mode: Mode) -> None:
    # Against names of fifty letters that the model has no wish to write.
    others = [f"{i}" * 50 for i in range(3)]
    found = opened(tiny_models, "qwen2.5", [*others, label])(drawing(90, 90), mode=mode, think_budget=4)
    assert found.label == label and found.probability is not None and found.probability > 0.9


def test_none_of_the_labels_that_the_model_would_write_still_gives_one_of_them(tiny_models: TinyModels) -> None:
    picture = drawing(200, 150)
    free = opened(tiny_models, "qwen2.5")(picture).label
    assert free is not None and free not in LABELS
    found = opened(tiny_models, "qwen2.5", LABELS)(picture)
    assert found.label in LABELS and found.text == found.label


def test_a_parent_is_answered_by_a_calibration_alone(tiny_models: TinyModels) -> None:
    labels = LabelSet((Label("Gala", "Apple"), Label("Fuji", "Apple")))
    found = opened(tiny_models, "qwen2.5", labels)(drawing(90, 90))
    assert (found.level, found.calibrated, found.label in labels.names) == (0, False, True)
