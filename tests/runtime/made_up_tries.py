"""Tries of made-up tokens, and calls over tables of logits that are as strict as those of a decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fgr_edge.runtime.label_trie.best_first import BEST_FIRST_NODES
from fgr_edge.runtime.label_trie.trie import LabelTrie

VOCAB = 24
END = 0
PART = 5  # rows that calls give at once, in memory that they use again


class MadeUpCalls:
    """`TreeCalls` over a table of logits instead of a decoder; as strict about what may be asked for when.

    Args:
        table: [N, V], of each node.
        room: nodes held until `close`.
    """

    def __init__(self, trie: LabelTrie, table: np.ndarray, room: int = BEST_FIRST_NODES) -> None:
        self.trie, self.table, self.room = trie, table, room
        self.held: set[int] = set()
        self.calls: list[int] = []

    @property
    def left(self) -> int:
        return self.room - len(self.held)

    def close(self) -> None:
        self.held.clear()

    def logits(self, nodes: Sequence[int], wanted: Sequence[int] | None = None) -> Iterator[np.ndarray]:
        assert len(nodes) <= self.left
        for node in nodes:
            assert node in self.trie.inner, "leaves and the root need no logits"
            assert node not in self.held, "asked for twice"
            assert self.trie.parents[node] in self.held | {0}, "a child before its parent"
            self.held.add(node)
        self.calls.append(len(nodes))
        rows = list(nodes) if wanted is None else [nodes[i] for i in wanted]
        part = np.empty((PART, self.table.shape[1]), np.float32)
        for start in range(0, len(rows), PART):
            some = part[: len(rows[start : start + PART])]
            some[...] = self.table[rows[start : start + PART]]
            yield some


def random_trie(rng: np.random.Generator, forms: int, tokens: int = 6) -> LabelTrie:
    """Sequences of up to five of a few tokens, so that many begin alike."""
    sequences: set[tuple[int, ...]] = set()
    while len(sequences) < forms:
        sequences.add(tuple(rng.integers(1, 1 + tokens, rng.integers(1, 6)).tolist()))
    return LabelTrie.build([[*ids, END] for ids in sorted(sequences)], [""] * forms)


def random_table(rng: np.random.Generator, trie: LabelTrie, sharpness: float) -> np.ndarray:
    """Logits of every node; 0 is flat, 8 is sure of itself."""
    return (sharpness * rng.standard_normal((len(trie), VOCAB))).astype(np.float32)


def tables_with(value: float) -> Iterator[tuple[LabelTrie, np.ndarray]]:
    """A trie and its table, one logit of which is `value`: at the root, at the first inner node, at the last."""
    rng = np.random.default_rng(0)
    trie = random_trie(rng, 20)
    for node in (0, int(trie.inner[0]), int(trie.inner[-1])):
        table = random_table(rng, trie, 1.0)
        table[node, 3] = value
        yield trie, table


def one_by_one(trie: LabelTrie, table: np.ndarray) -> np.ndarray:
    """Log-probability of each form, token after token, in float64."""
    rows = table.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return np.array([sum(rows[trie.parents[n], trie.tokens[n]] for n in trie.path(int(leaf))) for leaf in trie.leaf_of])
