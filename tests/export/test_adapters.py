"""Merging an adapter while streaming gives what PEFT's own merge gives; what cannot be merged is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.errors import CheckpointError
from fgr_edge.export.adapters import with_adapter
from fgr_edge.export.assembly import BundleOptions, write_bundle
from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.export.model import open_model
from fgr_edge.export.safetensors_file import StoredTensor
from fgr_edge.export.targets import TARGETS
from fgr_edge.runtime.recognizer import Recognizer

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
safetensors = pytest.importorskip("safetensors.torch")

from transformers import AutoModelForImageTextToText  # noqa: E402

from tests.tiny import IMAGE_ID, SHAPES, VOCAB, all_logits, relative, save  # noqa: E402

if TYPE_CHECKING:
    from tests.tiny import TinyModels

MATRICES = ["q_proj", "v_proj", "down_proj", "qkv", "linear_fc1"]

CONFIGS: dict[str, dict[str, Any]] = {
    "some": dict(target_modules=MATRICES),
    "all-linear": dict(target_modules="all-linear", use_rslora=True, bias="all"),
    "patterns": dict(
        target_modules=["q_proj", "k_proj", "gate_proj"],
        rank_pattern={"k_proj": 2, r"language_model.layers.1.self_attn.q_proj": 8},
        alpha_pattern={r".*layers\.[02]\.mlp\.gate_proj": 5},
    ),
    "patterns-rslora": dict(target_modules=["q_proj", "k_proj"], rank_pattern={"k_proj": 3}, use_rslora=True),
    "dora": dict(target_modules=MATRICES, use_dora=True, bias="lora_only"),
    "patch": dict(target_modules=["proj"]),
    "merger": dict(target_modules=["o_proj"], modules_to_save=["merger"]),
    "fan-in": dict(target_modules=["q_proj"], fan_in_fan_out=True),
    "lora-bias": dict(target_modules=["qkv"], lora_bias=True),
    "orthogonal": dict(target_modules=["q_proj"], init_lora_weights="orthogonal"),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """`bases("qwen3", "bfloat16")`: a random checkpoint, saved once."""
    folder = tmp_path_factory.mktemp("bases")

    def base(shape: str, dtype: str) -> Path:
        path = folder / f"{shape}-{dtype}"
        if not path.is_dir():
            save(SHAPES[shape]().to(getattr(torch, dtype)), path)
        return path

    return base


def train(base: Path, folder: Path, *, seed: int = 0, **options: Any) -> Path:
    """An adapter of the base, every one of its tensors moved by noise, saved by PEFT."""
    model = AutoModelForImageTextToText.from_pretrained(base, dtype="auto")
    settings = {"r": 4, "lora_alpha": 6, "init_lora_weights": False, **options}
    model = peft.get_peft_model(model, peft.LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    model.save_pretrained(folder)
    return folder


def peft_model(base: Path, adapter: Path) -> Any:
    return peft.PeftModel.from_pretrained(
        AutoModelForImageTextToText.from_pretrained(base, dtype="auto"), adapter
    ).eval()


def pairs(found: Checkpoint, expected: Checkpoint) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    assert set(found.names()) == set(expected.names())
    for name in expected.names():
        assert found.tensor(name).dtype == expected.tensor(name).dtype
        yield name, found.tensor(name).read(), expected.tensor(name).read()


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("shape", "dtype"), [("qwen2.5", "bfloat16"), ("qwen3-untied", "float32")])
def test_the_merge_is_pefts(
    bases: Callable[[str, str], Path], tmp_path: Path, shape: str, options: dict[str, Any], dtype: str
) -> None:
    base = bases(shape, dtype)
    adapter = train(base, tmp_path / "adapter", **options)
    peft_model(base, adapter).merge_and_unload().save_pretrained(tmp_path / "merged")
    changed = 0
    found = with_adapter(Checkpoint.open(base), adapter)
    for name, here, there in pairs(found, Checkpoint.open(tmp_path / "merged")):
        changed += not np.array_equal(there, Checkpoint.open(base).tensor(name).read())
        # One rounding of float32 sums, whose order differs: now and then the neighbouring bfloat16.
        step = np.abs(there) * (2.0**-7 if dtype == "bfloat16" else 1e-5) + 1e-6
        assert (np.abs(here - there) <= step).all(), name
        assert (here != there).mean() < (0.002 if dtype == "bfloat16" else 1), name
    assert changed >= 3


# Embedding and output projection

TIED: dict[str, dict[str, Any]] = {
    "embedding adapted": dict(target_modules=["embed_tokens", "q_proj"]),
    "head adapted": dict(target_modules=["lm_head", "q_proj"]),
    "head saved": dict(target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "embedding saved": dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
    "both saved": dict(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    "saved, tied": dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "adapted, tied": dict(target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True),
}


@pytest.mark.parametrize("options", TIED.values(), ids=TIED)
def test_a_tied_head_and_its_embedding_are_what_they_were_in_training(
    bases: Callable[[str, str], Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    base = bases("qwen2.5", "float32")
    adapter = train(base, tmp_path / "adapter", **options)
    trained = peft_model(base, adapter).get_base_model()  # not merged
    with torch.inference_mode():
        embedding = trained.get_input_embeddings()(torch.arange(VOCAB)).numpy()
        head = trained.get_output_embeddings()(torch.eye(embedding.shape[1])).T.numpy()
    found = open_model(with_adapter(Checkpoint.open(base), adapter))
    np.testing.assert_allclose(found.embedding.read(), embedding, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(list(found.head.chunks())), head, rtol=1e-5, atol=1e-6)


def test_a_bundle_with_an_adapter_computes_what_the_trained_model_computed(
    bases: Callable[[str, str], Path], tiny_models: TinyModels, tmp_path: Path
) -> None:
    base = bases("qwen2.5", "float32")
    adapter = train(base, tmp_path / "adapter", target_modules=["embed_tokens", *MATRICES], use_rslora=True)
    untouched = tiny_models.reference("qwen2.5", (8, 12))
    with torch.inference_mode():
        trained = peft_model(base, adapter)(  # not merged
            input_ids=torch.from_numpy(untouched.ids)[None],
            pixel_values=torch.from_numpy(untouched.pixels),
            image_grid_thw=torch.tensor([[1, *untouched.grid]]),
            mm_token_type_ids=torch.from_numpy((untouched.ids == IMAGE_ID).astype(np.int32))[None],
        ).logits[0]
    model = open_model(with_adapter(Checkpoint.open(base), adapter))
    plan, options = Plan.uniform(SCHEMES["fp32"]), BundleOptions(str(base), model.checkpoint.digest(), quiet=True)
    bundle = write_bundle(model, TARGETS["cpu"], plan, tmp_path / "bundle", options)
    assert relative(all_logits(Recognizer(bundle), untouched), trained.numpy()) < 1e-3
    assert relative(untouched.logits, trained.numpy()) > 0.01


# Names, digest, memory


@pytest.fixture(scope="module")
def base(bases: Callable[[str, str], Path]) -> Path:
    return bases("qwen2.5", "float32")


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of `base`; a test that changes it copies it first."""
    return train(base, tmp_path_factory.mktemp("adapters") / "birds", target_modules=["q_proj", "qkv"])


