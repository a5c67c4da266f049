"""Soups are means of what was kept; the greedy one drops what makes it worse; unlike checkpoints are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.errors import CheckpointError, ConfigError
from fgr_edge.export.assembly import BundleOptions, write_bundle
from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.export.lazy_tensor import LazyTensor, VirtualTensor
from fgr_edge.export.model import open_model
from fgr_edge.export.safetensors_file import StoredTensor
from fgr_edge.export.soup import greedy_soup, open_member, uniform_soup
from fgr_edge.export.targets import TARGETS
from fgr_edge.export.trial import Trial
from fgr_edge.runtime.bundle import sha256_of
from fgr_edge.runtime.labels import LabelSet, read_labels

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

from tests.tiny import qwen2_5_vl, qwen3_vl, save  # noqa: E402

Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three checkpoints of one architecture in bfloat16; a test that changes one copies it first."""
    folder = tmp_path_factory.mktemp("soup")
    return [save(qwen2_5_vl(seed=seed).to(torch.bfloat16), folder / f"run-{seed}") for seed in range(3)]


@pytest.fixture
def members(folders: list[Path]) -> list[Checkpoint]:
    return [Checkpoint.open(folder) for folder in folders]


def mean(checkpoints: Sequence[Checkpoint], name: str) -> np.ndarray:
    values = np.stack([checkpoint.tensor(name).read() for checkpoint in checkpoints]).mean(axis=0)
    rounded: np.ndarray = torch.from_numpy(values).bfloat16().float().numpy()
    return rounded


def kept(checkpoints: Sequence[Checkpoint], flags: str) -> list[Checkpoint]:
    return [checkpoint for checkpoint, flag in zip(checkpoints, flags, strict=True) if flag == "1"]


# What a soup is


def test_a_uniform_soup_is_the_mean_of_every_tensor(members: list[Checkpoint]) -> None:
    soup = uniform_soup(members)
    assert list(soup.checkpoint.names()) == list(members[0].names())
    for name in members[0].names():
        tensor = soup.checkpoint.tensor(name)
        assert tensor.dtype == "bfloat16"
        np.testing.assert_array_equal(tensor.read(), mean(members, name), err_msg=name)
    assert [ingredient.kept for ingredient in soup.ingredients] == [True] * 3
    assert [ingredient.digest for ingredient in soup.ingredients] == [member.digest() for member in members]
    json.dumps(soup.to_json())
    open_model(soup.checkpoint)


