"""Class names are checked with their line named; constrained decoding reaches each and sums probabilities rightly."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fgr_edge.errors import LabelError
from fgr_edge.runtime.labels import LabelTrie, check_labels, read_labels

# Reading and checking


def test_names_keep_their_order_and_lose_their_margins() -> None:
    assert check_labels(["  Royal Gala\t", "Pink Lady"]) == ("Royal Gala", "Pink Lady")


@pytest.mark.parametrize(
    "name",
    [
        "Käsekuchen",
        "皇家嘎拉",
        "りんご",
        "🍎",
        "👩‍🌾 apple",  # joined by U+200D
        '"Gala"',
        "Gala's",
        "apple/red",
        "back\\slash",
        "100 % juice",
        "{question}",
        "<|im_end|>",
        "</answer>",
        "a  b",
        "#1 apple",
        "-",
        "№ 5 ½",
    ],
)
def test_odd_but_legal_names_are_kept_as_they_are(name: str) -> None:
    assert check_labels([name, "other"]) == (name, "other")


def test_names_are_brought_into_one_unicode_form() -> None:
    composed = "Käse"
    assert check_labels([unicodedata.normalize("NFD", composed)]) == (composed,)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "empty; expected one class name a line"),
        (["a", "  "], "label 2 is empty; expected a class name"),
        (["Royal Gala", "Pink", "royal  gala"], "'Royal Gala' and 'royal  gala' are the same name; expected each"),
        (["Royal Gala", "ROYAL_GALA"], "'Royal Gala' and 'ROYAL_GALA' are the same"),
        (["Straße", "STRASSE"], "same name"),
        (["Käse", unicodedata.normalize("NFD", "Käse")], "same name"),
        (["a", "b\x00c"], r"label 2 \('b\\x00c'\) holds the character U\+0000, which no name has; remove it"),
        (["a\nb"], r"U\+000A"),
        (["a\x1b[31mb"], r"U\+001B"),
        (["a\u2028b"], r"U\+2028"),
        (["a\ud800"], r"U\+D800"),
        (["x" * 201], "label 1 has 201 characters, expected at most 200: 'x{40}'"),
        ([5], "label 1 is a int, expected text"),
        ([None], "label 1 is a NoneType, expected text"),
    ],
)
def test_names_that_cannot_be_used_are_refused_by_position(names: list[object], words: str) -> None:
    with pytest.raises(LabelError, match=words):
        check_labels(names)  # type: ignore[arg-type]


def test_a_file_of_names_may_have_a_mark_comments_blanks_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("﻿# apples\r\nRoyal Gala\r\n\r\n  Käse \r\n# more\nPink Lady".encode())
    assert read_labels(path).names == ("Royal Gala", "Käse", "Pink Lady")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "labels.txt: the list of labels is empty"),
        (b"# only a comment\n\n", "labels.txt: the list of labels is empty"),
        ("Käse\n".encode("latin-1"), "labels.txt cannot be read as UTF-8 text.*expected one class name a line"),
        ("Gala\n".encode("utf-16"), "labels.txt cannot be read as UTF-8 text"),
        (b"Gala\nPink\ngala\n", r"labels.txt: labels 'Gala' \(line 1\) and 'gala' \(line 3\) are the same name"),
        (b"Gala\x00\n", r"labels.txt: .*U\+0000"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(data)
    with pytest.raises(LabelError, match=words):
        read_labels(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"nowhere.txt does not exist; expected a text file"):
        read_labels(tmp_path / "nowhere.txt")
    with pytest.raises(LabelError, match="cannot be read"):
        read_labels(tmp_path)


# The trie

VOCAB = 12
SEQUENCES = [[1, 2, 9], [1, 2, 3, 9], [1, 4, 9], [5, 9], [5, 6, 7, 9]]  # 9 closes; some begin like others


class Table:
    """A toy model: the logits after a sequence depend on the whole of it."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.tokens: list[int] = []
        self.calls = 0

    def logits_after(self, tokens: Sequence[int]) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *tokens])
        return (rng.standard_normal(VOCAB) * 2).astype(np.float32)

    def extend(self, tokens: Sequence[int]) -> np.ndarray:
        self.tokens += tokens
        self.calls += 1
        return self.logits_after(self.tokens)


def greedy_by_hand(table: Table) -> tuple[list[int], float]:
    """Take the likeliest of the tokens that some label allows; multiply their shares among those."""
    done: list[int] = []
    probability = 1.0
    while done not in SEQUENCES:
        allowed = sorted({s[len(done)] for s in SEQUENCES if s[: len(done)] == done and len(s) > len(done)})
        weights = np.exp(table.logits_after(done).astype(np.float64)[allowed])
        probability *= weights.max() / weights.sum()
        done = [*done, allowed[int(weights.argmax())]]
    return done, probability


@pytest.mark.parametrize("seed", range(20))
def test_greedy_follows_the_likeliest_allowed_token_and_multiplies_shares(seed: int) -> None:
    table = Table(seed)
    choice = LabelTrie(SEQUENCES).greedy(table.logits_after([]), table.extend)
    tokens, probability = greedy_by_hand(Table(seed))
    assert SEQUENCES[choice.label] == tokens == list(choice.tokens)
    assert choice.probability == pytest.approx(probability, rel=1e-6)
    assert table.tokens == tokens[: len(table.tokens)]  # what was fed is the beginning of the answer


@pytest.mark.parametrize("wanted", range(len(SEQUENCES)))
def test_every_label_can_be_reached(wanted: int) -> None:
    fed: list[int] = []

    def logits() -> np.ndarray:
        row = np.zeros(VOCAB, np.float32)
        if len(fed) < len(SEQUENCES[wanted]):
            row[SEQUENCES[wanted][len(fed)]] = 8.0
        return row

    def extend(tokens: Sequence[int]) -> np.ndarray:
        fed.extend(tokens)
        return logits()

    choice = LabelTrie(SEQUENCES).greedy(logits(), extend)
    assert choice.label == wanted
    assert choice.probability > 0.98


def test_a_lone_label_is_certain_and_costs_no_call() -> None:
    table = Table()
    choice = LabelTrie([[1, 2, 3]]).greedy(table.logits_after([]), table.extend)
    assert (choice.label, choice.probability, choice.tokens, table.calls) == (0, 1.0, (1, 2, 3), 0)


def test_forced_tokens_are_fed_in_one_call() -> None:
    table = Table()
    LabelTrie([[1, 2, 3, 4], [1, 2, 3, 5]]).greedy(table.logits_after([]), table.extend)
    assert (table.calls, table.tokens) == (1, [1, 2, 3])


def test_tokens_that_no_label_allows_do_not_matter() -> None:
    logits = np.full(VOCAB, 1000.0, np.float32)
    logits[[1, 2]] = [0.0, np.log(3.0)]
    choice = LabelTrie([[1], [2]]).greedy(logits, Table().extend)
    assert (choice.label, pytest.approx(0.75)) == (1, choice.probability)


@pytest.mark.parametrize("sequences", [[[1, 2], [1, 2]], [[1, 2], [1, 2, 3]], [[1, 2, 3], [1, 2]]])
def test_labels_that_decoding_cannot_tell_apart_are_refused(sequences: list[list[int]]) -> None:
    with pytest.raises(LabelError, match=r"label 2 .*expected names that differ"):
        LabelTrie(sequences)
