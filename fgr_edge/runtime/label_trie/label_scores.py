"""Log-probabilities of labels, of all of them: what a trie's nodes say of their children, added up along every path.

In: a label trie, the logits where it starts, calls that give logits at its nodes. Out: for every form the
log-probability of all its tokens, closing token included, each over the whole vocabulary: what teacher forcing one
label after another would give. Knows tokens; not text, not pictures, not calibration.

Every inner node is visited, in chunks of consecutive preorder nodes; the ancestors of a chunk's first node are
computed again with it, so that nothing is kept between chunks and memory does not grow with the number of labels.
They come on top of the chunk: they get no logits, and one long name must not make every chunk small.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import EngineError
from fgr_edge.runtime.decoder import NOT_FINITE
from fgr_edge.runtime.kernels.library import log_sums
from fgr_edge.runtime.label_trie.tree_calls import TreeCalls
from fgr_edge.runtime.label_trie.trie import Ints, LabelTrie, Nodes
from fgr_edge.runtime.threads import in_threads

Logits = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

CACHED_VALUES = 1 << 17
WORTH_THREADS = 1 << 20  # logits of one call; the exponentials of fewer are done before a thread has started
SMALLEST_SUM = 1e-20  # of exponentials as they are: below it, float32 may have lost some
MAX_CHUNK = 512  # nodes of one call at most
CHUNK_LOGITS_BYTES = 64 * 1024 * 1024


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
    found = np.empty(len(logits))
    ends = np.linspace(0, len(logits), 1 + min(threads, len(logits))).astype(int).tolist()

    def part(number: int) -> None:
        rows = slice(ends[number], ends[number + 1])
        found[rows] = _log_normalizers(logits[rows])

    in_threads(part, range(len(ends) - 1), threads)
    return found


def _log_normalizers(logits: Logits) -> Floats:
    found = log_sums(logits)
    if found is None:
        return _log_normalizers_by_numpy(logits)
    if not np.isfinite(found).all():
        raise EngineError(NOT_FINITE)
    return found


def _log_normalizers_by_numpy(logits: Logits) -> Floats:
    count, vocab = logits.shape
    sums = np.empty(count)
    rows = min(count, max(1, CACHED_VALUES // vocab))  # as many as stay in the processor's cache
    values = np.empty((rows, vocab), np.float32)
    with np.errstate(over="ignore", under="ignore"):  # found below
        for start in range(0, count, rows):
            part = values[: min(rows, count - start)]
            np.exp(logits[start : start + rows], out=part)
            sums[start : start + rows] = part.sum(axis=1)
    held = (sums > SMALLEST_SUM) & (sums < np.inf)
    if held.all():
        return np.log(sums)
    return np.array([np.log(sums[row]) if held[row] else _shifted(logits[row]) for row in range(count)])


def _shifted(logits: Logits) -> float:
    """The normalizer of one row whose exponentials float32 does not hold, or that has what is no number."""
    values, top = logits.astype(np.float64), float(logits.max())
    with np.errstate(invalid="ignore"):  # infinities are found below
        found = top + float(np.log(np.exp(values - top).sum()))
    if not np.isfinite(found):
        raise EngineError(NOT_FINITE)
    return found


def score_all(trie: LabelTrie, root_logits: Logits, calls: TreeCalls, chunk: int, threads: int = 1) -> Floats:
    """Log-probability [F] of every form; the decoder's cache is left as it was.

    Args:
        chunk: nodes of one call that get logits; `calls` need room for `chunk_room` of it.
        threads: for what is done with the logits.
    """
    edges = np.zeros(len(trie))
    _set_edges(trie, edges, [0], [root_logits[None]], threads)
    for nodes, again in _chunks(trie, chunk):
        _set_edges(trie, edges, nodes[again:], calls.logits(nodes, range(again, len(nodes))), threads)
        calls.close()
    totals = np.zeros(len(trie))
    for level in trie.levels:
        totals[level] = totals[trie.parents[level]] + edges[level]
    return totals[trie.leaf_of]


def _chunks(trie: LabelTrie, chunk: int) -> Iterator[tuple[Ints, int]]:
    """Inner nodes in runs of about equal length, after the ancestors of the first that were in an earlier run."""
    inner = trie.inner
    runs = -(-len(inner) // chunk)
    for run in np.array_split(inner, runs) if runs > 1 else [inner][:runs]:
        ancestors = trie.path(int(run[0]))[:-1]
        yield (np.array([*ancestors, *run]) if ancestors else run), len(ancestors)


def _set_edges(trie: LabelTrie, edges: Floats, nodes: Nodes, logits: Iterable[Logits], threads: int) -> None:
    children, owner = trie.children_of_all(nodes)
    edges[children] = edge_log_probs(trie, children, owner, logits, threads)


def edge_log_probs(trie: LabelTrie, children: Ints, owner: Ints, logits: Iterable[Logits], threads: int = 1) -> Floats:
    """Log-probability [E] of each child given its parent.

    Args:
        children, owner: [E], as `children_of_all` gives them.
        logits: [P, V], of the parents, some after the others.
    """
    found, tokens, start, first = np.empty(len(children)), trie.tokens[children], 0, 0
    for part in logits:
        start += len(part)
        last = int(np.searchsorted(owner, start))
        own = owner[first:last] - (start - len(part))
        found[first:last] = part[own, tokens[first:last]] - log_normalizers(part, threads)[own]
        first = last
    return found


def add_forms(form_log_probs: Floats, class_of: Ints, classes: int) -> Floats:
    """Forms [F] added up to classes [C]; -inf where no form was scored."""
    found = np.full(classes, -np.inf)
    np.logaddexp.at(found, class_of, form_log_probs)
    return found
