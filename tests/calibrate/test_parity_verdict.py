"""The verdict: within the bound or not, what a reader must know, and what to try."""

from __future__ import annotations

import pytest

from fgr_edge.calibrate.parity_document import Parity
from fgr_edge.calibrate.parity_verdict import points, refuse, verdict
from fgr_edge.errors import FgrEdgeError, ParityError
from tests.calibrate.parities import parity


def test_a_loss_within_the_bound_passes_and_one_beyond_it_is_refused_with_what_to_try() -> None:
    document = parity(pictures=200, lost=3, gained=1)  # one point
    passed = verdict(document, 0.01)
    assert passed["passed"] and not passed["advice"]
    refuse(passed)
    failed = verdict(document, 0.009)
    assert not failed["passed"] and failed["advice"]
    expected = r"98\.5 %, -1\.0 points .*; expected a loss of at most 0\.9 points .* What to try: "
    with pytest.raises(ParityError, match=expected) as raised:
        refuse(failed)
    assert isinstance(raised.value, FgrEdgeError) and isinstance(raised.value, ValueError)


def test_the_headline_is_of_the_mode_that_lost_most() -> None:
    document = parity(pictures=200, lost=0, gained=2)
    document["accuracy"].append({**parity(pictures=200, lost=4, gained=0)["accuracy"][0], "mode": "reason"})
    headline = verdict(document, None)["headline"]
    assert "-2.0 points" in headline and "reason mode" in headline


def test_no_bound_refuses_nothing() -> None:
    judged = verdict(parity(pictures=50, lost=25, gained=0), None)
    assert judged["passed"]
    refuse(judged)


def test_few_pictures_are_named_as_such() -> None:
    judged = verdict(parity(pictures=60, lost=0, gained=0), 0.01)
    assert judged["passed"]
    assert any("cannot be ruled out" in sentence for sentence in judged["found"])
    many = verdict(parity(pictures=3000, lost=0, gained=0), 0.01)
    assert not any("cannot be ruled out" in sentence for sentence in many["found"])


def test_drawn_birds_are_said_to_prove_little() -> None:
    document = parity(pictures=100, lost=0, gained=0)
    assert not any("aviary" in sentence for sentence in verdict(document, 0.01)["found"])
    document["data"]["users"] = False
    assert "aviary" in verdict(document, 0.01)["found"][0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "a higher precision (--precision int8"),
        ({}, "--method awq or gptq, with --calib"),
        ({"calibration": {"source": "photographs", "method": "awq"}}, "another method (--method gptq)"),
        ({"sensitivity": [{"unit": "vision.merger", "error": 0.1, "kept": None}]}, "vision.merger"),
    ],
)
def test_the_advice_fits_what_was_done(change: dict[str, object], expected: str) -> None:
    document: Parity = {**parity(pictures=400, lost=30, gained=1), **change}  # type: ignore[typeddict-item]
    document["bundle"]["precision"] = dict.fromkeys(("vision", "decoder", "head"), "int4-128")
    advice = verdict(document, 0.01)["advice"]
    assert any(expected in one for one in advice)
    assert not any("more photographs" in one for one in advice)  # 30 to 1 is no chance


def test_a_loss_that_may_be_chance_asks_for_more_photographs() -> None:
    advice = verdict(parity(pictures=40, lost=1, gained=0), 0.01)["advice"]
    assert any("one answer of 40 is 2.5 points" in one for one in advice)


def test_the_first_stage_out_of_bounds_is_named_and_what_follows_from_it_is_not() -> None:
    document = parity(pictures=100, lost=0, gained=0)
    for number, stage in enumerate(("image_embeds", "first_logits")):
        document["stages"][number] |= {"stage": stage, "worst": 0.7, "bound": 0.25, "within": False}
    found = [sentence for sentence in verdict(document, 0.01)["found"] if "expected at most" in sentence]
    assert len(found) == 1 and found[0].startswith("image_embeds: relative_error reaches 0.7")


def test_layers_that_were_kept_by_these_pictures_are_said_to_be() -> None:
    document = parity(pictures=100, lost=0, gained=0)
    document["sensitivity"] = [{"unit": "decoder.0", "error": 0.1, "kept": None}]
    assert not any("these same pictures" in sentence for sentence in verdict(document, 0.01)["found"])
    document["sensitivity"][0]["kept"] = "int8"
    assert any("these same pictures" in sentence for sentence in verdict(document, 0.01)["found"])


def test_points_are_signed_and_never_minus_zero() -> None:
    assert [points(share) for share in (-0.001, 0.0123, -0.0004, 0.0)] == ["-0.1", "+1.2", "0.0", "0.0"]
