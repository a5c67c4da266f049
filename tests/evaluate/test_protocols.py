"""The protocols, on models whose answers are known: what is asked and what counts as right."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pytest

from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.evaluate.options import FourOptions, four_options
from fgr_edge.evaluate.protocols import Choice, closed_all, closed_four, open_answer
from fgr_edge.evaluate.summary import measures, per_class, share
from fgr_edge.runtime.confidence import Confidence
from fgr_edge.runtime.evidence import Evidence
from fgr_edge.runtime.image import ImageInput
from fgr_edge.runtime.labels import Label, LabelSet
from fgr_edge.runtime.prediction import Timings
from fgr_edge.runtime.prompt import Mode

NAMES = ("Royal Gala", "Pink Lady", "Kiwi", "Lime", "Plum", "Fig")
LABELS = LabelSet.from_names(NAMES)
PICTURE = LabelledPicture(Path("a.jpg"), "Kiwi", "What fruit is it?")
TIMINGS = Timings(*[0] * len(fields(Timings)))


@dataclass
class Parrot:
    """Says one text, and likes labels in the order of their names; remembers what it was asked."""

    text: str = ""
    asked: list[str | None] = field(default_factory=list)
    modes: list[Mode] = field(default_factory=list)

    def evidence(
        self,
        image: ImageInput,
        *,
        mode: Mode = "direct",
        question: str | None = None,
        labels: LabelSet | None = None,
        wording: str | None = None,
    ) -> Evidence:
        names = (labels or LABELS).names
        self.asked += [question, wording]
        self.modes.append(mode)
        places = np.argsort(np.argsort(names))
        return Evidence(-places.astype(np.float64), np.zeros(4, np.float32), "a thought", TIMINGS)

    def generate(self, image: ImageInput, wording: str, *, max_new_tokens: int = 1024) -> str:
        self.asked.append(wording)
        if self.text:
            return self.text
        options = wording.split("provided in [")[1].split("]")[0]  # the first option, whatever it is
        return f"<think>first</think> <answer>{options.split(',')[0].strip(chr(39))}</answer>"


def test_a_model_that_takes_the_first_option_is_right_a_quarter_of_the_time() -> None:
    pictures = [LabelledPicture(Path(f"{i}.jpg"), "Kiwi") for i in range(200)]
    outcomes = [
        closed_four(Parrot(), picture, four_options(picture, 2, LABELS, np.random.default_rng([0, i])), "direct")
        for i, picture in enumerate(pictures)
    ]
    got = measures(outcomes, LABELS)
    right = [got[f"exact_match_right_option_{place}"] for place in (1, 2, 3, 4)]
    assert [part["share"] for part in right if isinstance(part, dict)] == [1.0, 0.0, 0.0, 0.0]
    total = got["exact_match"]
    assert isinstance(total, dict) and total["low"] < 0.25 < total["high"] and total["count"] == 200


def test_closed_four_asks_the_papers_prompt_with_the_options_as_shuffled() -> None:
    parrot = Parrot("<answer>Lime.</answer>")
    options = FourOptions(("Lime", "Kiwi", "Plum", "Fig"), 1)
    got = closed_four(parrot, PICTURE, options, "direct")
    assert parrot.asked[0] is not None and "['Lime', 'Kiwi', 'Plum', 'Fig']" in parrot.asked[0]
    assert parrot.asked[1:] == ["What fruit is it?", None], "direct scores use the bundle's own wording"
    assert (got.answer, got.right, got.truth, got.position) == ("Lime", False, "Kiwi", 1)
    # Sorted by name, Fig is the likeliest: 1 / (1 + e^-1 + e^-2 + e^-3).
    assert got.scored == "Fig" and got.scored_probability == pytest.approx(0.6439, abs=1e-4)

    reasoned = Parrot("<answer>Kiwi</answer>")
    assert closed_four(reasoned, PICTURE, options, "reason").right
    assert reasoned.asked[2] == reasoned.asked[0] and reasoned.modes == ["reason"], "thinks about the four options"


def test_an_answer_that_names_a_longer_option_is_right_by_substring_alone() -> None:
    picture = LabelledPicture(Path("a.jpg"), "Collie")
    options = FourOptions(("Borzoi", "Border Collie", "Collie", "Pug"), 2)
    wrong = closed_four(Parrot("<answer>border-collie</answer>"), picture, options, "direct")
    assert (wrong.answer, wrong.right, wrong.substring) == ("Border Collie", False, True)
    none = closed_four(Parrot("<think>a Collie, I am sure"), picture, options, "direct")
    assert (none.answer, none.right, none.substring) == (None, False, False)
    got = measures([wrong, none], LABELS)
    assert got["substring_match_only"] == share([True, False]) and got["exact_match"] == share([False, False])


def test_closed_all_ranks_every_class() -> None:
    got = closed_all(Parrot(), PICTURE, 2, LABELS, None, "reason")
    assert (got.answer, got.right, got.rank, got.text) == ("Fig", False, 2, "a thought")
    assert [name for name, _ in got.top_5] == sorted(NAMES)[:5]
    shares = np.exp(-np.arange(6.0)) / np.exp(-np.arange(6.0)).sum()
    assert (got.probability, got.truth_probability) == pytest.approx((shares[0], shares[1]))
    assert got.calibrated is None
    got_measures = measures([got], LABELS)
    assert got_measures["nll"] == pytest.approx(-np.log(shares[1]))
    assert got_measures["ece"] == pytest.approx(shares[0]) and got_measures["calibrated_ece"] is None
    assert got_measures["coarse_top_1"] is None and got_measures["top_5"] == share([True])


def test_calibrated_measures_rest_on_the_calibrated_probabilities() -> None:
    bias = np.zeros(6)
    bias[5] = 3.0  # Fig was named too often
    fitted = Confidence(2.0, bias, 0.5, None, risk=0.1, risk_confidence=0.9, photographs=9)
    got = closed_all(Parrot(), PICTURE, 2, LABELS, fitted, "direct")
    expected = fitted.probabilities(Parrot().evidence("a.jpg").log_probs)
    assert (got.right, got.calibrated_right) == (False, True)
    assert got.calibrated == (expected.max(), expected[2])
    assert measures([got], LABELS)["calibrated_nll"] == pytest.approx(-np.log(expected[2]))
    assert measures([got], LABELS)["calibrated_top_1"] == share([True])


def test_a_sibling_counts_as_right_at_the_level_above() -> None:
    labels = LabelSet((Label("Kiwi", "Green"), Label("Fig", "Green"), Label("Plum")))
    picture = LabelledPicture(Path("a.jpg"), "Kiwi")

    @dataclass
    class Fig(Parrot):
        def evidence(self, image: ImageInput, **_: object) -> Evidence:
            return Evidence(np.array([-2.0, -1.0, -3.0]), np.zeros(4, np.float32), "", TIMINGS)

    outcomes = [closed_all(Fig(), picture, truth, labels, None, "direct") for truth in (0, 2)]
    assert measures(outcomes, labels)["coarse_top_1"] == share([True, False])
    assert [row["label"] for row in per_class(outcomes, labels, [0, 2])] == ["Kiwi", "Plum"]
    assert measures(outcomes, labels)["mean_per_class"] == 0.0


def test_open_answers_are_read_by_inclusion_and_named_by_exact_match() -> None:
    said = open_answer(Parrot("<think>green</think> <answer>a kiwi fruit</answer>"), PICTURE, LABELS, None)
    assert (said.right, said.exact, said.answer, said.similarity) == (True, False, None, None)
    bare = open_answer(Parrot("Lime\n"), PICTURE, LABELS, None)
    assert (bare.said, bare.right, bare.answer) == ("Lime", False, "Lime")
    got = measures([said, bare], LABELS)
    assert got["text_inclusion"] == share([True, False]) and got["relative_similarity"] is None


def test_relative_similarity_is_averaged_where_an_encoder_is_given() -> None:
    def encode(text: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.eye(3)[{"kiwi": 0, "object": 1}.get(text.lower(), 2)]

    outcomes = [open_answer(Parrot(f"<answer>{text}</answer>"), PICTURE, LABELS, encode) for text in ("Kiwi", "Lime")]
    assert [outcome.similarity for outcome in outcomes] == [1.0, 0.0]
    assert measures(outcomes, LABELS)["relative_similarity"] == 0.5


def test_a_share_has_its_wilson_interval_and_none_of_nothing() -> None:
    got = share([True] * 8 + [False] * 2)
    assert got is not None and (got["right"], got["count"], got["share"]) == (8, 10, 0.8)
    assert (got["low"], got["high"]) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson's own, by hand
    assert share([]) is None


def test_choices_keep_what_was_generated() -> None:
    got = closed_four(Parrot("<answer>Kiwi</answer> thanks"), PICTURE, FourOptions(NAMES[:4], 2), "direct")
    assert isinstance(got, Choice) and got.text == "<answer>Kiwi</answer> thanks" and got.options == NAMES[:4]
