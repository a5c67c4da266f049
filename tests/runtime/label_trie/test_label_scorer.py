"""Scores of classes on real graphs equal transformers' teacher-forced ones, whatever the names and however many."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fgr_edge.errors import LabelError
from fgr_edge.export.dialects.onnxruntime import OnnxRuntimeDialect
from fgr_edge.export.pipeline import ExportConfig, export_checkpoint
from fgr_edge.export.targets import TARGETS, Target
from fgr_edge.runtime.confidence import Confidence
from fgr_edge.runtime.label_trie.label_scorer import DIRECT, REASONED, ClassScores, LabelScorer, compile_frames
from fgr_edge.runtime.labels import Label, LabelSet, read_labels
from fgr_edge.runtime.manifest import sealed
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.request import Request

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.tiny import (  # noqa: E402
    HuggingFace,
    TinyModels,
    asked,
    drawing,
    recorded,
    reference_of,
    with_qwen_vocabulary,
)

if TYPE_CHECKING:
    from fgr_edge.runtime.prompt import Mode

EXACT = 1e-3  # against transformers; seen: 1e-5 for nano's 81 groceries, 6e-5 for birds, 1.2e-4 for cars and odd names
SHAPES = ["qwen2.5", "qwen2.5-untied", "qwen3"]
SMALL = (60, 60)  # a picture of a few tokens
ODD = LabelSet(
    (
        Label("Royal"),
        Label("Royal Gala", synonyms=("royal gala", "ROYAL GALA", "Gala")),
        Label("Royal Gala XL"),
        Label("Käse 🧀", synonyms=("奶酪",)),
        Label("<|im_end|>"),
        Label("</answer"),
        Label("{label}"),
        Label("a  b \\ \"c\" 'd' — é"),
        Label("x" * 150),
        Label("x" * 149 + "y"),
    )
)


def names_of(count: int, seed: int = 0) -> LabelSet:
    """Made-up names of one to four words; many begin alike."""
    rng = np.random.default_rng(seed)
    syllables = ["ka", "lo", "mi", "ren", "tu", "vas", "ori", "el"]
    words = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(60)]
    names: dict[str, None] = {}
    while len(names) < count:
        names[" ".join(rng.choice(words, rng.integers(1, 5))).capitalize()] = None
    return LabelSet.from_names(names)


def class_log_probs(labels: LabelSet, forms: np.ndarray) -> np.ndarray:
    """Forms added up to classes."""
    found = np.full(len(labels), -np.inf)
    for (_, index), value in zip(labels.forms, forms, strict=True):
        found[index] = np.logaddexp(found[index], value)
    return found


def teacher_forced(
    recognizer: Recognizer, reference: HuggingFace, labels: LabelSet, picture: Any, batch: int = 32
) -> np.ndarray:
    """transformers' log-probability of each class, right after the prompt."""
    inputs = reference.inputs(picture, asked(recognizer))
    stop = recognizer.bundle.manifest["generation"]["eos_token_ids"][0]
    encode = recognizer.model.prompts.encode_text
    return class_log_probs(
        labels, reference.log_probs(inputs, [[*encode(text), stop] for text, _ in labels.forms], batch)
    )


def opened(models: TinyModels, shape: str, labels: LabelSet | None = None) -> Recognizer:
    return Recognizer(models.bundle(shape), labels, threads=1)


def best(
    recognizer: Recognizer, picture: Any, confidence: Confidence | None = None, **options: Any
) -> tuple[ClassScores, Confidence]:
    """Best-first scores after the prompt."""
    scorer = recognizer._scorer
    assert scorer is not None
    confidence = confidence or Confidence.uncalibrated(len(scorer.labels))
    logits = recognizer._reader.read(picture, Request(), scorer).logits
    return scorer.best(DIRECT, logits, recognizer.model.extend, confidence, **options), confidence


