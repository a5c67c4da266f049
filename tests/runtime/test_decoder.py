"""Cached decode equals an uncached forward; the cache stays where it is; a fake session shows the bookkeeping."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from fgr_edge.errors import EngineError
from fgr_edge.runtime.decoder import GROWTH, KEPT_CALLS, Decoder, DecoderSpec
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.rotary import prompt_positions
from fgr_edge.runtime.sessions.session import HostArray
from fgr_edge.runtime.step_inputs import HIDDEN

if TYPE_CHECKING:
    from tests.tiny import TinyModels

SHAPES = ["qwen2.5", "qwen2.5-untied", "qwen3"]
GRID = (10, 6)


# Against itself, on real graphs


@pytest.mark.parametrize(
    ("shape", "precision", "target", "tolerance"),
    [
        *((shape, "fp32", "cpu", 1e-4) for shape in SHAPES),
        *((shape, "fp32", "cuda", 1e-2) for shape in SHAPES),  # a float16 cache, rounded in another order
        *((shape, "int8", "cpu", 2e-2) for shape in SHAPES),  # a last bit can round an activation to the next step
    ],
)
def test_cached_decode_equals_uncached_forward(
    tiny_models: TinyModels, shape: str, precision: str, target: str, tolerance: float
) -> None:
    from tests.tiny import feed, prefill, relative

    recognizer = Recognizer(tiny_models.bundle(shape, precision, target), device="cpu", threads=1)
    decoder = recognizer.model.decoder
    given = feed(recognizer, tiny_models.reference(shape, GRID))
    # 1. One token at a time.
    rows = [prefill(recognizer, given).copy()]
    tokens: list[int] = []
    for _ in range(40):
        tokens.append(int(rows[-1].argmax()))
        rows.append(recognizer.model.extend(tokens[-1:]).copy())
    # 2. The same sequence in one call, on positions counted from the whole of it.
    embeds = np.concatenate([given.embeds, recognizer.model.embedding.gather(np.array(tokens))])
    start = int(given.positions[0].argmin() + np.argmax(np.diff(given.positions[0]) == 0))
    after = len(given.embeds) - start - GRID[0] * GRID[1] // 4
    positions = prompt_positions(start, (GRID[0] // 2, GRID[1] // 2), after + len(tokens))
    np.testing.assert_array_equal(positions[:, : len(given.embeds)], given.positions)
    deepstack = [np.concatenate([x, np.zeros((len(tokens), x.shape[1]), np.float32)]) for x in given.deepstack]
    decoder.prefill(embeds, positions, max_new_tokens=1, deepstack=deepstack)
    decoder.rewind(0)
    uncached = decoder.forward(embeds, np.arange(len(given.embeds) - 1, len(embeds)), deepstack)
    assert relative(np.stack(rows), uncached) < tolerance


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cut", [1, 9, -1])
def test_prefill_in_two_calls_equals_one(tiny_models: TinyModels, shape: str, cut: int) -> None:
    from tests.tiny import feed, prefill, relative

    recognizer = Recognizer(tiny_models.bundle(shape), threads=1)
    decoder = recognizer.model.decoder
    given = feed(recognizer, tiny_models.reference(shape, GRID))
    whole = prefill(recognizer, given).copy()
    decoder.rewind(0)
    decoder.forward(given.embeds[:cut], np.array([0]), [x[:cut] for x in given.deepstack])
    rest = given.embeds[cut:]
    last = decoder.forward(rest, np.array([len(rest) - 1]), [x[cut:] for x in given.deepstack])
    assert relative(last[0], whole) < 1e-4


def test_several_tokens_at_once_equal_one_after_another(tiny_models: TinyModels) -> None:
    from tests.tiny import feed, prefill, relative

    recognizer = Recognizer(tiny_models.bundle("qwen3"), threads=1)
    given = feed(recognizer, tiny_models.reference("qwen3", GRID))
    prefill(recognizer, given)
    for token in (17, 40, 99):
        single = recognizer.model.extend([token])
    single, position = single.copy(), recognizer.model.decoder.next_position
    prefill(recognizer, given)
    assert relative(recognizer.model.extend([17, 40, 99]), single) < 1e-4
    assert recognizer.model.decoder.next_position == position


def test_rewinding_and_stepping_again_gives_the_same_logits(tiny_models: TinyModels) -> None:
    from tests.tiny import feed, prefill

    recognizer = Recognizer(tiny_models.bundle("qwen2.5"), threads=1)
    prefill(recognizer, feed(recognizer, tiny_models.reference("qwen2.5", GRID)))
    length, position = recognizer.model.decoder.length, recognizer.model.decoder.next_position
    first = recognizer.model.extend([20]).copy()
    recognizer.model.extend([30, 31])
    recognizer.model.decoder.rewind(length)
    assert (recognizer.model.decoder.length, recognizer.model.decoder.next_position) == (length, position)
    np.testing.assert_array_equal(recognizer.model.extend([20]), first)


# The bookkeeping, without weights

SPEC = DecoderSpec(
    layers=2,
    hidden=4,
    kv_heads=1,
    head_dim=8,
    vocab=6,
    rope_theta=10000.0,
    mrope_section=(2, 1, 1),
    mrope_interleaved=False,
    deepstack=0,
    max_positions=1000,
    cache_dtype="float32",
)


class CountingSession:
    """A session without a graph: its logits say how many tokens are in the cache, and which rows were asked for."""

    def __init__(self, more_inputs: Iterable[str]) -> None:
        self.input_names = frozenset({"logit_rows", "seqlens_k", "total_sequence_length", *more_inputs})
        self.buffers = 0
        self.bound: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []

    def longest(self, name: str, axis: int) -> int | None:
        return None

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        raise AssertionError("the decoder runs on bound buffers only")

    run_resident = run

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike, *, on_host: bool = False) -> HostArray:
        self.buffers += 1
        return HostArray(np.zeros(shape, dtype))

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Callable[[], None]:
        self.bound.append((inputs, outputs))

        def run() -> None:
            total = int(inputs["total_sequence_length"].array)
            assert int(inputs["seqlens_k"].array[0]) == total - 1
            outputs["logits"].array[0, :, 0] = total
            outputs["logits"].array[0, :, 1] = inputs["logit_rows"].array

        return run


TREE_INPUTS = ("table_rows", "tree_mask", "masked_from")


def decoder(spec: DecoderSpec = SPEC, more_inputs: Iterable[str] = ()) -> tuple[Decoder, CountingSession]:
    session = CountingSession(TREE_INPUTS if spec.tree_attention and not more_inputs else more_inputs)
    return Decoder(session, spec), session


def text(count: int) -> dict[str, Any]:
    return {"embeds": np.zeros((count, 4), np.float32), "positions": np.tile(np.arange(count), (3, 1))}


def test_lengths_and_rows_are_told_to_the_graph() -> None:
    d, _ = decoder()
    assert d.prefill(**text(10), max_new_tokens=5)[:2].tolist() == [10, 9]
    assert d.extend(np.zeros((1, 4), np.float32))[:2].tolist() == [11, 0]
    assert d.extend(np.zeros((3, 4), np.float32))[:2].tolist() == [14, 2]
    assert (d.length, d.next_position) == (14, 14)
    assert d.prefill(**text(3), max_new_tokens=5)[:2].tolist() == [3, 2]
    assert (d.length, d.next_position) == (3, 3)


def test_the_cache_is_an_input_and_an_output_in_the_same_buffers() -> None:
    d, session = decoder()
    d.prefill(**text(10), max_new_tokens=5)
    inputs, outputs = session.bound[-1]
    for kind in ("key", "value"):
        for layer in range(SPEC.layers):
            assert inputs[f"past_{kind}.{layer}"] is outputs[f"present_{kind}.{layer}"]
            assert inputs[f"past_{kind}.{layer}"].array.shape == (1, 1, GROWTH, 8)


def test_sequences_that_fit_allocate_nothing() -> None:
    d, session = decoder()
    d.prefill(**text(100), max_new_tokens=50)
    d.extend(np.zeros((1, 4), np.float32))
    buffers, bound = session.buffers, len(session.bound)
    for _ in range(5):
        d.prefill(**text(100), max_new_tokens=50)
        for _ in range(50):
            d.extend(np.zeros((1, 4), np.float32))
    assert (session.buffers, len(session.bound)) == (buffers, bound)


def test_another_length_keeps_the_cache_and_a_longer_one_grows_it() -> None:
    d, session = decoder()
    d.prefill(**text(100), max_new_tokens=50)
    cache = session.bound[-1][0]["past_key.0"]
    d.prefill(**text(120), max_new_tokens=50)
    assert session.bound[-1][0]["past_key.0"] is cache
    d.prefill(**text(300), max_new_tokens=50)
    assert session.bound[-1][0]["past_key.0"].array.shape[2] == d.capacity == 2 * GROWTH
    assert session.bound[-1][0]["past_key.0"] is not cache


def test_many_lengths_do_not_pile_up_calls() -> None:
    d, _ = decoder()
    for count in range(2, 60):
        d.prefill(**text(count), max_new_tokens=50)
        d.extend(np.zeros((1, 4), np.float32))
    assert len(d._calls) <= KEPT_CALLS < 58
    assert (1, 1, 1) in d._calls


def test_a_full_cache_is_an_error_before_the_graph_runs() -> None:
    d, _ = decoder()
    d.prefill(**text(GROWTH - 1), max_new_tokens=1)
    d.extend(np.zeros((1, 4), np.float32))
    with pytest.raises(EngineError, match=r"holds 256 of 256 tokens and 1 more do not fit; raise max_new_tokens"):
        d.extend(np.zeros((1, 4), np.float32))
    assert d.length == GROWTH


def test_more_tokens_than_the_model_has_positions_is_an_error() -> None:
    d, _ = decoder()
    with pytest.raises(EngineError, match=r"1001 tokens asked for .* positions for 1000; use a smaller picture"):
        d.prefill(**text(990), max_new_tokens=11)
    d.prefill(**text(990), max_new_tokens=10)
    assert d.capacity == 1000


def test_rotary_tables_follow_the_picture_then_count_up() -> None:
    d, session = decoder()
    positions = prompt_positions(3, (2, 4), 5)
    d.prefill(np.zeros((16, 4), np.float32), positions, max_new_tokens=8)
    cos = session.bound[-1][0]["cos_cache"].array
    d._angles.reserve(64)
    prompt = d._angles.at(positions)[0]
    np.testing.assert_array_equal(cos[:16], prompt)
    assert positions.max() == 11 and d.next_position == 12
    np.testing.assert_array_equal(cos[16:24], d._angles.run(12, 8)[0])


# Trees

TREE_SPEC = dataclasses.replace(SPEC, tree_attention=True)


def test_a_tree_tells_the_graph_what_each_token_sees_and_where_it_stands() -> None:
    d, session = decoder(TREE_SPEC)
    d.prefill(**text(10), max_new_tokens=5, branches=20)
    inputs = session.bound[-1][0]
    assert inputs["table_rows"].array.tolist() == [list(range(10))]
    assert (inputs["tree_mask"].array.shape, inputs["masked_from"].array.tolist()) == ((1, 1, 10, 1), [9])
    assert not inputs["tree_mask"].array.any(), "text sees all before it"
    mask = np.zeros((3, 4), np.float32)
    mask[1, 2] = mask[2, 2] = HIDDEN
    [found] = d.branch(np.ones((3, 4), np.float32), np.array([0, 2]), np.array([10, 10, 11]), mask)
    assert found[:, :2].tolist() == [[13, 0], [13, 2]]
    inputs = session.bound[-1][0]
    assert inputs["table_rows"].array.tolist() == [[10, 10, 11]]
    assert (inputs["masked_from"].array.tolist(), d.length) == ([9], 13)
    np.testing.assert_array_equal(inputs["tree_mask"].array[0, 0], mask)
    d.rewind(10)
    d.extend(np.zeros((1, 4), np.float32))
    inputs = session.bound[-1][0]
    assert inputs["table_rows"].array.tolist() == [[10]] and not inputs["tree_mask"].array.any()


def test_a_graph_that_masks_the_whole_cache_is_told_what_to_write_and_to_see() -> None:
    d, session = decoder(TREE_SPEC, ["table_rows", "write_indices", "attention_mask"])
    d.prefill(**text(5), max_new_tokens=5, branches=20)
    inputs = session.bound[-1][0]
    seen = inputs["attention_mask"].array[0, 0]
    assert inputs["write_indices"].array.tolist() == [0] and seen.shape == (5, GROWTH)
    np.testing.assert_array_equal(seen, np.arange(GROWTH) <= np.arange(5)[:, None])
    # Two tokens below the sixth slot that do not see each other, and one that sees the first of them.
    mask = np.zeros((3, 4), np.float32)
    mask[0, 2:] = mask[1, 1] = mask[1, 3] = mask[2, 2] = HIDDEN
    list(d.branch(np.ones((3, 4), np.float32), np.array([2]), np.array([5, 5, 6]), mask))
    inputs = session.bound[-1][0]
    assert (inputs["write_indices"].array.tolist(), inputs["table_rows"].array.tolist()) == ([5], [[5, 5, 6]])
    assert [np.flatnonzero(row).tolist() for row in inputs["attention_mask"].array[0, 0]] == [
        [*range(5), 5], [*range(5), 6], [*range(5), 5, 7],
    ]  # fmt: skip
    d.rewind(6)
    d.extend(np.zeros((1, 4), np.float32))
    inputs = session.bound[-1][0]
    assert np.flatnonzero(inputs["attention_mask"].array).tolist() == list(range(7)), "nothing of the tree is seen"
    assert "tree_mask" not in inputs and "seqlens_k" in inputs


def test_room_for_branches_is_beyond_the_models_positions() -> None:
    d, _ = decoder(TREE_SPEC)
    d.prefill(**text(990), max_new_tokens=10, branches=500)
    assert d.capacity >= 1500
    list(d.branch(np.zeros((510, 4), np.float32), np.array([0]), np.full(510, 990), np.zeros((510, 512), np.float32)))
    with pytest.raises(EngineError, match="tokens asked for"):
        d.prefill(**text(990), max_new_tokens=11, branches=500)


def test_a_graph_without_tree_attention_refuses_trees() -> None:
    d, session = decoder()
    d.prefill(**text(10), max_new_tokens=5)
    assert not {"table_rows", "tree_mask", "masked_from"} & set(session.bound[-1][0])
    with pytest.raises(EngineError, match=r"no tree attention .* export the bundle again for cpu"):
        list(d.branch(np.zeros((1, 4), np.float32), np.array([0]), np.array([10]), np.zeros((1, 1), np.float32)))
    assert d.length == 10
