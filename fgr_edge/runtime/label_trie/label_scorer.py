"""Scores a `LabelSet` in the context that the decoder holds: names become token sequences, forms become classes.

In: logits after the prompt (or the thought), and the `Frame` that a name stands in. Out: the log-probability of each
class, or of the likeliest with a bound on the rest. Tries are compiled once for each frame; the two usual frames come
compiled with the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.confidence import Confidence
from fgr_edge.runtime.decoder import Decoder
from fgr_edge.runtime.label_trie.best_first import BEST_FIRST_NODES, Weighting, score_best
from fgr_edge.runtime.label_trie.label_scores import MAX_CHUNK, add_forms, chunk_nodes, chunk_room, score_all
from fgr_edge.runtime.label_trie.tree_calls import Embed, TreeCalls
from fgr_edge.runtime.label_trie.trie import Ints, LabelTrie
from fgr_edge.runtime.labels import LabelSet, compile_forms

Logits = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Gather = Callable[[Ints], Logits]
"""Token ids [S] to embeddings [S, H]."""
Extend = Callable[[Sequence[int]], Logits]
Encode = Callable[[str], Sequence[int]]
Compiled = Mapping[str, Sequence[Sequence[int]]]
KEPT_BYTES = 4 * 1024 * 1024  # of embeddings of one trie
FRAME_TOKENS = 32  # that a frame may add to a name in the trie
REST_TOLERANCE = 0.01
"""Best-first scoring stops when what it has not visited has at most this share of the probability."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The text around a name. Without a tail the name is closed by the token that ends a turn."""

    lead: str
    tail: str

    @property
    def key(self) -> str:
        """Of compiled sequences in labels.json."""
        return f"{self.lead}{{label}}{self.tail}"


DIRECT = Frame("", "")
REASONED = Frame(" <answer>", "</answer>")


def compile_frames(labels: LabelSet, encode: Encode, closing_id: int) -> dict[str, list[list[int]]]:
    """Token sequences of every form in the usual frames, by key: what export stores in labels.json."""
    return {frame.key: _sequences(labels, encode, closing_id, frame) for frame in (DIRECT, REASONED)}