def assert_best_is_full(
    recognizer: Recognizer, picture: Any, top_ks: Sequence[int] = (1, 3, 10), full: np.ndarray | None = None
) -> None:
    """The first classes and their log-probabilities are those of the full scores; the rest is bounded."""
    full = recognizer.evidence(picture).log_probs if full is None else full
    for top_k in top_ks:
        found, confidence = best(recognizer, picture, top_k=top_k)
        shares = confidence.probabilities(full)
        seen = np.isfinite(found.log_probs)
        first = np.argsort(-found.log_probs, kind="stable")[:top_k]
        np.testing.assert_array_equal(first, np.argsort(-full, kind="stable")[:top_k])
        np.testing.assert_array_less(found.log_probs[seen], full[seen] + EXACT)  # a synonym may be missing
        assert 1 - np.exp(np.logaddexp.reduce(found.log_probs) - np.logaddexp.reduce(full)) <= found.rest + 1e-5
        assert shares[~seen].sum() <= found.rest + 1e-5


# Equal to transformers


@pytest.mark.parametrize("shape", SHAPES)
def test_the_reference_over_a_cache_is_that_of_one_whole_sequence(tiny_models: TinyModels, shape: str) -> None:
    reference = reference_of(tiny_models.checkpoint(shape), tiny_models.model(shape))
    inputs = reference.inputs(drawing(200, 150), "What is it?")
    sequences = [[40, 50, 60, 2], [40], [70, 80, 2]]
    expected = []
    for ids in sequences:
        rows = torch.from_numpy(reference.logits(inputs, ids)[-len(ids) - 1 : -1]).double().log_softmax(-1)
        expected.append(float(rows[torch.arange(len(ids)), torch.tensor(ids)].sum()))
    np.testing.assert_allclose(reference.log_probs(inputs, sequences), expected, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_odd_names_and_synonyms_have_the_log_probabilities_of_transformers(tiny_models: TinyModels, shape: str) -> None:
    reference = reference_of(tiny_models.checkpoint(shape), tiny_models.model(shape))
    recognizer = opened(tiny_models, shape, ODD)
    for picture in (drawing(*SMALL), drawing(200, 150, 1)):
        expected = teacher_forced(recognizer, reference, ODD, picture)
        np.testing.assert_allclose(recognizer.evidence(picture).log_probs, expected, atol=EXACT)
        assert_best_is_full(recognizer, picture)


@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
@pytest.mark.parametrize("budget", [7, 1])
def test_names_after_a_thought_have_the_log_probabilities_of_transformers(
    tiny_models: TinyModels, shape: str, budget: int
) -> None:
    reference = reference_of(tiny_models.checkpoint(shape), tiny_models.model(shape))
    recognizer = opened(tiny_models, shape, ODD)
    fed = recorded(recognizer)  # the thought, what closes it and the tag
    picture = drawing(*SMALL)
    found = recognizer.evidence(picture, mode="reason", think_budget=budget)
    encode = recognizer.model.prompts.encode_text
    assert fed[-len(encode("</think> <answer>")) :] == encode("</think> <answer>")
    inputs = reference.inputs(picture, asked(recognizer, "reason"))
    sequences = [[*fed, *encode(f"{text}</answer>")] for text, _ in ODD.forms]
    before = reference.log_probs(inputs, [fed])[0]
    expected = class_log_probs(ODD, reference.log_probs(inputs, sequences) - before)
    np.testing.assert_allclose(found.log_probs, expected, atol=EXACT)


def test_nano_scores_the_grocery_names_as_transformers_does(
    nano_checkpoint: Path, nano_bundle: Callable[..., Path]
) -> None:
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(nano_checkpoint, dtype=torch.float32).eval()
    labels = read_labels(nano_checkpoint / "labels_grocery.txt")
    recognizer = Recognizer(nano_bundle("fp32"), labels, threads=1)
    reference = reference_of(nano_checkpoint, model)
    picture = drawing(*SMALL)
    expected = teacher_forced(recognizer, reference, labels, picture, batch=27)
    assert len(expected) == 81
    np.testing.assert_allclose(recognizer.evidence(picture).log_probs, expected, atol=EXACT)
    assert_best_is_full(recognizer, picture)


@pytest.fixture(scope="module")
def qwen(qwen_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, HuggingFace]:
    """A random model with the whole Qwen vocabulary: its bundle, and transformers on it."""
    folder = tmp_path_factory.mktemp("qwen")
    checkpoint, model = with_qwen_vocabulary(folder / "checkpoint", qwen_tokenizer)
    bundle = export_checkpoint(ExportConfig(checkpoint, folder / "bundle", precision="fp32", proof=False, quiet=True))
    return bundle, reference_of(checkpoint, model)


def real_names(kind: str) -> LabelSet:
    folder = Path(__file__).resolve().parents[4] / "shared" / "fine-r1" / "eval"
    files = [folder / f"{kind}_{split}.jsonl" for split in ("seen", "unseen")]
    if not all(file.is_file() for file in files):
        pytest.skip(f"no {files[0].name} in ../shared/fine-r1/eval beside the repository")
    lines = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return LabelSet.from_names(sorted({line["ground_truth"] for line in lines}))


@pytest.mark.parametrize(("kind", "count"), [("bird", 200), ("car", 196)])
def test_real_class_lists_in_the_qwen_vocabulary_are_scored_as_transformers_does(
    qwen: tuple[Path, HuggingFace], kind: str, count: int
) -> None:
    labels = real_names(kind)
    assert len(labels) == count
    recognizer = Recognizer(qwen[0], labels, threads=1)
    picture = drawing(*SMALL)
    expected = teacher_forced(recognizer, qwen[1], labels, picture, batch=8)
    found = recognizer.evidence(picture).log_probs
    np.testing.assert_allclose(found, expected, atol=EXACT)
    assert_best_is_full(recognizer, picture, (10,), found)


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_names_are_scored_as_transformers_does(tiny_models: TinyModels, count: int) -> None:
    reference = reference_of(tiny_models.checkpoint("qwen2.5"), tiny_models.model("qwen2.5"))
    labels = names_of(count)
    recognizer = opened(tiny_models, "qwen2.5", labels)
    picture = drawing(*SMALL)
    expected = teacher_forced(recognizer, reference, labels, picture, batch=100)
    found = recognizer.evidence(picture).log_probs
    np.testing.assert_allclose(found, expected, atol=EXACT)
    assert_best_is_full(recognizer, picture, (10,), found)


def test_a_single_label_is_certain(tiny_models: TinyModels) -> None:
    recognizer = opened(tiny_models, "qwen2.5", LabelSet.from_names(["Kiwi"]))
    for mode in ("direct", "reason"):
        found = recognizer(drawing(*SMALL), mode=mode, think_budget=3)
        assert (found.label, found.top_k) == ("Kiwi", (("Kiwi", pytest.approx(1.0)),))


# Best first on real graphs


@pytest.mark.parametrize("shape", SHAPES)
def test_best_first_is_the_full_scores_for_many_pictures(tiny_models: TinyModels, shape: str) -> None:
    recognizer = opened(tiny_models, shape, names_of(60))
    for seed in range(6):
        assert_best_is_full(recognizer, drawing(*SMALL, seed))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.0])
