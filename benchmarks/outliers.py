"""Which score tells strange pictures best: `python -m benchmarks.outliers BUNDLE [--mode direct|reason]`.

Known pictures are the grocery test photographs, strange ones photographs of clothes, and drawn birds. Every score of
`outlier_scores.py` is fitted as a user would, on photographs of known classes alone: all of val, 40 of val (the mean
over draws), 4 of each class of train, all of train (which the model was trained on). Prints AUROC and TNR at 95 % TPR
with bootstrap intervals; the last line is one JSON document. Clothes and test photographs fit nothing; the shipped
score is the one that did best here, so its own figures are of the pictures that chose it.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.outlier_scores import SCORES, UNFITTED, Floats, Known, Pictures, Score
from benchmarks.report import publish, table
from fgr_edge import Recognizer
from fgr_edge.calibrate.outliers import fit_outliers
from fgr_edge.data.aviary import HELD_OUT_SEEDS, SPECIES, TRAINING_SEEDS, Species
from fgr_edge.data.aviary_drawing import draw
from fgr_edge.data.grocery import read_classes, read_split
from fgr_edge.evaluate.metrics import RiskCoverage, auroc, risk_coverage, tnr_at_tpr
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.image import ImageInput
from fgr_edge.runtime.prompt import Mode

RESAMPLES = 1000
DRAWS = 10  # of 40 photographs
PER_CLASS = 4
DRAWINGS_PER_SPECIES = 5
CHOSEN = "nearest + energy (shipped)"
PLOTTED = ("max softmax (MSP)", "energy", "nearest, normalised (kNN)", "Mahalanobis", "nearest, by channel", CHOSEN)


def evidence_of(
    recognizer: Recognizer, images: Iterable[ImageInput], classes: Iterable[int], mode: Mode, name: str
) -> Pictures:
    """What the model says of every picture."""
    start = time.perf_counter()
    found = [recognizer.evidence(image, mode=mode) for image in images]
    print(f"{name}: {len(found)} pictures in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    features = np.stack([one.features for one in found]).astype(np.float64)
    log_probs = np.stack([one.log_probs for one in found])
    return Pictures(features, log_probs, np.fromiter(classes, np.int64, len(found)))


def collect(options: argparse.Namespace) -> dict[str, Pictures]:
    """All pictures, by what they are for."""
    names = read_classes(options.grocery).fine
    recognizer = Recognizer(options.bundle, labels=list(names))
    found: dict[str, Pictures] = {}
    for split in ("train", "val", "test"):
        photographs = read_split(options.grocery, split)
        classes = [photograph.fine for photograph in photographs]
        images = [photograph.path for photograph in photographs]
        found[split] = evidence_of(recognizer, images, classes, options.mode, split)
    clothes = sorted(options.clothes.glob("*.jpg"))
    found["clothes"] = evidence_of(recognizer, clothes, [-1] * len(clothes), options.mode, "clothes")
    for name, seeds in (("birds", HELD_OUT_SEEDS), ("mixed birds", TRAINING_SEEDS)):
        drawings = [_drawn(species, seeds[k]) for species in SPECIES for k in range(DRAWINGS_PER_SPECIES)]
        found[name] = evidence_of(recognizer, drawings, [-1] * len(drawings), options.mode, name)
    return found


def _drawn(species: Species, seed: int) -> bytes:
    file = io.BytesIO()
    draw(species, seed).save(file, "PNG")
    return file.getvalue()


def fits(pictures: dict[str, Pictures]) -> dict[str, list[Pictures]]:
    """The photographs that scores are fitted on, by name; several draws where chance has a say."""
    val, train = pictures["val"], pictures["train"]
    rng = np.random.default_rng(0)
    draws = [val.take(np.sort(rng.choice(len(val), 40, replace=False))) for _ in range(DRAWS)]
    few = np.concatenate(
        [rng.choice(np.flatnonzero(train.classes == c), PER_CLASS, replace=False) for c in np.unique(train.classes)]
    )
    return {f"val {len(val)}": [val], "val 40": draws, f"train {len(few)}": [train.take(few)],
            f"train {len(train)}": [train]}  # fmt: skip


def figures(known: Floats, strange: Floats) -> dict[str, Any]:
    """AUROC and TNR at 95 % TPR, in per cent, with 95 % percentile intervals over resampled pictures."""
    rng = np.random.default_rng(0)
    trials = []
    for _ in range(RESAMPLES):
        again = (-rng.choice(known, len(known)), -rng.choice(strange, len(strange)))
        trials.append((auroc(*again), tnr_at_tpr(*again)))
    ends = np.quantile(trials, [0.025, 0.975], axis=0)
    exact = (auroc(-known, -strange), tnr_at_tpr(-known, -strange))
    return {
        name: {"value": _percent(exact[i]), "low": _percent(ends[0, i]), "high": _percent(ends[1, i])}
        for i, name in enumerate(("auroc_percent", "tnr_at_tpr_95_percent"))
    }


def _percent(share: float | np.floating[Any]) -> float:
    return round(100 * float(share), 2)


def compare(pictures: dict[str, Pictures]) -> list[dict[str, Any]]:
    """One row for each score and fit. Over several draws: mean figures, no interval, the lowest AUROC."""
    rows: list[dict[str, Any]] = []
    for fit, draws in fits(pictures).items():
        for name, make in SCORES.items():
            if name in UNFITTED and rows and any(row["score"] == name for row in rows):
                continue
            scores = [make(Known(photographs, pictures["mixed birds"])) for photographs in draws]
            row: dict[str, Any] = {"score": name, "fit": "-" if name in UNFITTED else fit}
            for strange in ("clothes", "birds"):
                row[strange] = _figures_over(scores, pictures["test"], pictures[strange])
            rows.append(row)
            print(f"{row['score']}, {row['fit']}: {_cell(row['clothes']['auroc_percent'])}", file=sys.stderr)
    return rows


def _figures_over(scores: list[Score], known: Pictures, strange: Pictures) -> dict[str, Any]:
    if len(scores) == 1:
        return figures(scores[0](known), scores[0](strange))
    pairs = [(-score(known), -score(strange)) for score in scores]
    found: dict[str, Any] = {}
    for name, measure in (("auroc_percent", auroc), ("tnr_at_tpr_95_percent", tnr_at_tpr)):
        values = [_percent(measure(*pair)) for pair in pairs]
        found[name] = {"value": round(float(np.mean(values)), 2), "lowest": min(values), "highest": max(values)}
    return found


def thresholds(pictures: dict[str, Pictures]) -> list[dict[str, Any]]:
    """What the shipped threshold, meant to keep 95 %, does to pictures it was not fitted on; means over draws."""
    rows = []
    for fit, draws in fits(pictures).items():
        kept, refused, size = [], [], 0
        for known in draws:
            limit = fit_outliers(known.features, known.classes, known.log_probs)
            score = SCORES[CHOSEN](Known(known, known))
            kept.append(float((score(pictures["test"]) <= limit.threshold).mean()))
            refused.append(float((score(pictures["clothes"]) > limit.threshold).mean()))
            size = sum(array.nbytes for array in limit.arrays().values())
        rows.append(
            {"fit": fit, "test_kept_percent": _percent(np.mean(kept)), "test_kept_lowest_percent": _percent(min(kept)),
             "clothes_refused_percent": _percent(np.mean(refused)),
             "clothes_refused_lowest_percent": _percent(min(refused)), "bytes": size}
        )  # fmt: skip
    return rows


def risk_curves(pictures: dict[str, Pictures]) -> dict[str, RiskCoverage]:
    """Test photographs and clothes together, the most probable answered first; every answer to clothes is wrong.

    With the outlier rule, fitted on val, the pictures that it refuses come last.
    """
    val = pictures["val"]
    limit = fit_outliers(val.features, val.classes, val.log_probs).threshold
    both = [pictures["test"], pictures["clothes"]]
    correct = np.concatenate([part.log_probs.argmax(axis=1) == part.classes for part in both])
    known = Known(val, val)
    sure = -np.concatenate([SCORES["max softmax (MSP)"](known)(part) for part in both])
    refused = np.concatenate([SCORES[CHOSEN](known)(part) for part in both]) > limit
    return {
        "probability alone": risk_coverage(sure, correct),
        "probability, after the outlier rule": risk_coverage(sure - refused, correct),
    }


def plot(pictures: dict[str, Pictures], title: str, path: Path) -> None:
    """ROC curves, and risk over coverage with clothes among the photographs; scores fitted on val."""
    from fgr_edge.evaluate.figures import require_matplotlib

    require_matplotlib()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    known = Known(pictures["val"], pictures["mixed birds"])
    figure, (roc, risk) = plt.subplots(1, 2, figsize=(11, 4.8))
    for name in PLOTTED:
        score = SCORES[name](known)
        of_known, of_strange = score(pictures["test"]), score(pictures["clothes"])
        limits = np.sort(np.concatenate([of_known, of_strange, [-np.inf]]))
        let_through = [(values[:, None] <= limits).mean(axis=0) for values in (of_strange, of_known)]
        area = auroc(-of_known, -of_strange)
        roc.plot(*let_through, label=f"{name}: {100 * area:.1f}", linewidth=2.4 if name == CHOSEN else 1.2)
    for name, curve in risk_curves(pictures).items():
        risk.plot(curve.coverage, curve.risk, label=name)
    risk.legend(loc="upper left", fontsize=8)
    roc.set(xlabel="share of clothes let through", ylabel="share of test photographs kept", title=title)
    roc.legend(loc="lower right", fontsize=8, title="AUROC, %, fitted on val")
    risk.set(xlabel="share of test photographs and clothes answered", ylabel="share of answers that are wrong",
             title="the most probable answered first", xlim=(0, 1), ylim=(0, None))  # fmt: skip
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _cell(value: dict[str, float]) -> str:
    ends = ("low", "high") if "low" in value else ("lowest", "highest")
    return f"{value['value']:.1f} [{value[ends[0]]:.1f}, {value[ends[1]]:.1f}]"


def show(rows: list[dict[str, Any]], limits: list[dict[str, Any]]) -> None:
    """Both tables, for a person."""
    head = ["score", "fitted on", "clothes: AUROC", "TNR at 95 % TPR", "birds: AUROC"]
    lines = [
        [row["score"], row["fit"], _cell(row["clothes"]["auroc_percent"]),
         _cell(row["clothes"]["tnr_at_tpr_95_percent"]), _cell(row["birds"]["auroc_percent"])]
        for row in rows
    ]  # fmt: skip
    print(table(head, lines) + "\n")
    head = ["shipped threshold, fitted on", "test kept", "lowest draw", "clothes refused", "lowest draw", "bytes"]
    print(table(head, [[str(value) for value in row.values()] for row in limits]) + "\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--mode", choices=("direct", "reason"), default="direct")
    parser.add_argument("--grocery", type=Path, default=Path("../shared/grocery"))
    parser.add_argument("--clothes", type=Path, default=Path("../shared/ood_clothing"))
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    parser.add_argument("--plot", type=Path, help="also draw the curves into this PNG file")
    options = parser.parse_args()
    precision = Bundle.open(options.bundle).manifest["precision"]["decoder"]
    pictures = collect(options)
    rows, limits = compare(pictures), thresholds(pictures)
    show(rows, limits)
    if options.plot is not None:
        plot(pictures, f"nano {precision}, {options.mode} mode", options.plot)
    document = {
        "benchmark": "outliers",
        "precision": precision,
        "mode": options.mode,
        "pictures": {name: len(part) for name, part in pictures.items()},
        "chosen": CHOSEN,
        "scores": rows,
        "thresholds": limits,
        "aurc_test_and_clothes": {name: round(curve.aurc, 4) for name, curve in risk_curves(pictures).items()},
        "machine": describe_machine(),
    }
    publish(document, options.json)


if __name__ == "__main__":
    main()
