"""Log-probabilities of labels: of all of them, or of the likeliest with a bound on the rest.

In: a label trie, the logits where it starts, calls that give logits at its nodes. Out: for every form the
log-probability of all its tokens, closing token included, each over the whole vocabulary: what teacher forcing one
label after another would give. Knows tokens; not text, not pictures, not calibration.

`score_all` visits every inner node, in chunks of consecutive preorder nodes; the ancestors of a chunk's first node are
computed again with it, so that nothing is kept between chunks and memory does not grow with the number of labels.
They come on top of the chunk: they get no logits, and one long name must not make every chunk small.

`score_best` visits the nodes that can still matter. What has not been visited below a node has at most the node's own
probability in all, because the children of a node share it: that bounds what is left, without a look at it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import EngineError
from fgr_edge.runtime.decoder import NOT_FINITE
from fgr_edge.runtime.threads import in_threads
from fgr_edge.runtime.tree_calls import TreeCalls
from fgr_edge.runtime.trie import Ints, LabelTrie

Logits = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

CACHED_VALUES = 1 << 17
WORTH_THREADS = 1 << 22  # logits of one call; the exponentials of fewer are done before a thread has started
ADDED_SINGLY = 16  # values that are added in float32 before float64 takes over: twice as fast, 1e-7 from exact
MAX_CHUNK = 512  # nodes of one call at most
CHUNK_LOGITS_BYTES = 64 * 1024 * 1024
BATCHES = (
    1,
    2,
    3,
    4,
    6,
    8,
    12,
    16,
    24,
    32,
    64,
    128,
)  # nodes of a best-first call: few shapes, so that calls stay bound
MIN_BATCH = 4  # fewer cost as much: a call reads all weights whatever it computes
USUAL_BATCH = 32  # more at once only where more are known to be needed: what is looked at ahead may be for nothing
BEST_FIRST_NODES = 1024  # visited by `score_best` at most


def chunk_nodes(vocab: int) -> int:
    """Nodes of one call whose logits stay within `CHUNK_LOGITS_BYTES`."""
    return max(16, min(MAX_CHUNK, CHUNK_LOGITS_BYTES // (4 * vocab)))


def chunk_room(chunk: int, deepest: int) -> int:
    """Nodes that `score_all` asks for at once at most, ancestors included."""
    return chunk + deepest


def log_normalizers(logits: Logits, threads: int = 1) -> Floats:
    """Log of the sum of exponentials of each row: [R, V] -> [R] float64. Threads change no value.

    Raises:
        EngineError: a logit is not a number, or +inf.
    """
    if threads < 2 or logits.size < WORTH_THREADS:
        return _log_normalizers(logits)
    parts = np.array_split(logits, min(threads, len(logits)))
    found: list[Floats] = [np.empty(0)] * len(parts)

    def part(number: int) -> None:
        found[number] = _log_normalizers(parts[number])

    in_threads(part, range(len(parts)), threads)
    return np.concatenate(found)


def _log_normalizers(logits: Logits) -> Floats:
    count, vocab = logits.shape
    found, added = np.empty(count), math.gcd(vocab, ADDED_SINGLY)
    rows = max(1, CACHED_VALUES // vocab)  # as many as stay in the processor's cache
    shifted = np.empty((min(rows, count), vocab), np.float32)
    for start in range(0, count, rows):
        part = logits[start : start + rows]
        values, top = shifted[: len(part)], part.max(axis=1)
        with np.errstate(invalid="ignore"):  # infinities are found below
            np.subtract(part, top[:, None], out=values)
        np.exp(values, out=values)
        sums = values.reshape(len(part), added, -1).sum(axis=1).sum(axis=1, dtype=np.float64)
        found[start : start + rows] = top + np.log(sums)
    if not np.isfinite(found).all():
        raise EngineError(NOT_FINITE)
    return found


def score_all(trie: LabelTrie, root_logits: Logits, calls: TreeCalls, chunk: int, threads: int = 1) -> Floats:
    """Log-probability [F] of every form; the decoder's cache is left as it was.

    Args:
        chunk: nodes of one call that get logits; `calls` need room for `chunk_room` of it.
        threads: for what is done with the logits.
    """
    edges = np.zeros(len(trie))
    _set_edges(trie, edges, [0], root_logits[None], threads)
    for nodes, again in _chunks(trie, chunk):
        logits = calls.logits(nodes, range(again, len(nodes)))
        _set_edges(trie, edges, nodes[again:], logits, threads)
        calls.close()
    totals = np.zeros(len(trie))
    for level in trie.levels:
        totals[level] = totals[trie.parents[level]] + edges[level]
    return totals[trie.leaf_of]


def _chunks(trie: LabelTrie, chunk: int) -> Iterator[tuple[list[int], int]]:
    """Inner nodes in runs of about equal length, after the ancestors of the first that were in an earlier run."""
    inner = trie.inner
    runs = -(-len(inner) // chunk)
    for run in np.array_split(inner, runs) if runs else ():
        ancestors = trie.path(int(run[0]))[:-1]
        yield [*ancestors, *run.tolist()], len(ancestors)


def _set_edges(trie: LabelTrie, edges: Floats, nodes: Sequence[int], logits: Logits, threads: int) -> None:
    """Log-probability of each child of `nodes` given its parent, from the parents' logits [R, V]."""
    children, owner = trie.children_of_all(nodes)
    edges[children] = logits[owner, trie.tokens[children]] - log_normalizers(logits, threads)[owner]