def test_best_first_follows_the_calibration(tiny_models: TinyModels, temperature: float) -> None:
    labels = LabelSet(tuple(Label(name, synonyms=(name[::-1] + "!",)) for name in names_of(40).names))
    recognizer = opened(tiny_models, "qwen2.5", labels)
    rng = np.random.default_rng(0)
    confidence = dataclasses.replace(Confidence.uncalibrated(40), temperature=temperature, bias=rng.normal(0, 2, 40))
    for seed in range(4):
        picture = drawing(*SMALL, seed)
        shares = confidence.probabilities(recognizer.evidence(picture).log_probs)
        for top_k in (1, 3, 10):
            found, _ = best(recognizer, picture, confidence, top_k=top_k)
            known = confidence.probabilities(found.log_probs) * (1 - found.rest)
            first = np.argsort(-known, kind="stable")[:top_k]
            np.testing.assert_array_equal(first, np.argsort(-shares, kind="stable")[:top_k])
            assert (known <= shares + 1e-5).all() and (shares <= known + found.rest + 1e-5).all()


def test_where_best_first_runs_out_of_room_everything_is_scored(
    tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fgr_edge.runtime.label_trie.label_scorer.BEST_FIRST_NODES", 8)
    recognizer = opened(tiny_models, "qwen2.5", names_of(60))
    picture = drawing(*SMALL)
    found, _ = best(recognizer, picture, tolerance=0.0)
    assert found.rest == 0.0
    np.testing.assert_allclose(found.log_probs, recognizer.evidence(picture).log_probs, atol=1e-5)


# The order of the labels, and what is left behind


@pytest.mark.parametrize("mode", ["direct", "reason"])
def test_the_order_of_the_labels_changes_no_bit(tiny_models: TinyModels, mode: Mode) -> None:
    picture = drawing(*SMALL)
    rows = (*ODD.labels, *names_of(50).labels)
    full = opened(tiny_models, "qwen2.5", LabelSet(rows)).evidence(picture, mode=mode, think_budget=5)
    answer = opened(tiny_models, "qwen2.5", LabelSet(rows))(picture, mode=mode, think_budget=5, top_k=9)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(rows))
        recognizer = opened(tiny_models, "qwen2.5", LabelSet(tuple(rows[i] for i in order)))
        found = recognizer.evidence(picture, mode=mode, think_budget=5)
        np.testing.assert_array_equal(found.log_probs, full.log_probs[order])
        other = recognizer(picture, mode=mode, think_budget=5, top_k=9)
        assert [name for name, _ in other.top_k] == [name for name, _ in answer.top_k]
        assert [p for _, p in other.top_k] == pytest.approx([p for _, p in answer.top_k], rel=1e-12)
        assert other.timings.scored_tokens == answer.timings.scored_tokens


