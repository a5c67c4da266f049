"""Prefill and decode over a KV cache that stays in place. Knows embeddings, positions and tokens; no text, no pictures.

In: embeddings [S, H] float32 and positions [3, S]. Out: logits [R, V] float32 of the rows asked for. The cache, the
rotary table and the one-token buffers are allocated once and reused from picture to picture; they grow when a prompt
needs more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import EngineError
from fgr_edge.runtime.rotary import IntArray, RotaryAngles, frequency_axes
from fgr_edge.runtime.sessions.session import Buffer, Session

Floats = npt.NDArray[np.float32]
GROWTH = 256  # cache slots are added in steps of this many
KEPT_CALLS = 8  # bound calls, one for each number of tokens in and logit rows out


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


@dataclass(slots=True)
class _Call:
    """Buffers of one sequence length and the bound call over them."""

    embeds: Buffer
    seqlens: Buffer
    total: Buffer
    rows: Buffer
    deepstack: list[Buffer]
    logits: Buffer
    run: Callable[[], None]


class Decoder:
    """An open decoder graph with its cache.

    Attributes:
        length: tokens in the cache.
        next_position: rotary position of the next text token.
    """

    def __init__(self, session: Session, spec: DecoderSpec) -> None:
        self._session = session
        self.spec = spec
        axes = frequency_axes(spec.mrope_section, interleaved=spec.mrope_interleaved)
        self._angles = RotaryAngles(spec.head_dim, spec.rope_theta, axes)
        self.capacity = 0
        self.length = 0
        self.next_position = 0
        self._cache: dict[str, Buffer] = {}
        self._calls: dict[tuple[int, int], _Call] = {}

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` in the cache; what it held is lost when it has to grow.

        Raises:
            EngineError: more than the model's positions.
        """
        spec = self.spec
        if tokens > spec.max_positions:
            raise EngineError(
                f"{tokens} tokens asked for (prompt and answer), the model has positions for {spec.max_positions}; "
                "use a smaller picture (max_pixels) or a smaller max_new_tokens"
            )
        if tokens <= self.capacity:
            return
        self.capacity = min(-(-tokens // GROWTH) * GROWTH, max(spec.max_positions, tokens))
        self.length = 0
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
        self, embeds: Floats, positions: IntArray, *, max_new_tokens: int, deepstack: Sequence[Floats] = ()
    ) -> Floats:
        """Start a new sequence; returns the logits [V] after its last token.

        Args:
            embeds: [S, H].
            positions: [3, S], time, height and width.
            max_new_tokens: room to keep for `extend`.
            deepstack: per DeepStack layer [S, H], zero where there is no picture.

        The array returned is overwritten by the next call of the same length.
        """
        count = len(embeds)
        self.reserve(count + max_new_tokens)
        self.length = 0
        self.next_position = int(positions.max()) + 1
        for table, prompt, text in zip(
            (self._cos, self._sin),
            self._angles.at(positions),
            self._angles.run(self.next_position, self.capacity - count),
            strict=True,
        ):
            table.array[:count] = prompt
            table.array[count : count + len(text)] = text
            table.upload()
        logits: Floats = self.forward(embeds, np.array([count - 1]), deepstack)[0]
        return logits

    def extend(self, embeds: Floats) -> Floats:
        """Append S text tokens, embeds [S, H]; returns the logits [V] after the last, overwritten by the next call."""
        self.next_position += len(embeds)
        logits: Floats = self.forward(embeds, np.array([len(embeds) - 1]))[0]
        return logits

    def forward(self, embeds: Floats, rows: IntArray, deepstack: Sequence[Floats] = ()) -> Floats:
        """Append S tokens whose rotary angles are in the table; logits [R, V] of `rows`, counted from the first."""
        count = len(embeds)
        if self.length + count > self.capacity:
            raise EngineError(
                f"the cache holds {self.length} of {self.capacity} tokens and {count} more do not fit; "
                "raise max_new_tokens"
            )
        call = self._call(count, len(rows))
        call.embeds.array[0] = embeds
        call.rows.array[:] = rows
        total = self.length + count
        call.seqlens.array[0] = total - 1
        call.total.array[...] = total
        for i, buffer in enumerate(call.deepstack):
            buffer.array[0] = deepstack[i] if deepstack else 0
            buffer.upload()
        for buffer in (call.embeds, call.rows, call.seqlens, call.total):
            buffer.upload()
        call.run()
        call.logits.download()
        self.length = total
        logits: Floats = call.logits.array[0]
        return logits

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens; only text tokens may be forgotten."""
        self.next_position -= self.length - length
        self.length = length

    def _call(self, count: int, rows: int) -> _Call:
        key = (count, rows)
        if key not in self._calls:
            # A camera's prompts are all of one length: the lengths used last stay bound, one token among them.
            if len(self._calls) >= KEPT_CALLS:
                del self._calls[next(old for old in self._calls if old != (1, 1))]
            self._calls[key] = self._bind(count, rows)
        return self._calls[key]

    def _bind(self, count: int, rows: int) -> _Call:
        buffer, spec = self._session.buffer, self.spec
        embeds = buffer((1, count, spec.hidden), np.float32)
        seqlens = buffer((1,), np.int32)
        total = buffer((), np.int32, on_host=True)
        logit_rows = buffer((rows,), np.int64)
        deepstack = [buffer((1, count, spec.hidden), np.float32) for _ in range(spec.deepstack)]
        logits = buffer((1, rows, spec.vocab), np.float32)
        inputs = {
            "inputs_embeds": embeds,
            "seqlens_k": seqlens,
            "total_sequence_length": total,
            "cos_cache": self._cos,
            "sin_cache": self._sin,
            "logit_rows": logit_rows,
            **{f"deepstack.{i}": value for i, value in enumerate(deepstack)},
            **{f"past_{name}": value for name, value in self._cache.items()},
        }
        outputs = {"logits": logits, **{f"present_{name}": value for name, value in self._cache.items()}}
        run = self._session.bind(inputs, outputs)
        return _Call(embeds, seqlens, total, logit_rows, deepstack, logits, run)
