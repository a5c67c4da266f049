"""Figures are SVG elements that a page can hold, the same for the same numbers."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from fgr_edge.errors import MissingExtraError
from fgr_edge.evaluate import figures

pytest.importorskip("matplotlib")

BINS = {"before": [(0.4, 0.5, 10), (0.9, 1.0, 12)], "after": [(0.5, 0.5, 22)]}
SLOPES = {"before": ([(2.0, 0.1), (5.0, -0.1)], -0.0667, 0.3), "after": ([(2.0, 0.0), (2.0, 0.1)], None, None)}


def test_figures_are_svg_with_their_words_as_text() -> None:
    drawn = {
        "stated risk 0.05": figures.risk_coverage({"before": [(0.5, 0.0), (1.0, 0.3)], "after": [(1.0, 0.3)]}, 0.05),
        "share of them that is right": figures.reliability(BINS),
        "slope -0.06670, p = 0.3": figures.length_bias(SLOPES),
    }
    for words, svg in drawn.items():
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        text = "".join(root.itertext())
        assert words in text.replace("\N{MINUS SIGN}", "-") and "before" in text and "after" in text


def test_the_same_numbers_give_the_same_figure() -> None:
    assert figures.reliability(BINS) == figures.reliability(BINS)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"fgr-edge\[bench\]"):
        figures.require_matplotlib()