def test_rows_of_a_soup_read_only_those_rows(members: list[Checkpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = uniform_soup(members).checkpoint.tensor(Q)
    whole = tensor.read()
    read: list[int] = []
    inner = StoredTensor._read_into

    def read_into(self: StoredTensor, start: int, data: np.ndarray) -> None:
        read.append(data.nbytes)
        inner(self, start, data)

    monkeypatch.setattr(StoredTensor, "_read_into", read_into)
    np.testing.assert_array_equal(tensor.rows(3, 5), whole[3:5])
    assert read == [2 * tensor.shape[1] * 2] * 3


def test_the_digest_covers_every_member(folders: list[Path], members: list[Checkpoint], tmp_path: Path) -> None:
    shutil.copytree(folders[2], tmp_path / "run-2")
    weights = safetensors.load_file(tmp_path / "run-2" / "model.safetensors")
    weights[Q].view(-1)[0] += 1
    safetensors.save_file(weights, tmp_path / "run-2" / "model.safetensors")
    digests = {
        uniform_soup(members).checkpoint.digest(),
        uniform_soup(members[:2]).checkpoint.digest(),
        uniform_soup([*members[:2], Checkpoint.open(tmp_path / "run-2")]).checkpoint.digest(),
        members[0].digest(),
    }
    assert len(digests) == 4


def test_members_may_name_their_tensors_as_other_versions_do(
    folders: list[Path], members: list[Checkpoint], tmp_path: Path
) -> None:
    shutil.copytree(folders[1], tmp_path / "run-1")
    weights = safetensors.load_file(folders[1] / "model.safetensors")
    renamed = {
        name.replace("model.", "model.language_model.").replace("visual.", "model.visual."): tensor
        for name, tensor in weights.items()
    }
    assert not set(renamed) & set(weights)
    safetensors.save_file(renamed, tmp_path / "run-1" / "model.safetensors")
    soup = uniform_soup([members[0], Checkpoint.open(tmp_path / "run-1")]).checkpoint
    np.testing.assert_array_equal(soup.tensor(Q).read(), mean(members[:2], Q))


def test_the_bundle_of_a_soup_is_that_of_the_mean_saved(
    folders: list[Path], members: list[Checkpoint], tmp_path: Path
) -> None:
    weights = {name: torch.from_numpy(mean(members, name)).bfloat16() for name in members[0].names()}
    saved = changed(folders[0], tmp_path / "mean", lambda of_first: of_first.update(weights))
    written = []
    for name, checkpoint in (("soup", uniform_soup(members).checkpoint), ("saved", Checkpoint.open(saved))):
        options, plan = BundleOptions("", "", quiet=True), Plan.uniform(SCHEMES["int8"])
        bundle = write_bundle(open_model(checkpoint), TARGETS["cpu"], plan, tmp_path / name, options)
        written.append({file.name: sha256_of(file) for file in bundle.iterdir() if file.name != "manifest.json"})
    assert len(written[0]) >= 6
    assert written[0] == written[1]


def test_a_member_may_be_an_adapter_of_the_base(members: list[Checkpoint], tmp_path: Path) -> None:
    prefix = f"base_model.model.{Q.removesuffix('.weight')}"
    factors = {f"{prefix}.lora_A.weight": torch.ones(1, 64), f"{prefix}.lora_B.weight": torch.ones(64, 1)}
    safetensors.save_file(factors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 2}')
    adapted = open_member(tmp_path, members[0])
    assert np.abs(adapted.tensor(Q).read() - members[0].tensor(Q).read() - 2).max() < 0.02
    assert open_member(members[1].path, members[0]).notes == ()
    soup = uniform_soup([members[0], adapted])
    np.testing.assert_array_equal(soup.checkpoint.tensor(Q).read(), mean([members[0], adapted], Q))
    assert "adapter_model.safetensors sha256" in soup.ingredients[1].source


@pytest.mark.parametrize("first_stores", [True, False])
def test_a_tied_head_and_a_head_of_its_own_are_averaged(tmp_path: Path, first_stores: bool) -> None:
    tied = Checkpoint.open(save(qwen2_5_vl(seed=0), tmp_path / "tied"))
    free = Checkpoint.open(save(qwen2_5_vl(tied=False, seed=1), tmp_path / "free"))
    soup = open_model(uniform_soup([free, tied] if first_stores else [tied, free]).checkpoint)
    embeddings = [open_model(checkpoint).embedding.read() for checkpoint in (tied, free)]
    np.testing.assert_allclose(soup.embedding.read(), sum(embeddings) / 2, rtol=1e-6)
    head = (embeddings[0] + free.tensor("lm_head.weight").read()) / 2
    np.testing.assert_allclose(np.concatenate(list(soup.head.chunks())), head, rtol=1e-6, atol=1e-7)


def test_tied_heads_stay_tied(members: list[Checkpoint]) -> None:
    soup = open_model(uniform_soup(members).checkpoint)
    assert soup.head.parts[0] is soup.embedding


# Greedy


def goodness(members: Sequence[Checkpoint], table: dict[str, float]) -> Callable[[Checkpoint], float]:
    """An accuracy by what is in the soup, found in its weights: {"110": 0.7} is that of the first two's mean."""
    means = {flags: mean(kept(members, flags), Q) for flags in table}

    def accuracy(checkpoint: Checkpoint) -> float:
        found = checkpoint.tensor(Q).read()
        (flags,) = [flags for flags, values in means.items() if np.array_equal(values, found)]
        return table[flags]

    return accuracy


def test_the_greedy_soup_tries_by_accuracy_alone_and_keeps_what_does_not_make_it_worse(
    members: list[Checkpoint],
) -> None:
    # Alone: the third is best, then the first. With the first it is worse, with the second as good as without.
    table = {"100": 0.7, "010": 0.6, "001": 0.8, "101": 0.75, "011": 0.8}
    soup = greedy_soup(members, goodness(members, table))
    tried = [(i.source, i.kept, i.accuracy, i.accuracy_with_it) for i in soup.ingredients]
    third, first, second = (str(members[index].path) for index in (2, 0, 1))
    assert tried == [(third, True, 0.8, 0.8), (first, False, 0.7, 0.75), (second, True, 0.6, 0.8)]
    np.testing.assert_array_equal(soup.checkpoint.tensor(Q).read(), mean(members[1:], Q))
    assert soup.checkpoint.path == members[2].path
    assert str(members[1].path) in soup.checkpoint.notes[0]
    assert str(members[0].path) not in soup.checkpoint.notes[0]


def test_a_later_one_is_measured_against_the_soup_as_it_has_become(members: list[Checkpoint]) -> None:
    table = {"100": 0.8, "010": 0.7, "001": 0.6, "110": 0.9, "111": 0.85}
    soup = greedy_soup(members, goodness(members, table))
    assert [ingredient.kept for ingredient in soup.ingredients] == [True, True, False]
    np.testing.assert_array_equal(soup.checkpoint.tensor(Q).read(), mean(members[:2], Q))


def test_where_one_alone_is_best_the_greedy_soup_is_that_one(members: list[Checkpoint]) -> None:
    table = {"100": 0.5, "010": 0.9, "001": 0.5, "110": 0.6, "011": 0.6}
    soup = greedy_soup(members, goodness(members, table))
    assert soup.checkpoint is members[1]


def noisy(checkpoint: Checkpoint, share: float, seed: int) -> Checkpoint:
    """Noise of `share` of a matrix's deviation added to each."""

    def moved(index: int, tensor: LazyTensor) -> VirtualTensor:
        values = tensor.read()
        noise = np.random.default_rng([seed, index]).standard_normal(values.shape, np.float32)
        values += share * values.std() * noise
        return VirtualTensor(tensor.name, tensor.shape, tensor.dtype, lambda start, stop: values[start:stop].copy())

    matrices = [tensor for tensor in map(checkpoint.tensor, checkpoint.names()) if len(tensor.shape) > 1]
    return checkpoint.with_tensors(
        {tensor.name: moved(index, tensor) for index, tensor in enumerate(matrices)}, f"noise {share} {seed}"
    )


def test_greedy_keeps_the_trained_model_and_drops_broken_copies_by_their_real_accuracy(
    nano_checkpoint: Path, nano_labels: Path, birds: Callable[[int], list[Path]], tmp_path: Path
) -> None:
    from fgr_edge.data.aviary import SPECIES

    count = 8
    pictures = [
        LabelledPicture(path, SPECIES[number * len(SPECIES) // count].name) for number, path in enumerate(birds(count))
    ]
    nano = Checkpoint.open(nano_checkpoint)
    trial = Trial(pictures, read_labels(nano_labels), tmp_path, quiet=True)
    soup = greedy_soup([noisy(nano, 2.0, 1), nano], trial)
    good, broken = soup.ingredients
    assert soup.checkpoint is nano
    assert good.source == str(nano_checkpoint) and good.accuracy is not None and good.accuracy >= 0.7
    assert not broken.kept
    assert broken.accuracy is not None and broken.accuracy <= 0.2
    assert broken.accuracy_with_it is not None and broken.accuracy_with_it < good.accuracy
    assert list(tmp_path.iterdir()) == []  # the bundles are gone


def test_classes_that_the_labels_lack_are_refused_before_a_trial_exports(
    members: list[Checkpoint], tmp_path: Path
) -> None:
    trial = Trial([LabelledPicture(Path("x.png"), "Apple")], LabelSet.from_names(["Pear"]), tmp_path / "t", quiet=True)
    with pytest.raises(ValueError, match="lack 1 classes of the photographs: 'Apple'"):
        trial(members[0])
    assert not (tmp_path / "t").exists()


# Refused before work starts


def refusal(first: Checkpoint, other: Path | Checkpoint, error: type[Exception] = CheckpointError) -> str:
    def never(_: Checkpoint) -> float:
        raise AssertionError("measured before everything was checked")

    other = other if isinstance(other, Checkpoint) else Checkpoint.open(other)
    with pytest.raises(error) as greedy:
        greedy_soup([first, other], never)
    with pytest.raises(error) as uniform:
        uniform_soup([first, other])
    assert str(greedy.value) == str(uniform.value)
    return str(greedy.value)


def test_one_checkpoint_or_the_same_twice_is_no_soup(
    folders: list[Path], members: list[Checkpoint], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"a soup of 1 checkpoint\(s\) was asked for, expected at least two"):
        uniform_soup(members[:1])
    assert "holds the same weights as" in refusal(
        members[0], shutil.copytree(folders[0], tmp_path / "again"), ConfigError
    )


def test_another_architecture_is_refused(members: list[Checkpoint], tmp_path: Path) -> None:
    assert "is a qwen3_vl, " in refusal(members[0], save(qwen3_vl(), tmp_path / "qwen3"))
    wider = refusal(members[0], save(qwen2_5_vl(heads=6, kv_heads=6), tmp_path / "wide"))
    assert "differ in hidden 64 and 96, intermediate 192 and 288" in wider
    assert "window_size 112 and 56" in refusal(members[0], save(qwen2_5_vl(window=56), tmp_path / "window"))


def changed(folder: Path, copy: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the checkpoint with its tensors changed."""
    shutil.copytree(folder, copy)
    weights = safetensors.load_file(folder / "model.safetensors")
    change(weights)
    safetensors.save_file(weights, copy / "model.safetensors")
    return copy


def test_missing_further_and_misshapen_tensors_are_refused(
    folders: list[Path], members: list[Checkpoint], tmp_path: Path
) -> None:
    def whole_numbers(weights: dict[str, Any]) -> None:
        weights[Q] = weights[Q].to(torch.int8)

    lacking = changed(folders[1], tmp_path / "lacking", lambda weights: weights.pop(Q))
    further = changed(folders[1], tmp_path / "further", lambda weights: weights.update(extra=torch.zeros(3)))
    short = changed(folders[1], tmp_path / "short", lambda weights: weights.update({Q: torch.zeros(8, 64)}))
    assert f"lacking lacks '{Q}', which" in refusal(members[0], lacking)
    assert "run-0 lacks 'extra', which" in refusal(members[0], further)
    assert "has shape [8, 64], expected [64, 64]" in refusal(members[0], short)
    integers = changed(folders[1], tmp_path / "integers", whole_numbers)
    assert "as int8 [64, 64], which cannot be averaged" in refusal(members[0], integers)


def test_other_token_numbers_are_refused_and_another_writing_of_the_same_is_not(
    folders: list[Path], members: list[Checkpoint], tmp_path: Path
) -> None:
    copy = shutil.copytree(folders[1], tmp_path / "copy")
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1))
    uniform_soup([members[0], Checkpoint.open(copy)])
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "number tokens differently" in refusal(members[0], copy)
