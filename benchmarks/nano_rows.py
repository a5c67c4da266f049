"""How right models/nano is, and how well it knows that, as heads and rows of text for README files.

In: the documents of `nano_accuracy.py`, `nano_confidence.py` and `outliers.py`. Out: a head and rows; no
rows where nothing was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import cell

Rows = list[list[str]]
Object = Mapping[str, Any]
FITTED = ("-", "val 296")  # scores that nothing was fitted for, or all of val


def accuracy_rows(documents: Sequence[Object]) -> tuple[Sequence[str], Rows]:
    """One row a data set and mode, one column a precision: fine / coarse."""
    cells: dict[str, dict[str, str]] = {}
    for document in documents:
        for row in document["rows"]:
            title = f"{row['data']}, {row['mode']}, n = {row['n']}"
            coarse = "" if row["coarse_percent"] is None else f" / {cell(row['coarse_percent'])}"
            cells.setdefault(title, {})[document["precision"]] = f"{cell(row['fine_percent'])}{coarse}"
    names = [document["precision"] for document in documents]
    head = ["models/nano: top-1, fine / coarse, %", *names]
    return head, [[title, *(row.get(name, "-") for name in names)] for title, row in cells.items()]


def confidence_rows(documents: Sequence[Object]) -> tuple[Sequence[str], Rows]:
    """Probabilities before and after calibration, and what is answered at the stated risk; one column a mode."""
    if not documents:
        return [], []
    head = [f"{d['mode']}, {d['precision']}, {100 * d['risk']:.0f} % risk" for d in documents]
    rows = [
        [title, *(f"{cell(d['before'][key], digits)} to {cell(d['after'][key], digits)}" for d in documents)]
        for title, key, digits in (
            ("top-1, %", "top_1_percent", 1),
            ("ECE", "ece", 3),
            ("negative log-likelihood", "nll", 3),
            ("Brier score", "brier", 3),
        )
    ]
    rows.append(["answered at the stated risk", *(_answered(document) for document in documents)])
    rows.append(["levels above the class, mean", *(cell(d["test"]["mean_level"], 2) for d in documents)])
    rows.append(["clothes refused", *(f"{cell(d['clothes']['refused_percent'])} %" for d in documents)])
    return ["grocery test, before to after", *head], rows


def _answered(document: Object) -> str:
    test = document["test"]
    wrong = "" if test["wrong_percent"] is None else f", {cell(test['wrong_percent'])} % of them wrong"
    return f"{cell(test['answered_percent'])} %{wrong}"


def outlier_rows(documents: Sequence[Object]) -> tuple[Sequence[str], Rows]:
    """AUROC and TNR at 95 % TPR on clothes, AUROC on drawn birds, of every score fitted on val."""
    columns = [(d["precision"], {s["score"]: s for s in d["scores"] if s["fit"] in FITTED}) for d in documents]
    names = list(dict.fromkeys(score for _, scores in columns for score in scores))
    rows = [[name, *(_outlier(scores.get(name)) for _, scores in columns)] for name in names]
    return ["score", *(f"{precision}: clothes, birds" for precision, _ in columns)], rows


def _outlier(score: Object | None) -> str:
    if score is None:
        return "-"
    clothes, birds = score["clothes"], score["birds"]
    tnr = cell(clothes["tnr_at_tpr_95_percent"]["value"])
    return f"{cell(clothes['auroc_percent']['value'])} (TNR {tnr}), {cell(birds['auroc_percent']['value'])}"