def _sequences(labels: LabelSet, encode: Encode, closing_id: int, frame: Frame) -> list[list[int]]:
    return compile_forms(labels.forms, encode, frame.lead, frame.tail, () if frame.tail else (closing_id,))


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Log-probabilities [C] in the order of the labels, forms of a class added up.

    Attributes:
        log_probs: [C] float64; -inf where a class was not visited.
        rest: upper bound of the (calibrated) probability of all that was not visited; 0 where everything was.
        nodes: tokens that the decoder computed for them.
    """

    log_probs: Floats
    rest: float
    nodes: int


@dataclass(frozen=True, slots=True)
class _Compiled:
    """prefix: tokens of the lead that all forms share; trie: of what follows; class_of: [F]; longest: tokens below.

    embed: of the trie's nodes.
    """

    prefix: list[int]
    trie: LabelTrie
    class_of: Ints
    longest: int
    embed: Embed


class LabelScorer:
    """Scores one label set with one decoder.

    Args:
        decoder: shared with whoever fills its cache.
        gather: embeds token ids.
        encode: text to token ids; special tokens in it are text.
        labels: the classes.
        closing_id: ends a turn.
        compiled: sequences by `Frame.key`, from labels.json.
        threads: for scores of all labels.

    Raises:
        LabelError: two names have the same tokens.
    """

    def __init__(
        self,
        decoder: Decoder,
        gather: Gather,
        encode: Encode,
        labels: LabelSet,
        closing_id: int,
        compiled: Compiled | None = None,
        threads: int = 1,
    ) -> None:
        self.labels = labels
        self._decoder = decoder
        self._gather = gather
        self._encode = encode
        self._closing_id = closing_id
        self._stored = compiled or {}
        self._threads = threads
        self._compiled: dict[Frame, _Compiled] = {}
        self._weightings: dict[Frame, tuple[Confidence, Weighting]] = {}  # for the calibration used last
        self._compile(DIRECT)  # names that their tokens do not tell apart are found now, not at a picture

    @property
    def branches(self) -> int:
        """Cache slots that scoring needs beyond the text, with tree attention."""
        spec = self._decoder.spec
        deepest = self.longest + FRAME_TOKENS
        most = chunk_room(self._chunk, deepest)
        if not self._decoder.has_fixed_cache:  # one that was built with a length has no room for more than must be
            most = max(BEST_FIRST_NODES, most)
        return min(most, len(self.labels.forms) * deepest) if spec.tree_attention else 0

    @property
    def _chunk(self) -> int:
        """Nodes that get logits in one call. Many at once where logits are made of them later, if there is room."""
        at_once = self._decoder.has_own_head and not self._decoder.has_fixed_cache
        return MAX_CHUNK if at_once else chunk_nodes(self._decoder.spec.vocab)

    @property
    def longest(self) -> int:
        """Tokens of the longest name, closing token included."""
        return self._compile(DIRECT).longest

    def all(self, frame: Frame, logits: Logits, extend: Extend) -> ClassScores:
        """Score every class. `extend` appends the frame's lead to the text; the names leave the cache as it was."""
        return self._all(*self._enter(frame, logits, extend))

    def best(
        self,
        frame: Frame,
        logits: Logits,
        extend: Extend,
        confidence: Confidence,
        *,
        top_k: int = 1,
        tolerance: float = REST_TOLERANCE,
    ) -> ClassScores:
        """Score until the first `top_k` classes are certain and the rest is small; see `score_best`."""
        compiled, logits = self._enter(frame, logits, extend)
        weighting = self._weighting(frame, compiled, confidence)
        room = min(BEST_FIRST_NODES, len(compiled.trie.inner), self._decoder.free)
        with TreeCalls(self._decoder, compiled.embed, compiled.trie, room) as calls:
            found = score_best(
                compiled.trie, logits, calls, weighting, top_k=top_k, tolerance=tolerance, threads=self._threads
            )
        if found is None:
            return self._all(compiled, logits)
        return ClassScores(weighting.class_log_probs(found.log_probs), found.rest, found.nodes)

    def _all(self, compiled: _Compiled, logits: Logits) -> ClassScores:
        room = min(chunk_room(self._chunk, compiled.longest), len(compiled.trie.inner))
        with TreeCalls(self._decoder, compiled.embed, compiled.trie, room) as calls:
            forms = score_all(compiled.trie, logits, calls, self._chunk, self._threads)
        classes = add_forms(forms, compiled.class_of, len(self.labels))
        return ClassScores(classes, 0.0, len(compiled.trie.inner))

    def _enter(self, frame: Frame, logits: Logits, extend: Extend) -> tuple[_Compiled, Logits]:
        """Append what all forms begin with; the logits after it are where the trie starts."""
        compiled = self._compile(frame)
        if compiled.prefix:
            logits = extend(compiled.prefix)
        return compiled, logits.copy()  # the decoder overwrites its own

    def _compile(self, frame: Frame) -> _Compiled:
        if frame not in self._compiled:
            sequences = self._stored.get(frame.key)
            if sequences is None:
                sequences = _sequences(self.labels, self._encode, self._closing_id, frame)
            shared = _shared(sequences, len(self._encode(frame.lead)) if frame.lead else 0)
            trie = LabelTrie.build([ids[shared:] for ids in sequences], [text for text, _ in self.labels.forms])
            class_of = np.array([index for _, index in self.labels.forms])
            self._compiled[frame] = _Compiled(
                list(sequences[0][:shared]), trie, class_of, int(trie.depths.max()), self._embed(trie)
            )
        return self._compiled[frame]

    def _embed(self, trie: LabelTrie) -> Embed:
        """Looks embeddings up, or keeps those of a small trie: small models take no longer for its nodes than that."""
        if 4 * len(trie) * self._decoder.spec.hidden > KEPT_BYTES:
            return lambda nodes: self._gather(trie.tokens[nodes])
        kept = self._gather(np.maximum(trie.tokens, 0))  # the root has no token
        return lambda nodes: kept[nodes]

    def _weighting(self, frame: Frame, compiled: _Compiled, confidence: Confidence) -> Weighting:
        kept = self._weightings.get(frame)
        if kept is None or kept[0] is not confidence:
            weighting = Weighting.build(compiled.trie, compiled.class_of, confidence.bias, confidence.temperature)
            kept = self._weightings[frame] = (confidence, weighting)
        return kept[1]


def _shared(sequences: Sequence[Sequence[int]], most: int) -> int:
    """How many tokens all sequences have in common at their beginning, at most `most`."""
    first, last = min(map(list, sequences)), max(map(list, sequences))
    same = (a == b for a, b in zip(first[:most], last[:most], strict=False))
    return next((i for i, equal in enumerate(same) if not equal), min(most, len(first)))
