"""Prefill and decode over a KV cache that stays in place. Knows embeddings, positions and tokens; no text, no pictures.

In: embeddings [S, H] float32, some perhaps still where another engine left them (`PlacedRows`), and positions [3, S].
Out: logits [R, V] float32 of the rows asked for. The cache, the rotary table and the one-token buffers are allocated
once and reused from picture to picture; they grow when a prompt needs more. `branch` and `check` append tokens that do
not follow one another, but hang below each other as a tree.
A prompt is read in chunks, so that what its layers hold in between does not grow with it; what it begins with, and the
cache holds already, is not read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import EngineError
from fgr_edge.runtime.call_parts import UNREAD_ROW, CallPart, call_parts
from fgr_edge.runtime.decoder_call import Checked, DecoderCall, tree
from fgr_edge.runtime.head import Head, LazyLogits
from fgr_edge.runtime.known_prefix import KnownPrefix
from fgr_edge.runtime.placed_rows import Rows, send
from fgr_edge.runtime.rotary import IntArray, RotaryAngles, frequency_axes
from fgr_edge.runtime.sessions.session import Buffer, Session
from fgr_edge.runtime.step_inputs import STEP_INPUTS, Step

Floats = npt.NDArray[np.float32]
GROWTH = 256  # cache slots are added in steps of this many
NOT_FINITE = (
    "the decoder's logits are not finite numbers; the bundle's weights or the engine are broken: export the bundle "
    "again, or try fp32"
)
CHUNK_TOKENS = 256  # of a prompt, read at once; see benchmarks/prefill_chunks.py
NO_FEATURES = np.zeros((1, 1), np.float32)  # of DeepStack, where there is no picture
KEPT_CALLS = 48  # bound calls, one for each number of tokens in, logit rows out and slots masked


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """What the decoder graph expects; written by export into the manifest's `decoder` part."""

    layers: int
    hidden: int
    kv_heads: int
    head_dim: int
    vocab: int
    rope_theta: float
    mrope_section: tuple[int, int, int]
    mrope_interleaved: bool
    deepstack: int
    max_positions: int
    cache_dtype: str
    tree_attention: bool = False


