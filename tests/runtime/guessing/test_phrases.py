"""Phrases come back as they were written; a damaged file is named, and speculation begins with what they say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fgr_edge.errors import BundleError
from fgr_edge.runtime.bundle import TOKENIZER, Bundle
from fgr_edge.runtime.bundle_amendment import BundleAmendment
from fgr_edge.runtime.guessing.phrases import MOST_TOKENS, PHRASES, save_phrases, stored_phrases
from fgr_edge.runtime.recognizer import Recognizer

pytest.importorskip("transformers")

from tests.tiny import drawing

if TYPE_CHECKING:
    from tests.tiny import TinyModels

TEXTS = [[10, 11, 12], [13], [14, 15]]


@pytest.fixture
def bundle(tiny_models: TinyModels, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models.bundle("qwen2.5"), tmp_path / "bundle"))


def store(bundle: Path, texts: list[list[int]], **other: Any) -> Bundle:
    """Amend a bundle by phrases, with other arrays where they are given."""
    digest = Bundle.open(bundle).manifest["files"][TOKENIZER]["sha256"]
    with BundleAmendment(bundle) as amendment:
        path = amendment.path(PHRASES)
        save_phrases(path, texts, digest)
        if other:
            with np.load(path) as stored:
                arrays = {**stored, **other}
            np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return Bundle.open(bundle)


def test_phrases_come_back_and_are_checked_like_every_file(bundle: Path) -> None:
    assert stored_phrases(Bundle.open(bundle)) == []
    stored = store(bundle, [*TEXTS, []])
    assert stored_phrases(stored) == TEXTS
    assert PHRASES in stored.manifest["files"]
    (bundle / PHRASES).write_bytes(b"\x00" * (bundle / PHRASES).stat().st_size)
    with pytest.raises(BundleError, match=r"phrases\.npz has changed"):
        Bundle.open(bundle)


def test_no_more_tokens_are_stored_than_there_is_room_for(tmp_path: Path) -> None:
    text = list(range(1000))
    assert save_phrases(tmp_path / PHRASES, [text] * 100, "ab" * 32) == MOST_TOKENS
    with np.load(tmp_path / PHRASES) as stored:
        assert len(stored["ids"]) == MOST_TOKENS == stored["ends"][-1]
        assert len(stored["ends"]) == -(-MOST_TOKENS // 1000)
    assert (tmp_path / PHRASES).stat().st_size < 4 * MOST_TOKENS
    assert save_phrases(tmp_path / PHRASES, TEXTS, "ab" * 32) == 6


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"ends": None}, "expected ids, ends and tokenizer_sha256"),
        ({"tokenizer_sha256": np.zeros(32, np.uint8)}, "of another tokenizer"),
        ({"ids": np.array([10, 11, 12, 13, 14, 320], np.int32)}, "no texts of tokens below 320"),
        ({"ids": np.array([10, 11, 12, 13, 14, -1], np.int32)}, "no texts of tokens below 320"),
        ({"ids": np.zeros(6, np.float32)}, "no texts of tokens"),
        ({"ends": np.array([3, 2, 6])}, "no texts of tokens"),
        ({"ends": np.array([3, 4, 5])}, "no texts of tokens"),
    ],
)
def test_phrases_that_are_not_as_they_were_written_are_an_error(
    bundle: Path, other: dict[str, Any], words: str
) -> None:
    stored = store(bundle, TEXTS, **other)
    with pytest.raises(BundleError, match=words) as raised:
        stored_phrases(stored)
    assert PHRASES in str(raised.value) and "export the bundle again" in str(raised.value)


def test_speculation_begins_with_the_stored_phrases(bundle: Path) -> None:
    plain = Recognizer(bundle, threads=1, speculate=False)
    said = plain(drawing(90, 90), mode="reason", think_budget=60).text
    calls = []
    for texts in ([], [plain.model.prompts.encode_text(said)] * 3):
        store(bundle, texts)
        guessed = Recognizer(bundle, threads=1)
        assert guessed._reader.speculation is not None and guessed.speculated is not None
        guessed._reader.speculation._probe = None
        guessed._reader.speculation._pace.seconds = lambda rows: 1 + 0.03 * rows  # type: ignore[method-assign]
        assert guessed(drawing(90, 90), mode="reason", think_budget=60).text == said
        calls.append(guessed.speculated.calls)
    assert calls[1] < calls[0]