def changed(adapter: Path, folder: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Path:
    """A copy of the adapter with its tensors changed."""
    shutil.copytree(adapter, folder)
    tensors = safetensors.load_file(folder / "adapter_model.safetensors")
    safetensors.save_file(change(tensors) or tensors, folder / "adapter_model.safetensors")
    return folder


def configured(adapter: Path, folder: Path, **values: Any) -> Path:
    """A copy of the adapter with values of its adapter_config.json changed."""
    shutil.copytree(adapter, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


def test_module_names_of_older_transformers_mean_the_same_tensors(base: Path, trained: Path, tmp_path: Path) -> None:
    def older(tensors: dict[str, Any]) -> dict[str, Any]:
        return {
            name.replace(".model.language_model.", ".model.").replace(".model.model.visual.", ".model.visual."): tensor
            for name, tensor in tensors.items()
        }

    renamed = changed(trained, tmp_path / "older", older)
    names = safetensors.load_file(renamed / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    assert "base_model.model.visual.blocks.0.attn.qkv.lora_A.weight" in names
    checkpoint = Checkpoint.open(base)
    for name, here, there in pairs(with_adapter(checkpoint, renamed), with_adapter(checkpoint, trained)):
        np.testing.assert_array_equal(here, there, err_msg=name)


def test_the_digest_covers_the_adapter_and_the_note_names_it(base: Path, trained: Path, tmp_path: Path) -> None:
    def first_moved(tensors: dict[str, Any]) -> None:
        next(iter(tensors.values())).view(-1)[0] += 1

    checkpoint = Checkpoint.open(base)
    merged = with_adapter(checkpoint, trained)
    others = [
        checkpoint,
        with_adapter(checkpoint, configured(trained, tmp_path / "alpha", lora_alpha=7)),
        with_adapter(checkpoint, changed(trained, tmp_path / "moved", first_moved)),
        with_adapter(merged, trained),
    ]
    assert len({merged.digest(), *(other.digest() for other in others)}) == 5
    assert merged.notes[0].startswith("adapter birds: adapter_config.json sha256 ")


def test_two_adapters_add_up(base: Path, trained: Path) -> None:
    checkpoint = Checkpoint.open(base)
    once = with_adapter(checkpoint, trained)
    twice = with_adapter(once, trained)
    name = "model.layers.1.self_attn.q_proj.weight"
    step = once.tensor(name).read() - checkpoint.tensor(name).read()
    assert np.abs(step).max() > 0.01
    np.testing.assert_allclose(twice.tensor(name).read(), checkpoint.tensor(name).read() + 2 * step, atol=1e-5)


def test_rows_of_a_merged_matrix_read_only_those_rows_of_the_base(
    base: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = with_adapter(Checkpoint.open(base), trained).tensor("model.layers.1.self_attn.q_proj.weight")
    whole = merged.read()
    read: list[int] = []
    inner = StoredTensor._read_into

    def read_into(self: StoredTensor, start: int, data: np.ndarray) -> None:
        if self.path.parent == base:
            read.append(data.nbytes)
        inner(self, start, data)

    monkeypatch.setattr(StoredTensor, "_read_into", read_into)
    np.testing.assert_allclose(merged.rows(3, 5), whole[3:5], rtol=1e-6, atol=1e-7)
    assert read == [2 * merged.shape[1] * 4]


def test_merging_reads_nothing_of_the_base(base: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.open(base)
    inner = StoredTensor._read_into

    def read_into(self: StoredTensor, start: int, data: np.ndarray) -> None:
        assert self.path.parent != base
        inner(self, start, data)

    monkeypatch.setattr(StoredTensor, "_read_into", read_into)
    with_adapter(checkpoint, trained)


def test_another_base_of_the_same_shape_is_warned_of(
    base: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_adapter(Checkpoint.open(base), trained)
    assert "was trained on" not in caplog.text
    with_adapter(Checkpoint.open(base), configured(trained, tmp_path / "a", base_model_name_or_path="Qwen/Other-3B"))
    assert "was trained on Qwen/Other-3B; it is merged into" in caplog.text


# Refused


def refusal(base: Path, adapter: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        with_adapter(Checkpoint.open(base), adapter)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(peft_type="IA3"), "peft_type 'IA3', expected 'LORA'"),
        (dict(init_lora_weights="pissa_niter_4"), "'pissa_niter_4', which changed the base weights before training"),
        (dict(init_lora_weights="olora"), "changed the base weights"),
        (dict(alora_invocation_tokens=[1, 2]), "sets alora_invocation_tokens to"),
        (dict(layer_replication=[[0, 2], [1, 3]]), "sets layer_replication to"),
        (dict(trainable_token_indices=[1]), "sets trainable_token_indices to"),
        (dict(target_parameters=["experts"]), "sets target_parameters to"),
        (dict(arrow_config={"top_k": 2}), "sets arrow_config to"),
        (dict(from_the_future=0.5), "sets from_the_future to 0.5, which is not supported here; merge it with `Peft"),
        (dict(r=0), "r 0, expected a whole number above 0"),
        (dict(r=True), "r True, expected a whole number"),
        (dict(r=2.0), "r 2.0, expected a whole number"),
        (dict(lora_alpha="16"), "lora_alpha '16', expected a number above 0"),
        (dict(lora_alpha=float("nan")), "lora_alpha nan, expected a number"),
        (dict(use_rslora="yes"), "use_rslora 'yes', expected true or false"),
        (dict(rank_pattern=["q_proj"]), "rank_pattern ['q_proj'], expected {module name: number}"),
        (dict(alpha_pattern={"q_(proj": 3}), "'q_(proj' in alpha_pattern, which is no regular expression"),
        (dict(r=5), "rank 5"),
        (dict(use_dora=True), "DoRA magnitudes that do not go with use_dora"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_config_that_a_merge_cannot_follow_is_refused(
    base: Path, trained: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    assert message in refusal(base, configured(trained, tmp_path / "adapter", **values))


@pytest.mark.parametrize("key", ["r", "lora_alpha"])
def test_a_config_without_rank_or_alpha_is_refused(base: Path, trained: Path, tmp_path: Path, key: str) -> None:
    adapter = configured(trained, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    del config[key]
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert f"has no {key}; expected" in refusal(base, adapter)


def test_settings_of_training_and_empty_unknown_ones_change_nothing(base: Path, trained: Path, tmp_path: Path) -> None:
    other = configured(
        trained, tmp_path / "adapter",
        lora_dropout=0.3, target_modules="all-linear", inference_mode=False, task_type="CAUSAL_LM", future_config={},
    )  # fmt: skip
    checkpoint = Checkpoint.open(base)
    for name, here, there in pairs(with_adapter(checkpoint, other), with_adapter(checkpoint, trained)):
        np.testing.assert_array_equal(here, there, err_msg=name)


Q = "base_model.model.model.language_model.layers.0.self_attn.q_proj"


def test_an_adapter_with_damaged_or_foreign_tensors_is_refused(base: Path, trained: Path, tmp_path: Path) -> None:
    def refused(change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> str:
        return refusal(base, changed(trained, tmp_path / str(len(list(tmp_path.iterdir()))), change))

    def not_finite(tensors: dict[str, Any]) -> None:
        tensors[f"{Q}.lora_B.weight"][0, 0] = float("nan")

    def one_factor(tensors: dict[str, Any]) -> None:
        del tensors[f"{Q}.lora_A.weight"]

    def other_width(tensors: dict[str, Any]) -> None:
        tensors[f"{Q}.lora_A.weight"] = torch.zeros(4, 128)

    def other_layers(tensors: dict[str, Any]) -> dict[str, Any]:
        return {name.replace("layers.0", "layers.30"): tensor for name, tensor in tensors.items()}

    assert "NaN or infinity, in" in refused(not_finite)
    assert "has B of 'model.language_model.layers.0.self_attn.q_proj', expected both factors" in refused(one_factor)
    assert "of shape [64, 128] (factors [[4, 128], [64, 4]], rank 4), but in" in refused(other_width)
    assert "adapts 'model.language_model.layers.30.self_attn.q_proj.weight', which" in refused(other_layers)
    assert "holds no tensors" in refused(lambda tensors: tensors.clear())
    assert "a tensor 'x.lora_E', which is not supported" in refused(lambda t: {**t, "x.lora_E": torch.zeros(2)})
    assert "adapts 'x.weight', which" in refused(lambda t: {**t, f"{Q[:16]}.x.weight": torch.zeros(2)})
    bias = {"model.norm.weight": torch.zeros(3)}
    assert "adapts 'model.norm.weight' of shape [3], but in" in refused(lambda tensors: {**tensors, **bias})


def test_a_quantized_base_is_refused(base: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    weights = safetensors.load_file(base / "model.safetensors")
    weights["model.layers.2.self_attn.q_proj.weight"] = torch.zeros(64, 64, dtype=torch.int8)
    safetensors.save_file(weights, tmp_path / "base" / "model.safetensors")
    assert "q_proj.weight' as int8, which nothing can be added to" in refusal(tmp_path / "base", trained)


def test_a_folder_that_is_no_adapter_is_refused_with_what_it_is(base: Path, trained: Path, tmp_path: Path) -> None:
    assert "but there is no such folder" in refusal(base, tmp_path / "absent")
    assert "this is a whole checkpoint: export it itself" in refusal(base, base)
    shutil.copytree(trained, tmp_path / "run" / "checkpoint-100")
    assert f"there is one in {tmp_path / 'run' / 'checkpoint-100'}" in refusal(base, tmp_path / "run")
    weights = tmp_path / "run" / "checkpoint-100" / "adapter_model.safetensors"
    weights.rename(weights.with_name("adapter_model.bin"))
    assert "is a pickle and is not read: convert it with `safetensors.torch.save_file" in refusal(base, weights.parent)
    (weights.parent / "adapter_model.bin").unlink()
    assert refusal(base, weights.parent).endswith("has no adapter_model.safetensors")
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert "Git LFS pointer" in refusal(base, weights.parent)
    (weights.parent / "adapter_config.json").write_text("[]")
    assert "holds a JSON list, expected an object" in refusal(base, weights.parent)
