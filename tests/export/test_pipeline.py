"""Any form of a checkpoint gives the same bundle, in the memory of a chunk; a wrong one is refused before writing."""

from __future__ import annotations

import copy
import json
import shutil
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fgr_edge.errors import CheckpointError, ConfigError, LabelError, OutputExistsError
from fgr_edge.export import assembly as assembly_module
from fgr_edge.export import lazy_tensor as lazy_tensor_module
from fgr_edge.export import weights as weights_module
from fgr_edge.export.architectures import family_of
from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.export.pipeline import ExportConfig, export_checkpoint
from fgr_edge.export.safetensors_file import StoredTensor
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.labels import Label, LabelSet
from fgr_edge.runtime.recognizer import Recognizer

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.numpy")

from transformers import Qwen2_5_VLForConditionalGeneration  # noqa: E402

from tests.tiny import all_logits, qwen2_5_vl, reference, relative, save  # noqa: E402

if TYPE_CHECKING:
    from tests.tiny import TinyModels

GRID = (10, 6)


def export(checkpoint: Path, output: Path, precision: str = "fp32", **options: Any) -> Path:
    return export_checkpoint(ExportConfig(checkpoint, output, precision=precision, proof=False, quiet=True, **options))


def digests(bundle: Path) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in Bundle.open(bundle, verify="full").manifest["files"].items()}


def manifest(bundle: Path) -> Mapping[str, Any]:
    return Bundle.open(bundle).manifest


@pytest.fixture
def checkpoint(tiny_models: TinyModels, tmp_path: Path) -> Path:
    """A copy of the "qwen2.5" checkpoint, to be changed."""
    return shutil.copytree(tiny_models.checkpoint("qwen2.5"), tmp_path / "checkpoint")


def tensors_of(checkpoint: Path) -> dict[str, np.ndarray]:
    loaded: dict[str, np.ndarray] = safetensors.load_file(checkpoint / "model.safetensors")
    return loaded


def write_tensors(checkpoint: Path, tensors: dict[str, np.ndarray]) -> None:
    safetensors.save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})