def add_forms(form_log_probs: Floats, class_of: Ints, classes: int) -> Floats:
    """Forms [F] added up to classes [C]; -inf where no form was scored."""
    found = np.full(classes, -np.inf)
    np.logaddexp.at(found, class_of, form_log_probs)
    return found


@dataclass(frozen=True, slots=True)
class Weighting:
    """How probabilities of forms become shares of classes: softmax((log p - bias) / temperature).

    Attributes:
        class_of: [F], the class of each form.
        bias: [C].
        temperature: above 0.
        lowest_bias: [N], of the classes below each node of the trie.
    """

    class_of: Ints
    bias: Floats
    temperature: float
    lowest_bias: Floats

    @classmethod
    def build(cls, trie: LabelTrie, class_of: Ints, bias: Floats, temperature: float) -> Weighting:
        """Prepare a trie's classes; once for all pictures."""
        lowest = np.full(len(trie), np.inf)
        lowest[trie.leaf_of] = bias[class_of]
        for nodes in trie.levels[::-1]:
            np.minimum.at(lowest, trie.parents[nodes], lowest[nodes])
        return cls(class_of, bias, temperature, lowest)

    def class_log_probs(self, form_log_probs: Floats) -> Floats:
        """Forms [F] added up to classes [C]; -inf where no form was scored."""
        return add_forms(form_log_probs, self.class_of, len(self.bias))


@dataclass(frozen=True, slots=True)
class BestScores:
    """log_probs [F], -inf where not visited; rest: upper bound of the share of all that was not; nodes: visited."""

    log_probs: Floats
    rest: float
    nodes: int


def score_best(
    trie: LabelTrie,
    root_logits: Logits,
    calls: TreeCalls,
    weighting: Weighting,
    *,
    top_k: int,
    tolerance: float,
    most: int = BEST_FIRST_NODES,
) -> BestScores | None:
    """Scores until the first `top_k` classes are certain and the rest has at most `tolerance` of the shares.

    Returns:
        None when more nodes are needed than the calls have room for, or more than `most`: score all instead.
    """
    search = _Search(trie, weighting, top_k, tolerance)
    search.visit([0], root_logits[None])
    while not search.done():
        needed = search.needed()
        if needed > calls.left or search.nodes - 1 + needed > most:
            return None
        batch = search.batch(min(calls.left, max(USUAL_BATCH, needed)))
        if not batch:
            return None
        search.visit(batch, calls.logits(batch))
    return BestScores(search.log_probs, search.rest, search.nodes - 1)


