"""Logits at the nodes of a trie, on real graphs: in one call as in many, as one path after another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fgr_edge.runtime.label_trie.tree_calls import TreeCalls
from fgr_edge.runtime.label_trie.trie import LabelTrie
from fgr_edge.runtime.recognizer import Recognizer

pytest.importorskip("transformers")

from tests.tiny import feed, prefill, relative

if TYPE_CHECKING:
    from tests.tiny import TinyModels

SHAPES = ["qwen2.5", "qwen2.5-untied", "qwen3"]
GRID = (10, 6)
LOGITS = 1e-4
ROOM = 64


def opened(path: Path) -> Recognizer:
    return Recognizer(path, device="cpu", threads=1)


def trie_of(seed: int = 0, forms: int = 12) -> LabelTrie:
    rng = np.random.default_rng(seed)
    sequences = {(*rng.integers(6, 10, rng.integers(1, 5)).tolist(), 2) for _ in range(3 * forms)}
    return LabelTrie.build(sorted(sequences)[:forms], [""] * forms)


def along_paths(recognizer: Recognizer, trie: LabelTrie, nodes: list[int]) -> np.ndarray:
    """Each node's path as text of its own."""
    start = recognizer.model.decoder.length
    rows = []
    for node in nodes:
        rows.append(recognizer.model.extend(trie.tokens[trie.path(node)].tolist()).copy())
        recognizer.model.decoder.rewind(start)
    return np.stack(rows)


def ready(models: TinyModels, shape: str, target: str = "cpu") -> Recognizer:
    """A recognizer whose cache holds a picture."""
    recognizer = opened(models.bundle(shape, "fp32", target))
    prefill(recognizer, feed(recognizer, models.reference(shape, GRID)))
    return recognizer


def calls_of(recognizer: Recognizer, trie: LabelTrie, room: int = ROOM) -> TreeCalls:
    return TreeCalls(
        recognizer.model.decoder, lambda nodes: recognizer.model.embedding.gather(trie.tokens[nodes]), trie, room
    )


def together(calls: TreeCalls, nodes: list[int], wanted: list[int] | None = None) -> np.ndarray:
    """Logits of all parts."""
    return np.concatenate([part.copy() for part in calls.logits(nodes, wanted)])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_whole_trie_in_one_call_equals_one_path_after_another(tiny_models: TinyModels, shape: str) -> None:
    recognizer = ready(tiny_models, shape)
    for seed in range(3):
        trie = trie_of(seed)
        nodes = trie.inner.tolist()
        expected = along_paths(recognizer, trie, nodes)
        with calls_of(recognizer, trie) as calls:
            assert relative(together(calls, nodes), expected) < LOGITS


@pytest.mark.parametrize("shape", SHAPES)
def test_nodes_in_many_calls_in_any_order_equal_one_call(tiny_models: TinyModels, shape: str) -> None:
    recognizer = ready(tiny_models, shape)
    trie = trie_of(7)
    rng = np.random.default_rng(0)
    expected = dict(zip(trie.inner.tolist(), along_paths(recognizer, trie, trie.inner.tolist()), strict=True))
    with calls_of(recognizer, trie) as calls:
        for _ in range(2):  # and again after all is forgotten
            waiting, known = list(expected), {0}
            while waiting:
                batch: list[int] = []
                for node in rng.permutation(waiting).tolist():
                    if int(trie.parents[node]) in known and len(batch) < rng.integers(1, 6):
                        batch.append(node)
                        known.add(node)
                waiting = [node for node in waiting if node not in batch]
                left = calls.left
                found = together(calls, batch)
                assert calls.left == left - len(batch)
                assert relative(found, np.stack([expected[node] for node in batch])) < LOGITS
            calls.close()
            assert calls.left == ROOM


def test_only_the_rows_that_are_wanted_are_computed(tiny_models: TinyModels) -> None:
    recognizer = ready(tiny_models, "qwen2.5")
    trie = trie_of(3)
    nodes = trie.inner.tolist()
    with calls_of(recognizer, trie) as calls:
        every = together(calls, nodes)
        calls.close()
        found = together(calls, nodes, [1, len(nodes) - 1])
        assert found.shape == (2, 320)
        np.testing.assert_allclose(found, every[[1, -1]], atol=1e-5)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
def test_decoding_after_a_tree_equals_decoding_without_bitwise(
    tiny_models: TinyModels, shape: str, target: str
) -> None:
    recognizer = ready(tiny_models, shape, target)
    decoder, trie = recognizer.model.decoder, trie_of(1)
    length = decoder.length
    expected = [recognizer.model.extend([token]).copy() for token in (20, 30, 40)]
    decoder.rewind(length)
    with calls_of(recognizer, trie) as calls:
        together(calls, trie.inner.tolist())
    assert decoder.length == length
    for token, row in zip((20, 30, 40), expected, strict=True):
        np.testing.assert_array_equal(recognizer.model.extend([token]), row)


def test_an_error_inside_leaves_the_cache_as_it_was(tiny_models: TinyModels) -> None:
    recognizer = ready(tiny_models, "qwen2.5")
    length = recognizer.model.decoder.length
    with pytest.raises(ZeroDivisionError), calls_of(recognizer, trie_of()) as calls:
        together(calls, trie_of().inner[:2].tolist())
        raise ZeroDivisionError
    assert recognizer.model.decoder.length == length


def test_without_tree_attention_the_paths_give_the_same_logits(tiny_models: TinyModels) -> None:
    # The cache of target cuda is float16: its own paths are what it is compared with, and the cpu's with less.
    recognizer, cpu = ready(tiny_models, "qwen2.5", "cuda"), ready(tiny_models, "qwen2.5")
    assert not recognizer.model.decoder.spec.tree_attention and cpu.model.decoder.spec.tree_attention
    trie = trie_of(5)
    nodes = trie.inner.tolist()
    with calls_of(recognizer, trie) as calls, calls_of(cpu, trie) as tree:
        found = together(calls, nodes)
        np.testing.assert_array_equal(found, along_paths(recognizer, trie, nodes))
        assert relative(found, together(tree, nodes)) < 1e-2