@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
def test_decoding_after_scoring_equals_decoding_without_bitwise(tiny_models: TinyModels, shape: str) -> None:
    recognizer = opened(tiny_models, shape, ODD)
    scorer = recognizer._scorer
    assert scorer is not None
    picture = drawing(200, 150)
    context = recognizer._reader.read(picture, Request(), scorer)
    logits, length = context.logits.copy(), recognizer.model.decoder.length
    expected = [recognizer.model.extend([token]).copy() for token in (20, 30, 40)]
    for score in (scorer.all, partial(scorer.best, confidence=Confidence.uncalibrated(len(ODD)))):
        recognizer.model.decoder.rewind(length)
        score(DIRECT, logits, recognizer.model.extend)
        assert recognizer.model.decoder.length == length
        for token, row in zip((20, 30, 40), expected, strict=True):
            np.testing.assert_array_equal(recognizer.model.extend([token]), row)


def test_pictures_one_after_another_are_scored_as_by_a_fresh_scorer(tiny_models: TinyModels) -> None:
    kept = opened(tiny_models, "qwen2.5", ODD)
    for seed, size in enumerate([SMALL, (200, 150), SMALL, (40, 300)]):
        picture = drawing(*size, seed)
        for mode in ("direct", "reason"):
            given: dict[str, Any] = {"mode": mode, "think_budget": 4}
            fresh = opened(tiny_models, "qwen2.5", ODD)
            assert kept(picture, **given).top_k == fresh(picture, **given).top_k
            np.testing.assert_array_equal(
                kept.evidence(picture, **given).log_probs, fresh.evidence(picture, **given).log_probs
            )


# Graphs without tree attention


def test_a_graph_without_tree_attention_gives_the_same_scores(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Target("cpu", lambda plan: OnnxRuntimeDialect(plan, "float32", tree_attention=False), ("fp32",))
    monkeypatch.setitem(TARGETS, "cpu", plain)
    folder = export_checkpoint(
        ExportConfig(tiny_models.checkpoint("qwen2.5"), tmp_path / "b", precision="fp32", proof=False, quiet=True)
    )
    # As bundles were written before: the manifest does not say anything of trees.
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["decoder"].pop("tree_attention") is False
    (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))
    old, new = Recognizer(folder, ODD, threads=1), opened(tiny_models, "qwen2.5", ODD)
    picture = drawing(200, 150)
    for mode in ("direct", "reason"):
        given: dict[str, Any] = {"mode": mode, "think_budget": 4}
        expected = new.evidence(picture, **given).log_probs
        np.testing.assert_allclose(old.evidence(picture, **given).log_probs, expected, atol=EXACT)
        assert old(picture, **given).label == new(picture, **given).label
    assert_best_is_full(old, picture)