def config_of(checkpoint: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    return config


def write_config(checkpoint: Path, config: dict[str, Any]) -> None:
    (checkpoint / "config.json").write_text(json.dumps(config))


# One model in many forms


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_exporting_twice_gives_the_same_files(tiny_models: TinyModels, tmp_path: Path, precision: str) -> None:
    again = export(tiny_models.checkpoint("qwen3"), tmp_path / "again", precision)
    assert digests(again) == digests(tiny_models.bundle("qwen3", precision))


@pytest.mark.parametrize("shape", ["qwen2.5-untied", "qwen3"])
def test_a_sharded_checkpoint_gives_the_same_bundle(tiny_models: TinyModels, tmp_path: Path, shape: str) -> None:
    folder = save(tiny_models.model(shape), tmp_path / "sharded", max_shard_size="200KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    assert digests(export(folder, tmp_path / "bundle")) == digests(tiny_models.bundle(shape))


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """A config as Qwen2.5-VL's on the hub: the language model's part at the top, mrope as `rope_scaling`."""
    text = {key: value for key, value in config["text_config"].items() if key != "model_type"}
    rope = text.pop("rope_parameters")
    rest = {key: value for key, value in config.items() if key != "text_config"}
    vision = {**config["vision_config"], "in_chans": config["vision_config"]["in_channels"]}
    del vision["in_channels"], vision["rope_parameters"]
    return {
        **text,
        **rest,
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "vision_config": vision,
    }


def test_a_flat_config_of_the_hub_means_the_same(tiny_models: TinyModels, checkpoint: Path, tmp_path: Path) -> None:
    nested = config_of(checkpoint)
    family = family_of(nested)
    assert family.decoder_dims(flat(nested)) == family.decoder_dims(nested)
    assert family.vision_dims(flat(nested)) == family.vision_dims(nested)
    write_config(checkpoint, flat(nested))
    assert digests(export(checkpoint, tmp_path / "bundle")) == digests(tiny_models.bundle("qwen2.5"))


@pytest.mark.parametrize(
    ("decoder", "vision"), [("model.", "visual."), ("model.language_model.", "model.visual.")], ids=["hub", "new"]
)
def test_weights_are_found_under_old_and_new_names(
    tiny_models: TinyModels, checkpoint: Path, tmp_path: Path, decoder: str, vision: str
) -> None:
    renamed = {}
    for name, tensor in tensors_of(checkpoint).items():
        _, is_vision, rest = name.rpartition("visual.")
        rest = rest.removeprefix("model.").removeprefix("language_model.")
        renamed[(vision if is_vision else decoder) + rest] = tensor
    write_tensors(checkpoint, renamed)
    found, expected = digests(export(checkpoint, tmp_path / "bundle")), digests(tiny_models.bundle("qwen2.5"))
    for name in expected:
        assert found[name] == expected[name] or name.endswith(".onnx"), "a graph carries the names of its weights"


def test_a_bfloat16_checkpoint_is_computed_in_float32_and_its_table_kept(tmp_path: Path) -> None:
    folder = save(qwen2_5_vl().bfloat16(), tmp_path / "checkpoint")
    bundle = export(folder, tmp_path / "bundle")
    assert manifest(bundle)["embedding"]["dtype"] == "bfloat16"
    assert (bundle / "embedding.bin").stat().st_size == 320 * 64 * 2
    # Read again: casting the model would round its rotary frequencies, which no checkpoint holds.
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    given = reference(model, GRID)
    assert relative(all_logits(Recognizer(bundle, threads=1), given), given.logits) < 1e-3


# The head


def test_a_stored_head_that_repeats_the_embedding_is_dropped(
    tiny_models: TinyModels, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = tensors_of(checkpoint)
    (embedding,) = (tensor for name, tensor in tensors.items() if name.endswith("embed_tokens.weight"))
    write_tensors(checkpoint, {**tensors, "lm_head.weight": embedding.copy()})
    write_config(checkpoint, {**config_of(checkpoint), "tie_word_embeddings": False})
    with caplog.at_level("INFO"):
        bundle = export(checkpoint, tmp_path / "bundle")
    assert "lm_head.weight repeats the embedding and is dropped" in caplog.text
    assert digests(bundle) == digests(tiny_models.bundle("qwen2.5"))


@pytest.mark.parametrize("tied", [False, True])
def test_a_stored_head_that_differs_is_used(
    tiny_models: TinyModels, checkpoint: Path, tmp_path: Path, tied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = copy.deepcopy(tiny_models.model("qwen2.5"))
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.2)
    head = model.lm_head.weight.detach().numpy()
    write_tensors(checkpoint, {**tensors_of(checkpoint), "lm_head.weight": head})
    write_config(checkpoint, {**config_of(checkpoint), "tie_word_embeddings": tied})
    with caplog.at_level("WARNING"):
        bundle = export(checkpoint, tmp_path / "bundle")
    assert ("differs from the embedding although config.json ties them" in caplog.text) == tied
    given = reference(model, GRID)
    assert relative(all_logits(Recognizer(bundle, threads=1), given), given.logits) < 1e-3


def test_a_head_that_is_neither_stored_nor_tied_is_an_error(checkpoint: Path, tmp_path: Path) -> None:
    config = config_of(checkpoint)
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    write_config(checkpoint, config)
    with pytest.raises(CheckpointError, match=r"holds no 'lm_head.weight' .*tie_word_embeddings.*one or the other"):
        export(checkpoint, tmp_path / "bundle")


# Memory


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_weights_are_read_in_chunks_and_the_chunk_size_changes_nothing(
    tiny_models: TinyModels, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest: list[tuple[str, int, int]] = []
    inner = StoredTensor.raw_rows

    def raw_rows(self: StoredTensor, start: int, stop: int) -> Any:
        rows = inner(self, start, stop)
        largest.append((self.name, rows.size, rows[:1].size))
        return rows

    monkeypatch.setattr(StoredTensor, "raw_rows", raw_rows)
    for module in (weights_module, assembly_module):
        monkeypatch.setattr(module, "CHUNK_VALUES", 1000)
    monkeypatch.setattr(lazy_tensor_module, "COMPARE_BYTES", 1000)
    bundle = export(tiny_models.checkpoint("qwen2.5-untied"), tmp_path / "bundle", precision)
    for name, size, row in largest:
        assert size <= max(1000, row), f"{name}: {size} values at once"
    assert len(largest) > 500
    assert digests(bundle) == digests(tiny_models.bundle("qwen2.5-untied", precision))


def deep_checkpoint(folder: Path, layers: int) -> Path:
    """A checkpoint with 3.1 million weights (12.6 MB) a layer."""
    shallow = qwen2_5_vl(heads=32, kv_heads=2)
    config: Any = shallow.config
    config.text_config.num_hidden_layers = layers
    config.text_config.layer_types = ["full_attention"] * layers
    return save(type(shallow)(config), folder)


def peak_bytes_of_export(checkpoint: Path, output: Path, precision: str) -> int:
    tracemalloc.start()
    try:
        export(checkpoint, output, precision)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "CHUNK_VALUES", 128 * 1024)  # 0.5 MB of float32
    shallow, deep = (deep_checkpoint(tmp_path / f"c{layers}", layers) for layers in (1, 5))
    export(shallow, tmp_path / "imports")  # what imports allocate is not the question
    for precision in ("fp32", "int8"):
        few = peak_bytes_of_export(shallow, tmp_path / f"few-{precision}", precision)
        many = peak_bytes_of_export(deep, tmp_path / f"many-{precision}", precision)
        assert many < 8e6, precision
        # Four more layers are 50 MB of weights; the int8 scales of one matrix and the graph's nodes are what is left.
        assert many - few < 1e6, precision


# What travels along


def test_a_silent_checkpoint_takes_the_familys_defaults(
    tiny_models: TinyModels, checkpoint: Path, tmp_path: Path
) -> None:
    (checkpoint / "generation_config.json").unlink()
    (checkpoint / "preprocessor_config.json").unlink()
    found = manifest(export(checkpoint, tmp_path / "bundle"))
    assert found["generation"] == {"eos_token_ids": [2, 0], "repetition_penalty": 1.0}  # <|im_end|>, <|endoftext|>
    assert found["prompt"]["template"].startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
    image = found["image"]
    assert (image["min_pixels"], image["max_pixels"]) == (56 * 56, 28 * 28 * 1280)
    assert image["mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert image["rescale_factor"] == pytest.approx(1 / 255)


def test_what_a_checkpoint_says_is_used(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": [7, 2], "repetition_penalty": 1.05}')
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for p in m.content %}{% if p.type == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p.text }}{% endif %}{% endfor %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    (checkpoint / "chat_template.jinja").write_text(template)
    processor = {"size": {"shortest_edge": 3136, "longest_edge": 7840}, "image_mean": [0.1, 0.2, 0.3]}
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(processor))
    found = manifest(export(checkpoint, tmp_path / "bundle"))
    assert found["generation"] == {"eos_token_ids": [7, 2], "repetition_penalty": 1.05}
    assert found["prompt"]["template"] == (
        "<|im_start|>user\n<|vision_start|>{image}<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (found["image"]["min_pixels"], found["image"]["max_pixels"]) == (3136, 7840)
    assert found["image"]["mean"] == [0.1, 0.2, 0.3]
    assert found["image"]["std"] == pytest.approx([0.26862954, 0.26130258, 0.27577711])


def test_a_tokenizer_without_a_stop_token_is_an_error(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "generation_config.json").unlink()
    text = (checkpoint / "tokenizer.json").read_text()
    (checkpoint / "tokenizer.json").write_text(text.replace("<|im_end|>", "<|a|>").replace("<|endoftext|>", "<|b|>"))
    with pytest.raises(
        CheckpointError, match=r"no stop token; expected eos_token_id in generation_config.json, or <\|"
    ):
        export(checkpoint, tmp_path / "bundle")


def test_image_size_caps_the_pixels(checkpoint: Path, tmp_path: Path) -> None:
    found = manifest(export(checkpoint, tmp_path / "bundle", image_size=(140, 112)))
    assert found["image"]["max_pixels"] == 140 * 112
    small = manifest(export(checkpoint, tmp_path / "small", image_size=(28, 28)))
    assert (small["image"]["min_pixels"], small["image"]["max_pixels"]) == (784, 784)
    picture = np.zeros((200, 300, 3), np.uint8)
    few = Recognizer(tmp_path / "small", threads=1)(picture).timings.prompt_tokens
    assert few < Recognizer(tmp_path / "bundle", threads=1)(picture).timings.prompt_tokens


def test_labels_travel_along(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("name,parent,synonyms\nRoyal Gala,Apple,Gala\nKäse 🧀,,\n", encoding="utf-8")
    bundle = export(checkpoint, tmp_path / "bundle", labels=tmp_path / "labels.csv")
    expected = LabelSet((Label("Royal Gala", "Apple", ("Gala",)), Label("Käse 🧀")))
    stored = Bundle.open(bundle).labels()
    assert stored is not None and stored.labels == expected
    # One token a byte, and the closing one: a device encodes nothing.
    assert [len(ids) for ids in stored.compiled["{label}"]] == [10 + 1, 4 + 1, len("Käse 🧀".encode()) + 1]
    assert len(stored.compiled) == 2, "direct, and after a thought"
    assert "Käse 🧀" in (bundle / "labels.json").read_text(encoding="utf-8")


def test_the_manifest_says_where_the_bundle_comes_from(tiny_models: TinyModels) -> None:
    checkpoint, bundle = tiny_models.checkpoint("qwen2.5"), tiny_models.bundle("qwen2.5", "int8")
    found = manifest(bundle)
    assert found["provenance"]["source"] == str(checkpoint)
    assert found["provenance"]["checkpoint_digest"] == Checkpoint.open(checkpoint).digest()
    assert found["precision"] == {"vision": "int8", "decoder": "int8", "head": "int8", "embedding": "float32"}
    assert (found["family"], found["target"], found["dialect"]) == ("qwen2_5_vl", "cpu", "onnxruntime")
    assert set(found["files"]) == {
        *("embedding.bin", "tokenizer.json"),
        *(f"{graph}.onnx{suffix}" for graph in ("vision", "decoder") for suffix in ("", ".data")),
    }


# Refused, and before anything is written


def nothing_written(folder: Path, but: str = "checkpoint") -> bool:
    return {path.name for path in folder.iterdir()} <= {but, "labels.txt"}


@pytest.mark.parametrize(
    "name",
    [
        "layers.2.mlp.down_proj.weight",
        "blocks.3.attn.qkv.bias",
        "layers.0.input_layernorm.weight",
        "embed_tokens.weight",
    ],
)
def test_a_tensor_of_the_wrong_shape_is_found_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    tensors = tensors_of(checkpoint)
    (full,) = (key for key in tensors if key.endswith(name))
    shape = list(tensors[full].shape)
    tensors[full] = tensors[full][:-1].copy()
    write_tensors(checkpoint, tensors)
    with pytest.raises(CheckpointError) as caught:
        export(checkpoint, tmp_path / "deeper" / "bundle")
    message = str(caught.value)
    assert full in message and str(shape) in message and str([shape[0] - 1, *shape[1:]]) in message
    assert nothing_written(tmp_path)


def test_a_missing_tensor_is_found_before_anything_is_written(checkpoint: Path, tmp_path: Path) -> None:
    tensors = {name: t for name, t in tensors_of(checkpoint).items() if "layers.2.self_attn.v_proj.bias" not in name}
    write_tensors(checkpoint, tensors)
    with pytest.raises(CheckpointError, match=r"layers\.2\.self_attn\.v_proj\.bias"):
        export(checkpoint, tmp_path / "bundle")
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "llama"}, r"architecture 'llama' is not supported; supported: qwen2_5_vl, qwen3_vl"),
        ({"model_type": None}, "config.json has no model_type; supported: qwen2_5_vl, qwen3_vl"),
        ({"vision_config": None}, r"config\.json holds a value of the wrong kind"),
        ({"text_config": {"hidden_size": 64}}, "config.json has no 'num_attention_heads'; expected the config.json"),
    ],
)
def test_configs_that_cannot_be_used_are_refused(
    checkpoint: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    write_config(checkpoint, {**config_of(checkpoint), **change})
    with pytest.raises(CheckpointError, match=words):
        export(checkpoint, tmp_path / "bundle")
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("text_config", {"num_key_value_heads": 3}, "4 attention heads cannot share 3 key/value heads evenly"),
        ("text_config", {"rope_parameters": {"mrope_section": [1, 1, 1]}}, r"mrope_section \[1, 1, 1\] adds up to 3"),
        ("text_config", {"rope_parameters": {"rope_type": "yarn"}}, "rotary type 'yarn' is not supported"),
        ("text_config", {"hidden_size": "wide"}, r"config\.json holds a value of the wrong kind .*'wide'"),
        ("vision_config", {"window_size": 100}, "vision window of 100 pixels is no multiple of patch 14 x merge 2"),
        ("vision_config", {"num_heads": 5}, "vision width 48 over 5 heads"),
        ("vision_config", {"out_hidden_size": 32}, "tokens of width 32, the decoder takes 64; check out_hidden_size"),
    ],
)
def test_dimensions_that_do_not_fit_together_are_refused(
    checkpoint: Path, tmp_path: Path, part: str, change: dict[str, Any], words: str
) -> None:
    config = config_of(checkpoint)
    write_config(checkpoint, {**config, part: {**config[part], **change}})
    with pytest.raises(CheckpointError, match=words):
        export(checkpoint, tmp_path / "bundle")
    assert nothing_written(tmp_path)


