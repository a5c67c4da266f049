"""What prompts begin with alike is read once; a prompt read in chunks is the prompt; what changed is read again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from fgr_edge.runtime.decoder import Decoder
from fgr_edge.runtime.known_prefix import KnownPrefix
from fgr_edge.runtime.pictures.last_picture import LastPicture
from fgr_edge.runtime.recognizer import Recognizer

pytest.importorskip("transformers")

from tests.tiny import TinyModels, drawing, feed, prefill, relative

if TYPE_CHECKING:
    from collections.abc import Sequence

LABELS = ["Royal", "Royal Gala", "Pink Lady"]
ROUNDING = 1e-4  # of the largest logit: keys and values computed with other rows beside them


def opened(
    models: TinyModels, shape: str = "qwen2.5", labels: Sequence[str] | None = LABELS, **options: Any
) -> Recognizer:
    return Recognizer(models.bundle(shape), labels, threads=1, **options)


def counted(recognizer: Recognizer) -> list[int]:
    """Tokens of each decoder call from here on."""
    counts: list[int] = []
    inner = recognizer.model.decoder._run

    def run(embeds: Any, *arguments: Any) -> Any:
        counts.append(len(embeds))
        return inner(embeds, *arguments)

    recognizer.model.decoder._run = run  # type: ignore[method-assign, assignment]
    return counts


def prompt_tokens(recognizer: Recognizer, picture: Image.Image, mode: Any = "direct") -> tuple[int, int]:
    """Of the whole prompt, and of what stands before the picture."""
    prompt = recognizer.model.prompts.build(None, mode, len(recognizer.see(picture).tokens))
    return len(prompt.ids), prompt.image_start


# Prefix


def known(what: list[int], first_position: int = 0) -> KnownPrefix:
    return KnownPrefix(np.array(what), np.tile(np.arange(first_position, first_position + len(what)), (3, 1)))


def test_prompts_share_what_they_begin_with() -> None:
    assert known([1, 2, 3]).shared(None) == 0
    assert known([1, 2, 3]).shared(known([1, 2, 3])) == 3
    assert known([1, 2, 3]).shared(known([1, 2, 4])) == 2
    assert known([1, 2, 3]).shared(known([1, 2])) == 2
    assert known([9, 2, 3]).shared(known([1, 2, 3])) == 0
    assert known([1, 2, 3]).shared(known([1, 2, 3], first_position=1)) == 0
    assert known([1, 2, 3]).before(2).shared(known([1, 2, 3])) == 2  # type: ignore[union-attr]
    assert known([1]).before(0) is None


@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
def test_what_stands_before_the_picture_is_read_once(tiny_models: TinyModels, shape: str) -> None:
    recognizer = opened(tiny_models, shape)
    pictures = [drawing(90, 120, seed) for seed in range(3)]
    recognizer(pictures[0])
    calls = counted(recognizer)
    for picture in pictures[1:]:
        calls.clear()
        found = recognizer(picture)
        whole, before = prompt_tokens(recognizer, picture)
        assert before > 0 and calls[0] == whole - before
        assert found.timings.prompt_tokens == whole


@pytest.mark.parametrize("shape", ["qwen2.5", "qwen2.5-untied", "qwen3"])
def test_logits_after_a_kept_prefix_are_those_of_a_whole_prompt(tiny_models: TinyModels, shape: str) -> None:
    recognizer = opened(tiny_models, shape, keep_picture=True)
    decoder = recognizer.model.decoder
    given = feed(recognizer, tiny_models.reference(shape, (10, 6)))
    whole = prefill(recognizer, given).copy()
    what = np.arange(1000, 1000 + len(given.embeds))
    for kept in (0, 1, 6, len(what) - 1, len(what)):
        other = what.copy()
        other[kept:] += 5000
        decoder.prefill(given.embeds.copy(), given.positions, max_new_tokens=72, deepstack=given.deepstack,
                        prefix=KnownPrefix(other, given.positions))  # fmt: skip
        for buffer in decoder._cache.values():
            buffer.array[:, :, kept:] = 99  # what is not kept must not matter
        calls = counted(recognizer)
        logits = decoder.prefill(
            given.embeds,
            given.positions,
            max_new_tokens=72,
            deepstack=given.deepstack,
            prefix=KnownPrefix(what, given.positions),
        )
        assert calls == [len(what) - min(kept, len(what) - 1)]
        assert relative(logits, whole) < ROUNDING
        del decoder._run


def test_a_cache_that_was_written_over_is_not_believed(tiny_models: TinyModels) -> None:
    recognizer = opened(tiny_models)
    decoder, picture = recognizer.model.decoder, drawing(90, 120)
    whole, before = prompt_tokens(recognizer, picture)

    def first_calls() -> list[int]:
        calls = counted(recognizer)
        recognizer(picture)
        del decoder._run
        return calls[:2]

    assert first_calls() == [before, whole - before]
    assert first_calls()[0] == whole - before
    decoder.rewind(3)
    recognizer.model.extend([20, 21])
    assert first_calls() == [before, whole - before], "rewound into the prefix and written"
    decoder.prefill(recognizer.model.embedding.gather(np.arange(9)), np.tile(np.arange(9), (3, 1)), max_new_tokens=4)
    assert first_calls() == [before, whole - before], "somebody else's prompt"
    decoder.reserve(decoder.capacity + 1)
    assert first_calls() == [before, whole - before], "the cache was allocated anew"


@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
def test_what_was_asked_before_does_not_show_in_a_single_bit(tiny_models: TinyModels, shape: str) -> None:
    picture = drawing(90, 120)
    fresh = opened(tiny_models, shape).evidence(picture).log_probs
    used = opened(tiny_models, shape)
    for other in range(1, 4):
        used(drawing(60 + 30 * other, 100, other), mode="reason" if other == 2 else "direct", think_budget=8)
    assert (used.evidence(picture).log_probs == fresh).all()


def test_answers_after_other_pictures_are_those_of_a_fresh_recognizer(tiny_models: TinyModels) -> None:
    for keep_picture in (False, True):
        kept = opened(tiny_models, keep_picture=keep_picture)
        for seed, size in enumerate([(200, 150), (60, 60), (60, 60), (40, 300), (200, 150)]):
            for mode in ("direct", "reason"):
                picture = drawing(*size, seed=seed // 2)
                one, other = (
                    recognizer(picture, mode=mode, think_budget=12, top_k=3)
                    for recognizer in (kept, opened(tiny_models))
                )
                assert (one.label, one.text) == (other.label, other.text)
                assert one.probability == pytest.approx(other.probability, abs=1e-4)


# The same picture again


def test_a_kept_picture_is_seen_and_read_once(tiny_models: TinyModels) -> None:
    recognizer = opened(tiny_models, keep_picture=True)
    seen: list[int] = []
    encode = recognizer.model.vision.encode
    recognizer.model.vision.encode = lambda patches: seen.append(1) or encode(patches)  # type: ignore[method-assign, func-returns-value]
    picture = drawing(90, 120)
    recognizer(drawing(90, 120, 1), mode="reason", think_budget=5)  # the cache has grown to what thoughts need
    recognizer(picture)
    calls = counted(recognizer)
    recognizer(np.asarray(picture), mode="reason", think_budget=5)
    whole, _ = prompt_tokens(recognizer, picture, "reason")
    assert calls[0] < whole - len(recognizer.see(picture).tokens)
    seen.clear()
    recognizer(picture)
    assert seen == []
    changed = np.asarray(picture).copy()
    changed[45, 60] ^= 128
    recognizer(changed)
    assert seen == [1]


def test_a_picture_is_not_kept_unless_asked_for(tiny_models: TinyModels) -> None:
    recognizer = opened(tiny_models)
    picture = drawing(90, 120)
    whole, before = prompt_tokens(recognizer, picture)
    recognizer(picture)
    calls = counted(recognizer)
    recognizer(picture)
    assert calls[0] == whole - before


def test_pictures_are_the_same_where_every_pixel_is(tiny_models: TinyModels) -> None:
    from fgr_edge.runtime.image import load_image, preprocess

    recognizer = opened(tiny_models)

    def patches(seed: int, width: int = 90) -> Any:
        return preprocess(load_image(drawing(width, 120, seed)), recognizer.model.image)

    last = LastPicture(kept=True)
    assert last.embeds_of(patches(0)) is None
    embeds = recognizer.model.vision.encode(patches(0))
    assert last.take(patches(0), embeds) == 1
    assert last.embeds_of(patches(0)) is embeds
    assert last.take(None, embeds) == 1, "asked about again by its embeddings"
    assert last.embeds_of(patches(1)) is None and last.embeds_of(patches(0, width=200)) is None
    other = patches(0)
    other.pixels[-1, -1] += 1
    assert last.embeds_of(other) is None
    assert last.take(other, recognizer.model.vision.encode(other)) == 2


# Chunks


@pytest.mark.parametrize("shape", ["qwen2.5", "qwen2.5-untied", "qwen3"])
@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_a_prompt_read_in_chunks_gives_the_same_logits(tiny_models: TinyModels, shape: str, chunk: int) -> None:
    recognizer = opened(tiny_models, shape)
    given = feed(recognizer, tiny_models.reference(shape, (10, 6)))
    whole = prefill(recognizer, given).copy()
    recognizer.model.decoder.chunk_tokens = chunk
    calls = counted(recognizer)
    logits = prefill(recognizer, given)
    assert relative(logits, whole) < ROUNDING
    assert max(calls) == chunk and sum(calls) == len(given.embeds)
    assert len(calls) == -(-len(given.embeds) // chunk)


def test_an_engine_that_takes_shorter_inputs_gets_shorter_chunks(tiny_models: TinyModels) -> None:
    recognizer = opened(tiny_models)
    inner = recognizer.model.decoder
    session = inner._session
    session.longest = lambda name, axis: 24 if (name, axis) == ("inputs_embeds", 1) else None  # type: ignore[method-assign]
    assert Decoder(session, inner.spec).chunk_tokens == 24
    assert Decoder(session, inner.spec, chunk_tokens=16).chunk_tokens == 16
