"""Logits at the nodes of a label trie, below the sequence that the decoder holds.

In: nodes of a trie. Out: their logits, from as few decoder calls as the graph allows. The cache keeps the nodes of one
picture from call to call; `close` forgets them, and the decoder is as it was.

With tree attention one call takes any nodes whose parents have been asked for before or come with it. Without it
(target cuda), each path is a call of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.decoder import Decoder
from fgr_edge.runtime.label_trie.trie import Ints, LabelTrie, Nodes
from fgr_edge.runtime.step_inputs import HIDDEN

Floats = npt.NDArray[np.float32]
Embed = Callable[[Ints], Floats]
"""Nodes [S] to the embeddings [S, H] of their tokens."""


class TreeCalls:
    """Evaluates nodes of one trie; a context manager that leaves the decoder's cache as it found it.

    Args:
        decoder: holds the prompt (and the thought); its cache has room for `room` more tokens.
        embed: gives the nodes' embeddings.
        trie: whose nodes are asked for.
        room: nodes that the cache can hold at once.
    """

    def __init__(self, decoder: Decoder, embed: Embed, trie: LabelTrie, room: int) -> None:
        self._decoder = decoder
        self._embed = embed
        self._trie = trie
        self._start = decoder.length
        self._nodes = np.empty(room, np.int64)  # in the tree's slots
        self._used = 0

    def __enter__(self) -> TreeCalls:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget all nodes."""
        self._decoder.rewind(self._start)
        self._used = 0

    @property
    def left(self) -> int:
        """Nodes that still fit."""
        return len(self._nodes) - self._used

    def logits(self, nodes: Nodes, wanted: Sequence[int] | None = None) -> Iterator[Floats]:
        """Logits of the `wanted` of `nodes` (positions in it; all by default), in their order.

        They come in parts [P, V], some rows after the others, each overwritten by the next: all of them at once can be
        larger than the model.

        Args:
            nodes: inner nodes, parents before their children; the parent of each is the root, among them, or was
                asked for since `close`.
        """
        rows = np.arange(len(nodes)) if wanted is None else np.asarray(wanted, np.int64)
        if not self._decoder.spec.tree_attention:
            for row in rows:
                yield self._along(nodes[row])[None]
            return
        index = np.asarray(nodes, np.int64)
        slots = self._start + self._trie.depths[index] - 1
        yield from self._decoder.branch(self._embed(index), rows, slots, self._place(index))

    def _place(self, nodes: Ints) -> Floats:
        """Give nodes the next slots; what they see [S, W]: prompt, ancestors and themselves.

        W are the tree's slots, and slots of the prompt before them up to a width that recurs.
        """
        before, after = self._used, self._used + len(nodes)
        self._nodes[before:after] = nodes
        self._used = after
        held = self._nodes[:after]
        width = min(1 << (after - 1).bit_length(), self._start + after)
        mask = np.zeros((len(nodes), width), np.float32)
        here = nodes[:, None]
        unseen = (here < held) | (here >= self._trie.ends[held])
        np.multiply(unseen, HIDDEN, out=mask[:, width - after :])
        return mask

    def _along(self, node: int) -> Floats:
        """Logits [V] of one node, its whole path decoded."""
        path = np.asarray(self._trie.path(node), np.int64)
        logits = self._decoder.forward(self._embed(path), np.array([len(path) - 1]))
        self._decoder.rewind(self._start)
        row: Floats = logits[0].copy()
        return row