def test_a_truncated_shard_is_named_before_anything_is_written(tiny_models: TinyModels, tmp_path: Path) -> None:
    folder = save(tiny_models.model("qwen2.5"), tmp_path / "checkpoint", max_shard_size="200KB")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=rf"{shard.name} is truncated: .*download or copy it again"):
        export(folder, tmp_path / "bundle")
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "not json"])
def test_a_damaged_tokenizer_is_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, content: str
) -> None:
    (checkpoint / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        export(checkpoint, tmp_path / "bundle")
    assert nothing_written(tmp_path)


def test_a_tokenizer_without_the_picture_token_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    text = (checkpoint / "tokenizer.json").read_text()
    (checkpoint / "tokenizer.json").write_text(text.replace("<|image_pad|>", "<|picture|>"))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has no token '<\|image_pad\|>'"):
        export(checkpoint, tmp_path / "bundle")
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("generation_config.json", '{"eos_token_id": "two"}', "eos_token_id"),
        (
            "generation_config.json",
            '{"eos_token_id": 2, "repetition_penalty": "x"}',
            r"generation_config\.json holds .* wrong kind",
        ),
        ("preprocessor_config.json", '{"image_mean": [0.5]}', r"preprocessor_config\.json holds .* wrong kind"),
        ("preprocessor_config.json", '{"min_pixels": "few"}', r"preprocessor_config\.json holds .*'few'"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused(
    checkpoint: Path, tmp_path: Path, name: str, content: str, words: str
) -> None:
    (checkpoint / name).write_text(content)
    with pytest.raises(CheckpointError, match=words):
        export(checkpoint, tmp_path / "bundle")
    assert nothing_written(tmp_path)


def test_options_are_checked_before_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="target 'npu' is not supported; choose one of cpu, cuda"):
        export(checkpoint, tmp_path / "bundle", target="npu")
    with pytest.raises(ConfigError, match="precision 'int3' is not known; choose one of fp32, fp16"):
        export(checkpoint, tmp_path / "bundle", "int3")
    with pytest.raises(LabelError, match=r"labels\.txt does not exist"):
        export(checkpoint, tmp_path / "bundle", labels=tmp_path / "labels.txt")
    assert nothing_written(tmp_path)


def test_an_existing_bundle_is_replaced_only_when_told(checkpoint: Path, tmp_path: Path) -> None:
    bundle = export(checkpoint, tmp_path / "bundle")
    before = digests(bundle)
    with pytest.raises(OutputExistsError, match="exists already; give --force to replace it"):
        export(checkpoint, bundle, "int8")
    assert digests(bundle) == before
    export(checkpoint, bundle, "int8", force=True)
    assert manifest(bundle)["precision"]["decoder"] == "int8"
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "bundle"}