class _Search:
    """The frontier of a best-first search: nodes whose probability is known and whose children's are not."""

    def __init__(self, trie: LabelTrie, weighting: Weighting, top_k: int, tolerance: float) -> None:
        self._trie = trie
        self._weighting = weighting
        self._top_k = min(top_k, len(weighting.bias))
        self._tolerance = tolerance
        self._reach = np.zeros(len(trie))  # log-probability of every node seen
        self._frontier: set[int] = set()
        self.log_probs = np.full(len(trie.leaf_of), -np.inf)
        self.rest = 1.0
        self._left = np.zeros(0)  # log of what each frontier node can still give, bias off at its most favourable
        self._spare = 0.0  # weight that may stay unvisited
        self.nodes = 0

    def visit(self, nodes: Sequence[int], logits: Logits) -> None:
        """Take in the logits [R, V] of nodes, parents before children."""
        trie = self._trie
        children, owner = trie.children_of_all(nodes)
        gains = logits[owner, trie.tokens[children]] - log_normalizers(logits)[owner]
        ends = np.searchsorted(owner, np.arange(1, len(nodes) + 1)).tolist()
        start = 0
        for node, end in zip(nodes, ends, strict=True):  # a parent's value first
            self._reach[children[start:end]] = self._reach[node] + gains[start:end]
            start = end
        forms = trie.form_of[children]
        leaves = forms >= 0
        self.log_probs[forms[leaves]] = self._reach[children[leaves]]
        self._frontier.update(children[~leaves].tolist())
        self._frontier.difference_update(nodes)
        self.nodes += len(nodes)

    def done(self) -> bool:
        """Whether the order of the first classes is certain and the rest small; sets what a round goes by."""
        weighting = self._weighting
        known = weighting.class_log_probs(self.log_probs) - weighting.bias
        nodes = np.fromiter(self._frontier, np.int64, len(self._frontier))
        left = self._left = self._reach[nodes] - weighting.lowest_bias[nodes]
        self._spare = self._tolerance * float(np.exp(left).sum() + np.exp(known).sum())
        self.rest = _rest_share(known, left, self._trie.forms_below[nodes], weighting.temperature)
        return self.rest <= self._tolerance and self._is_ordered(known, _log_sum(left))

    def _is_ordered(self, known: Floats, left: float) -> bool:
        """Whether each of the first classes beats what any class after it could still become."""
        growing = np.zeros(len(known), np.bool_)  # classes with forms that were not visited
        growing[self._weighting.class_of[np.isneginf(self.log_probs)]] = True
        order = np.argsort(-known, kind="stable")
        largest = np.where(growing, np.logaddexp(known, left), known)[order]
        after = np.append(np.maximum.accumulate(largest[::-1])[::-1], -np.inf)[1:]
        return bool((known[order] >= after)[: self._top_k].all())

    def needed(self) -> int:
        """About how many nodes must be visited yet, at least: those too likely to be left out together."""
        shares = np.sort(np.exp(self._left))
        return len(shares) - int(np.searchsorted(np.cumsum(shares), self._spare, side="right"))

    def batch(self, room: int) -> list[int]:
        """The nodes to visit next: the likeliest of the frontier, and below them what probably follows."""
        trie, lowest = self._trie, self._weighting.lowest_bias
        queue = [(lowest[node] - self._reach[node], node) for node in self._frontier]
        heapq.heapify(queue)
        missing, small = float(np.exp(self._left).sum()), 0.5 * self._spare
        batch: list[int] = []
        while queue and len(batch) < min(room, BATCHES[-1]):
            value, node = heapq.heappop(queue)
            share = math.exp(-value)
            enough = missing <= small and share <= small
            if enough and len(batch) >= MIN_BATCH and len(batch) in BATCHES:
                return batch
            batch.append(node)
            if node in self._frontier:
                missing -= share
            # Not known before the call: as if the children shared evenly what the node has.
            children = trie.children_of(node)
            even = value + math.log(len(children))
            for child in children[trie.form_of[children] < 0].tolist():
                heapq.heappush(queue, (even, child))
        return batch[: max(size for size in (0, *BATCHES) if size <= len(batch))] if queue else batch


def _log_sum(values: Floats) -> float:
    return float(np.logaddexp.reduce(values)) if len(values) else -np.inf


def _rest_share(known: Floats, left: Floats, forms: Ints, temperature: float) -> float:
    """Upper bound of the share of all that was not visited.

    Shares go with weight ** p, p = 1 / temperature. For p >= 1 Minkowski's inequality bounds the sum over classes:
    |known + rest|_p <= |known|_p + sum(rest). For p < 1 powers add up at most, and a node's weight counts most when its
    forms share it evenly: forms ** (1 - p) * weight ** p.

    Args:
        known: [C], log weight of each class so far. left, forms: log weight of each frontier node, forms below it.
    """
    if not len(left):
        return 0.0
    top = max(known.max(), left.max())
    power = 1 / temperature
    have = np.exp(power * (known - top)).sum()
    if power >= 1:
        norm = have**temperature
        all_of_it = (norm + np.exp(left - top).sum()) ** power
        return float(1 - have / all_of_it)
    more = (forms ** (1 - power) * np.exp(power * (left - top))).sum()
    return float(more / (have + more))