@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
def test_bundles_for_cuda_score_within_their_half_precision(tiny_models: TinyModels, shape: str) -> None:
    # The graph of the `cuda` target on the CPU provider: its numerics, not its kernels.
    labels = names_of(20)
    half = Recognizer(tiny_models.bundle(shape, target="cuda"), labels, device="cpu", threads=1)
    assert half.model.decoder.spec.cache_dtype == "float16" and not half.model.decoder.spec.tree_attention
    picture = drawing(*SMALL)
    expected = opened(tiny_models, shape, labels).evidence(picture).log_probs
    found = half.evidence(picture).log_probs
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-2
    assert_best_is_full(half, picture)


# Compiled labels


def test_compiled_sequences_are_used_and_are_what_would_be_compiled(tiny_models: TinyModels, tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(ODD.to_json()), encoding="utf-8")
    folder = export_checkpoint(
        ExportConfig(
            tiny_models.checkpoint("qwen2.5"), tmp_path / "b", precision="fp32", labels=file, proof=False, quiet=True
        )
    )
    recognizer = Recognizer(folder, threads=1)
    stored, encode = recognizer.bundle.labels(), recognizer.model.prompts.encode_text
    assert stored is not None and stored.labels == ODD
    assert stored.compiled == compile_frames(ODD, encode, 2)
    encoded: list[str] = []

    def watched(text: str) -> list[int]:
        encoded.append(text)
        return encode(text)

    scorer = LabelScorer(
        recognizer.model.decoder, recognizer.model.embedding.gather, watched, stored.labels, 2, stored.compiled
    )
    fresh = LabelScorer(recognizer.model.decoder, recognizer.model.embedding.gather, encode, ODD, 2)
    for frame in (DIRECT, REASONED):
        found = []
        for one in (scorer, fresh):
            logits = recognizer._reader.read(drawing(*SMALL), Request(), one).logits
            found.append(one.all(frame, logits, recognizer.model.extend).log_probs)
        np.testing.assert_array_equal(found[0], found[1])
    assert encoded == [REASONED.lead], "no name was encoded"


def test_names_with_the_same_tokens_are_refused_at_the_start_and_both_named(tiny_models: TinyModels) -> None:
    recognizer = opened(tiny_models, "qwen2.5")
    labels = LabelSet.from_names(["Creme brulee", "Gala", "Crème brûlée"])

    def without_accents(text: str) -> list[int]:
        plain = text.translate(str.maketrans("èûé", "eue"))
        return recognizer.model.prompts.encode_text(plain)

    with pytest.raises(LabelError, match=r"labels 'Cr.me br.l.e' and 'Cr.me br.l.e' cannot be told apart") as caught:
        LabelScorer(recognizer.model.decoder, recognizer.model.embedding.gather, without_accents, labels, 2)
    assert "'Creme brulee'" in str(caught.value) and "'Crème brûlée'" in str(caught.value)


@pytest.mark.slow
def test_100_000_names_are_scored_in_a_bounded_memory(tiny_models: TinyModels, tmp_path: Path) -> None:
    import subprocess
    import sys

    file = tmp_path / "labels.txt"
    file.write_text("\n".join(names_of(100_000).names))
    script = (
        "import sys; from fgr_edge import Recognizer; import numpy as np\n"
        # Not ru_maxrss: a child starts with its parent's.
        "status = lambda: open('/proc/self/status').read()\n"
        "peak = lambda: int(status().split('VmHWM:')[1].split()[0]) * 1024\n"
        "r = Recognizer(sys.argv[1], ['one', 'two'], threads=1); picture = np.zeros((60, 60, 3), np.uint8)\n"
        "r(picture); r.evidence(picture); before = peak()\n"
        "r = Recognizer(sys.argv[1], sys.argv[2], threads=1)\n"
        "found = r(picture); e = r.evidence(picture)\n"
        "print(len(e.log_probs), np.isfinite(e.log_probs).all(), found.label in r.labels.names, peak() - before)"
    )
    arguments = [sys.executable, "-c", script, str(tiny_models.bundle("qwen2.5")), str(file)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=280)
    count, finite, known, more = done.stdout.split()
    assert (count, finite, known) == ("100000", "True", "True")
    assert int(more) < 300e6, "190 MB seen, 550,000 nodes"