class Decoder:
    """An open decoder graph with its cache.

    Args:
        head: for graphs that end at the hidden rows.
        chunk_tokens: of a prompt that are read at once; fewer, where the engine takes no more.

    Attributes:
        length: tokens in the cache.
        chunk_tokens: as given, or what the engine takes.
    """

    def __init__(
        self, session: Session, spec: DecoderSpec, head: Head | None = None, *, chunk_tokens: int = CHUNK_TOKENS
    ) -> None:
        self._session = session
        self._head = head
        self.chunk_tokens = min(chunk_tokens, session.longest("inputs_embeds", 1) or chunk_tokens)
        self._known: KnownPrefix | None = None
        self.spec = spec
        most_rows = (session.longest("logit_rows", 0), None if head is None else head.most_rows)
        self._most_rows = min((most for most in most_rows if most is not None), default=None)  # of one call
        self._built_length = session.longest("past_key.0", 2)  # None where the cache may be of any length
        axes = frequency_axes(spec.mrope_section, interleaved=spec.mrope_interleaved)
        self._angles = RotaryAngles(spec.head_dim, spec.rope_theta, axes)
        self.capacity = 0
        self.length = 0
        self._position_offset = 0  # of text tokens: rotary position minus slot; a picture takes fewer positions
        self._cache: dict[str, Buffer] = {}
        self._calls: dict[tuple[int, int, int], DecoderCall] = {}

    @property
    def next_position(self) -> int:
        """Rotary position of the next text token."""
        return self.length + self._position_offset

    def rotary_rows(self, count: int) -> tuple[Floats, Floats]:
        """cos and sin [count, D / 2] that the graph reads for the first `count` cache slots: copies."""
        cos, sin = (table.array[:count].astype(np.float32) for table in (self._cos, self._sin))
        return cos, sin

    @property
    def has_fixed_cache(self) -> bool:
        """Whether the engine was built for a cache of one length."""
        return self._built_length is not None

    @property
    def has_own_head(self) -> bool:
        """Whether logits are computed by a graph of their own, from as many rows at a time as is best."""
        return self._head is not None

    @property
    def free(self) -> int:
        """Slots of the cache behind the text so far."""
        return self.capacity - self.length

    def most_tokens(self, branches: int = 0) -> int:
        """Tokens of prompt and answer that there may be, `branches` beside them: an engine's cache has a length."""
        most = self.spec.max_positions
        return most if self._built_length is None else min(most, self._built_length - branches)

    def reserve(self, tokens: int, branches: int = 0) -> None:
        """Make room for `tokens`, and `branches` more for trees; what the cache held is lost when it has to grow.

        Raises:
            EngineError: more than the model's positions, or than the engine's cache.
        """
        spec = self.spec
        if tokens > spec.max_positions:
            raise EngineError(
                f"{tokens} tokens asked for (prompt and answer), the model has positions for {spec.max_positions}; "
                "use a smaller picture (max_pixels) or a smaller max_new_tokens"
            )
        if tokens > self.most_tokens(branches):
            raise EngineError(
                f"{tokens} tokens asked for (prompt and answer) and {branches} beside them to score labels with, and "
                f"the engine's cache has {self._built_length}; ask for fewer (--think-budget), use a smaller picture, "
                "or build a longer one: fgr-edge build BUNDLE --cache-length N"
            )
        tokens += branches
        if tokens <= self.capacity:
            return
        grown = min(-(-tokens // GROWTH) * GROWTH, max(spec.max_positions, tokens))
        self.capacity = self._built_length or grown
        self.length = 0
        self._known = None
        self._calls.clear()
        self._cache.clear()
        shape = (1, spec.kv_heads, self.capacity, spec.head_dim)
        for layer in range(spec.layers):
            for kind in ("key", "value"):
                self._cache[f"{kind}.{layer}"] = self._session.buffer(shape, spec.cache_dtype)
        table = (self.capacity, spec.head_dim // 2)
        self._cos = self._session.buffer(table, spec.cache_dtype)
        self._sin = self._session.buffer(table, spec.cache_dtype)
        self._angles.reserve(self.capacity)

    def prefill(
        self,
        embeds: Rows,
        positions: IntArray,
        *,
        max_new_tokens: int,
        branches: int = 0,
        deepstack: Sequence[Rows] = (),
        prefix: KnownPrefix | None = None,
    ) -> Floats:
        """Start a new sequence; returns the logits [V] after its last token.

        Args:
            embeds: [S, H].
            positions: [3, S], time, height and width.
            max_new_tokens: room to keep for `extend`.
            branches: room to keep for `branch`, beyond that.
            deepstack: per DeepStack layer [S, H], zero where there is no picture.
            prefix: what the sequence is made of: as far as the last one began alike, it is not read again. None reads
                all of it.

        The array returned is overwritten by the next call of the same length.
        """
        count = len(embeds)
        self.reserve(count + max_new_tokens, branches)
        kept = 0 if prefix is None else min(prefix.shared(self._known), count - 1)
        # Text before the picture is read in calls of its own, whole, known or not: numbers depend on how tokens are
        # grouped, and what was asked before must not show in them.
        first = 0 if prefix is None else prefix.before_picture
        self.length = kept if kept >= first else 0
        self._known = None
        next_position = int(positions.max()) + 1
        self._position_offset = next_position - count
        for table, prompt, text in zip(
            (self._cos, self._sin),
            self._angles.at(positions),
            self._angles.run(next_position, self.capacity - count),
            strict=True,
        ):
            table.array[:count] = prompt
            table.array[count : count + len(text)] = text
            table.upload()
        logits = self._read(embeds, deepstack, first)
        self._known = prefix
        return logits

    def _read(self, embeds: Rows, deepstack: Sequence[Rows], first: int) -> Floats:
        """Append what the cache lacks of a prompt, in chunks, none across slot `first`; logits [V] after its end."""
        while True:
            end = first if self.length < first else len(embeds)
            part = slice(self.length, min(self.length + self.chunk_tokens, end))
            features = [layer[part] for layer in deepstack]
            if part.stop == len(embeds):
                logits: Floats = self.forward(embeds[part], np.array([part.stop - part.start - 1]), features)[0]
                return logits
            self._run(embeds[part], UNREAD_ROW, features, None, None)

    def extend(self, embeds: Floats) -> Floats:
        """Append S text tokens, embeds [S, H]; returns the logits [V] after the last, overwritten by the next call."""
        return self.advance(embeds).full()

    def advance(self, embeds: Floats) -> LazyLogits:
        """As `extend`, but logits are computed when they are asked for, if the head is a graph of its own."""
        return Checked(self._run(embeds, np.array([len(embeds) - 1]), (), None, None)).after(0)

    def check(self, embeds: Floats, parents: Sequence[int] | None = None) -> Checked:
        """Append S tokens to see what would come after each; `keep` says which of them stay.

        Args:
            embeds: [S, H], parents before their children.
            parents: [S], the place of the token that each follows, -1 for the text so far. None: each follows the one
                before it.

        Raises:
            EngineError: they form a tree, and the graph has no tree attention; or the cache has no room.
        """
        rows = np.arange(len(embeds))
        if parents is None:
            return Checked(self._run(embeds, rows, (), None, None))
        self._require_trees()
        depths, mask = tree(tuple(parents))
        slots = self.length + depths
        return Checked(self._run(embeds, rows, (), slots, mask))

    def keep(self, start: int, rows: Sequence[int]) -> None:
        """Of the tokens that `check` appended when the cache held `start`, keep one branch: `rows`, in its order.

        With rows that are not the first ones, for engines that keep the cache in the host's memory.
        """
        for place, row in enumerate(rows):
            if row == place:
                continue
            for buffer in self._cache.values():
                buffer.array[:, :, start + place] = buffer.array[:, :, start + row]
                buffer.upload()
        self.length = start + len(rows)

    def forward(self, embeds: Rows, rows: IntArray, deepstack: Sequence[Rows] = ()) -> Floats:
        """Append S tokens whose rotary angles are in the table; logits [R, V] of `rows`, counted from the first."""
        parts = self._parts(len(embeds), rows)
        calls = self._run_parts(parts, embeds, deepstack, None, None)
        if len(parts) == 1:
            return next(calls).logits()
        return np.concatenate([call.logits().copy() for call in calls])

    def branch(self, embeds: Floats, rows: IntArray, slots: IntArray, mask: Floats) -> Iterator[Floats]:
        """Append S tokens of a tree below the text so far; `rewind` takes them back.

        Args:
            embeds: [S, H], parents before their children.
            rows: [R], which of them get logits.
            slots: [S], where each token would stand if the cache held its ancestors only: its rotary position.
            mask: [S, W] float32 for the last W slots, these S among them: 0 for what a token sees, `HIDDEN` elsewhere.
                Slots before them are seen by all.

        Yields:
            Logits [P, V] float32 of some of the rows after the others, each part overwritten by the next. A head of
            its own makes them of all hidden rows, which are small, a few rows at a time.

        Raises:
            EngineError: the graph has no tree attention (`spec.tree_attention`), or the cache no room.
        """
        self._require_trees()
        for call in self._run_parts(self._parts(len(embeds), rows), embeds, (), slots, mask):
            yield from call.in_parts()

    def _require_trees(self) -> None:
        if not self.spec.tree_attention:
            raise EngineError(
                "decoder.onnx has no tree attention (an older bundle, or target cuda); export the bundle again for cpu"
            )

    def _parts(self, count: int, rows: IntArray) -> list[CallPart]:
        """As many calls as the engine needs."""
        return list(call_parts(count, rows, self._session.longest("inputs_embeds", 1), self._most_rows))

    def _run_parts(
        self,
        parts: Sequence[CallPart],
        embeds: Rows,
        deepstack: Sequence[Rows],
        slots: IntArray | None,
        mask: Floats | None,
    ) -> Iterator[DecoderCall]:
        """One part after another; yields those that have rows."""
        for part in parts:
            span = slice(part.start, part.stop)
            call = self._run(
                embeds[span],
                part.rows if len(part.rows) else UNREAD_ROW,
                [layer[span] for layer in deepstack],
                None if slots is None else slots[span],
                None if mask is None else mask[span, : mask.shape[1] - (len(embeds) - part.stop)],
            )
            if len(part.rows):
                yield call

    def _run(
        self,
        embeds: Rows,
        rows: IntArray,
        deepstack: Sequence[Rows],
        slots: IntArray | None,
        mask: Floats | None,
    ) -> DecoderCall:
        count = len(embeds)
        if self.length + count > self.capacity:
            raise EngineError(
                f"the cache holds {self.length} of {self.capacity} tokens and {count} more do not fit; "
                "raise max_new_tokens"
            )
        if self._known is not None:
            self._known = self._known.before(self.length)  # what stands there is written over
        step = Step(self.length, count, self.capacity, rows, slots, mask)
        call = self._call(step)
        send(embeds, call.embeds)
        for i, buffer in enumerate(call.deepstack):
            send(deepstack[i] if deepstack else NO_FEATURES, buffer)
        for row, buffer in call.step:
            row.write(buffer.array, step)
            buffer.upload()
        call.compute()
        self.length = step.total
        return call

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens; only text and branches may be forgotten."""
        self.length = length

    def _call(self, step: Step) -> DecoderCall:
        # A mask of the whole cache has one shape however much of it is masked.
        width = step.width if "tree_mask" in self._session.input_names else 1
        key = (step.count, len(step.rows), width)
        call = self._calls.pop(key, None)
        if call is None:
            # A camera's prompts are all of one length: the shapes used last stay bound, one token among them.
            if len(self._calls) >= KEPT_CALLS:
                del self._calls[next(old for old in self._calls if old != (1, 1, 1))]
            call = self._bind(step)
        self._calls[key] = call
        return call

    def _bind(self, step: Step) -> DecoderCall:
        buffer, spec, wanted = self._session.buffer, self.spec, self._session.input_names
        embeds = buffer((1, step.count, spec.hidden), np.float32)
        given = {
            name: (row, buffer(row.shape(step), row.dtype, on_host=row.on_host))
            for name, row in STEP_INPUTS.items()
            if name in wanted
        }
        deepstack = [buffer((1, step.count, spec.hidden), np.float32) for _ in range(spec.deepstack)]
        inputs = {
            "inputs_embeds": embeds,
            "cos_cache": self._cos,
            "sin_cache": self._sin,
            **{name: value for name, (_, value) in given.items()},
            **{f"deepstack.{i}": value for i, value in enumerate(deepstack)},
            **{f"past_{name}": value for name, value in self._cache.items()},
        }
        outputs = {f"present_{name}": value for name, value in self._cache.items()}
        if self._head is None:
            logits = outputs["logits"] = buffer((1, len(step.rows), spec.vocab), np.float32)
            run = self._session.bind(inputs, outputs)
            return DecoderCall(embeds, list(given.values()), deepstack, run, logits)
        hidden = outputs["hidden"] = buffer((1, len(step.rows), spec.hidden), np.float32)
        run = self._session.bind(inputs, outputs)
        return DecoderCall(embeds, list(given.values()), deepstack, run, None, hidden, self._head)
