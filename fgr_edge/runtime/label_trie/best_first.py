"""The likeliest labels of a trie, with a bound on the rest: only the nodes that can still matter are visited.

In: a label trie, the logits where it starts, calls that give logits at its nodes, how forms count. Out: log-probability
of every form that was visited, as `score_all` gives it, and an upper bound of the share of all others. Knows tokens;
not text, not pictures.

What has not been visited below a node has at most the node's own probability in all, because the children of a node
share it: that bounds what is left, without a look at it. Nodes are visited in rounds, one call of the decoder each. A
call costs as much as some twenty nodes whatever it computes, so that a round also takes what will probably be needed
after it: the likeliest below its nodes, as if a node's children shared evenly what the trie has kept so far of a
node's probability. A model that is sure of a name keeps nearly all of it at every token; one that is not loses most of
it to texts that are no names, and then much less has to be looked at ahead.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fgr_edge.runtime.label_trie.label_scores import Floats, Logits, add_forms, edge_log_probs
from fgr_edge.runtime.label_trie.tree_calls import TreeCalls
from fgr_edge.runtime.label_trie.trie import Ints, LabelTrie

BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # nodes of a round: few shapes, so that calls stay bound
MIN_BATCH = 4  # fewer cost as much: a call reads all weights whatever it computes
USUAL_BATCH = 32  # more at once only where more are known to be needed: what is looked at ahead may be for nothing
BEST_FIRST_NODES = 1024  # visited at most
WORTH_SEARCHING = 0.25  # of a trie that has more nodes than there is room: a model that needs more is unsure of all
PRIOR = 0.05  # of the first tokens' probability: how much of it must be visited before what is seen outweighs a guess


@dataclass(frozen=True, slots=True)
class Weighting:
    """How probabilities of forms become shares of classes: softmax((log p - bias) / temperature).

    Attributes:
        class_of: [F], the class of each form.
        forms: [C], how many forms each class has.
        bias: [C].
        temperature: above 0.
        lowest_bias: [N], of the classes below each node of the trie.
    """

    class_of: Ints
    forms: Ints
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
        return cls(class_of, np.bincount(class_of, minlength=len(bias)), bias, temperature, lowest)

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
    threads: int = 1,
) -> BestScores | None:
    """Scores until the first `top_k` classes are certain and the rest has at most `tolerance` of the shares.

    Returns:
        None when more nodes are needed than the calls have room for, or than is worth it: score all instead.
    """
    inner = len(trie.inner)
    most = inner if inner <= calls.left else WORTH_SEARCHING * inner  # where all fit, nothing is visited twice
    search = _Search(trie, weighting, top_k, tolerance, threads)
    search.visit([0], [root_logits[None]])
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
    """The frontier of a best-first search: nodes whose probability is known and whose children's are not.

    Attributes:
        log_probs: [F], of forms; -inf where not visited.
        rest: upper bound of the share of what was not visited.
        nodes: visited, the root among them.
    """

    def __init__(self, trie: LabelTrie, weighting: Weighting, top_k: int, tolerance: float, threads: int) -> None:
        self._trie = trie
        self._weighting = weighting
        self._bound = _Bound(1 / weighting.temperature, tolerance)
        self._tolerance = tolerance
        self._top_k = min(top_k, len(weighting.bias))
        self._threads = threads
        self._reach = np.zeros(len(trie))  # log-probability of every node seen
        self._frontier: set[int] = set()
        self._known = np.full(len(weighting.bias), -np.inf)  # log weight of classes so far
        self._missing = weighting.forms.copy()  # of each class, not visited
        self._first = self._seen = self._kept = 0.0  # probability of first tokens, nodes visited, and their children
        self._least = MIN_BATCH
        self._values: dict[int, float] = {}  # what each frontier node can still give
        self._small = 0.0  # of all values together, about: may stay unvisited
        self.log_probs = np.full(len(trie.leaf_of), -np.inf)
        self.rest = 1.0
        self.nodes = 0

    def visit(self, nodes: Sequence[int], logits: Iterable[Logits]) -> None:
        """Take in the logits of nodes, parents before children: [P, V] of some after the others."""
        trie, weighting = self._trie, self._weighting
        children, owner = trie.children_of_all(nodes)
        gains = edge_log_probs(trie, children, owner, logits, self._threads)
        ends = np.searchsorted(owner, np.arange(1, len(nodes) + 1)).tolist()
        start = 0
        for node, end in zip(nodes, ends, strict=True):  # a parent's value first
            self._reach[children[start:end]] = self._reach[node] + gains[start:end]
            start = end
        reach, forms = self._reach[children], trie.form_of[children]
        leaves = forms >= 0
        forms, classes = forms[leaves], weighting.class_of[forms[leaves]]
        self.log_probs[forms] = reach[leaves]
        np.logaddexp.at(self._known, classes, reach[leaves] - weighting.bias[classes])
        np.subtract.at(self._missing, classes, 1)
        self._frontier.update(children[~leaves].tolist())
        self._frontier.difference_update(nodes)
        self._learn(nodes, float(np.exp(reach).sum()))
        self.nodes += len(nodes)

    def _learn(self, nodes: Sequence[int], kept: float) -> None:
        if self.nodes == 0:
            self._first = kept
        else:
            self._seen += float(np.exp(self._reach[list(nodes)]).sum())
            self._kept += kept

    def _keeps(self) -> float:
        """About how much of a node's probability its children have; before any was visited, as much as the root's."""
        weight = PRIOR * self._first
        if weight + self._seen == 0:  # nothing that float64 could tell
            return 1.0
        return min(1.0, max(1e-6, (weight * self._first + self._kept) / (weight + self._seen)))

    def done(self) -> bool:
        """Whether the order of the first classes is certain and the rest small; sets what a round goes by."""
        if not self._frontier:
            self.rest = 0.0
            return True
        nodes = np.fromiter(self._frontier, np.int64, len(self._frontier))
        left = self._reach[nodes] - self._weighting.lowest_bias[nodes]
        top = max(float(self._known.max()), float(left.max()), -sys.float_info.max)  # finite: weights may all be 0
        have = self._bound.known(self._known - top)
        values = self._bound.values(left - top, self._trie.forms_below[nodes])
        total = float(values.sum())
        self.rest = self._bound.rest(have, total)
        if self.rest <= self._tolerance and self._is_ordered(float(np.logaddexp.reduce(left))):
            return True
        # Some of what is left will turn out to be names; the half is for those that keep more than most.
        self._small = 0.5 * self._bound.spare(have + total * self._keeps())
        self._values = dict(zip(nodes.tolist(), values.tolist(), strict=True))
        return False

    def _is_ordered(self, left: float) -> bool:
        """Whether each of the first classes beats what any class after it could still become.

        Args:
            left: log weight of all that was not visited.
        """
        known = self._known
        visited = np.flatnonzero(known > -np.inf)
        order = visited[np.argsort(-known[visited], kind="stable")]
        if len(order) < self._top_k:
            return False
        largest = np.where(self._missing[order] > 0, np.logaddexp(known[order], left), known[order])
        others = left if len(order) < len(known) else -np.inf
        after = np.maximum.accumulate(np.append(largest, others)[::-1])[::-1][1:]
        return bool((known[order] >= after)[: self._top_k].all())

    def needed(self) -> int:
        """About how many nodes must be visited yet, at least: those too likely to be left out together."""
        values = np.sort(np.fromiter(self._values.values(), np.float64, len(self._values)))
        return len(values) - int(np.searchsorted(np.cumsum(values), self._small, side="right"))

    def batch(self, room: int) -> list[int]:
        """The nodes to visit next: the likeliest of the frontier, and below them what probably follows."""
        trie, power = self._trie, min(1.0, self._bound.power)
        least, self._least = self._least, min(2 * self._least, USUAL_BATCH)  # whatever the guesses: few rounds
        kept, missing = self._keeps(), sum(self._values.values())
        queue = [(-value, node) for node, value in self._values.items()]
        heapq.heapify(queue)
        batch: list[int] = []
        while queue and len(batch) < min(room, BATCHES[-1]):
            value, node = heapq.heappop(queue)
            if missing <= self._small and -value <= self._small and len(batch) >= least and len(batch) in BATCHES:
                return batch
            batch.append(node)
            missing -= self._values.get(node, 0.0)
            # Not known before the call: as if the children shared evenly what the trie keeps.
            children = trie.children_of(node)
            below = children[trie.form_of[children] < 0].tolist()
            for child in below:
                forms = trie.forms_below[child] / trie.forms_below[node]
                share = (kept / len(children)) ** power * forms ** (1 - power)
                heapq.heappush(queue, (value * share, child))
        return batch[: max(size for size in (0, *BATCHES) if size <= len(batch))] if queue else batch


@dataclass(frozen=True, slots=True)
class _Bound:
    """Of the share of all that was not visited.

    Shares go with weight ** p, p = 1 / temperature. For p >= 1 Minkowski's inequality bounds the sum over classes:
    |known + rest|_p <= |known|_p + sum(rest). For p < 1 powers add up at most, and a node's weight counts most when its
    forms share it evenly: forms ** (1 - p) * weight ** p.

    Attributes:
        power: p.
        tolerance: largest share that may be left.
    """

    power: float
    tolerance: float

    def known(self, weights: Floats) -> float:
        """What log weights [C] of classes add up to: |known|_p, or the sum of powers for p < 1."""
        total = float(np.exp(self.power * weights).sum())
        return total ** (1 / self.power) if self.power >= 1 else total

    def values(self, weights: Floats, forms: Ints) -> Floats:
        """What log weights [L] of nodes with so many forms below them count at most."""
        values: Floats = np.exp(min(1.0, self.power) * weights)
        return values if self.power >= 1 else forms ** (1 - self.power) * values

    def rest(self, have: float, left: float) -> float:
        """The share of nodes whose values add up to `left`."""
        return 1 - (have / (have + left)) ** max(1.0, self.power) if left else 0.0

    def spare(self, have: float) -> float:
        """The values that fit beside `have`."""
        kept = max(1 - self.tolerance, 1e-300)
        return have * (float(kept ** (-1 / max(1.0, self.power))) - 1)
