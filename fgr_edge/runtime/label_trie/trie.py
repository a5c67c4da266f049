"""The token sequences of all labels, merged by common beginnings into arrays.

In: the token ids of every form (a text that names a class), closing token included. Out: nodes in preorder, children in
the order of their tokens, so that the order of the forms changes nothing. Knows token ids; not text, not classes, not
the model.

A node stands for the tokens on the way to it. The root (node 0) is what came before: its logits are known. Nodes with
children ("inner") need logits of their own; leaves, one for each form, do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import LabelError

Ints = npt.NDArray[np.int64]
Nodes = Sequence[int] | Ints


@dataclass(frozen=True, slots=True)
class LabelTrie:
    """A compiled label set; make one with `LabelTrie.build`.

    Attributes:
        tokens: [N], the token that leads to each node; -1 at the root.
        parents: [N]; -1 at the root.
        depths: [N], tokens on the way; 0 at the root.
        leaf_of: [F], the leaf of each form; form_of: [N], the form of each leaf, -1 at inner nodes.
        children: [N - 1], all nodes but the root, grouped by parent.
        first_child: [N + 1], where each node's group starts in `children`.
        forms_below: [N], leaves below or at each node.
        ends: [N], the node after the last one below each: what lies below node n is n + 1 to ends[n] - 1.
        inner: nodes that need logits of their own, in preorder: all with children but the root.
        levels: the nodes of each depth from 1 on.
    """

    tokens: Ints
    parents: Ints
    depths: Ints
    leaf_of: Ints
    form_of: Ints
    children: Ints
    first_child: Ints
    forms_below: Ints
    ends: Ints
    inner: Ints
    levels: tuple[Ints, ...]

    @classmethod
    def build(cls, sequences: Sequence[Sequence[int]], names: Sequence[str]) -> LabelTrie:
        """Merge token sequences; `names` are the forms' texts, for messages.

        Raises:
            LabelError: a sequence is empty, equals another, or goes on where another ends.
        """
        order = sorted(range(len(sequences)), key=lambda form: list(sequences[form]))
        tokens, parents, depths = [-1], [-1], [0]
        leaf_of = np.zeros(len(sequences), np.int64)
        path = [0]  # nodes on the way to the last leaf
        previous: Sequence[int] = ()  # and its tokens
        last = ""
        for form in order:
            sequence = sequences[form]
            shared = _common(previous, sequence)
            if shared == len(sequence) or (previous and shared == len(previous)):
                raise LabelError(
                    f"labels {last!r} and {names[form]!r} cannot be told apart by their tokens; "
                    "expected names that differ"
                )
            del path[shared + 1 :]
            for token in sequence[shared:]:
                tokens.append(token)
                parents.append(path[-1])
                depths.append(len(path))
                path.append(len(tokens) - 1)
            leaf_of[form] = path[-1]
            previous, last = sequence, names[form]
        return cls._arranged(np.array(tokens), np.array(parents), np.array(depths), leaf_of)

    @classmethod
    def _arranged(cls, tokens: Ints, parents: Ints, depths: Ints, leaf_of: Ints) -> LabelTrie:
        count = len(tokens)
        children = np.argsort(parents[1:], kind="stable") + 1
        first_child = np.searchsorted(parents[1:][children - 1], np.arange(count + 1))
        form_of = np.full(count, -1, np.int64)
        form_of[leaf_of] = np.arange(len(leaf_of))
        forms_below = np.zeros(count, np.int64)
        forms_below[leaf_of] = 1
        levels = tuple(np.flatnonzero(depths == depth) for depth in range(1, int(depths.max()) + 1))
        ends = np.arange(1, count + 1)
        for nodes in levels[::-1]:
            np.add.at(forms_below, parents[nodes], forms_below[nodes])
            np.maximum.at(ends, parents[nodes], ends[nodes])
        inner = np.flatnonzero(np.diff(first_child) > 0)[1:]
        return cls(tokens, parents, depths, leaf_of, form_of, children, first_child, forms_below, ends, inner, levels)

    def __len__(self) -> int:
        """Nodes, the root and the leaves among them."""
        return len(self.tokens)

    def children_of(self, node: int) -> Ints:
        """Children of a node, in the order of their tokens."""
        return self.children[self.first_child[node] : self.first_child[node + 1]]

    def children_of_all(self, nodes: Nodes) -> tuple[Ints, Ints]:
        """Children [E] of several nodes, one node's after another's, and for each the position [E] of its parent."""
        index = np.asarray(nodes, np.int64)
        first = self.first_child[index]
        counts = self.first_child[index + 1] - first
        owner = np.repeat(np.arange(len(index)), counts)
        before = np.cumsum(counts) - counts
        return self.children[np.arange(len(owner)) + (first - before)[owner]], owner

    def path(self, node: int) -> list[int]:
        """Nodes from below the root down to `node`."""
        nodes: list[int] = []
        while node > 0:
            nodes.append(node)
            node = int(self.parents[node])
        return nodes[::-1]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
