"""What the probabilities of N labels cost, beside one pass per label: same bundle, picture, prompt and engine.

In: bundles. Out: a table, a plot of cost over the number of labels, then one line of JSON. All ways take turns, in an
order that turns with the round, after a round that is thrown away; each starts from the same prefilled prompt.

full        every label's log-probability over the trie (`LabelScorer.all`)
best        the likeliest label with its probability and a bound on the rest (`LabelScorer.best`): what recognition does
cached      one pass per label, names only, on the prompt's KV cache: the closest that other engines can come
whole       one pass per label, prompt and name: what users of a plain forward pass do
prefill     a plain prefill of as many tokens as the trie has inner nodes, on an empty cache: logits of the last row,
            and of all rows; and of all rows where the tokens follow the prompt, as the names do

`cached` and `whole` are timed on a few labels spread over the list and scaled up, in every `PASSES_EVERY`th round.
`read` is the picture, from the file to the logits of the first token; nothing rests in between: cores that did take
milliseconds to wake. Prefills above `MOST_PREFILLED` tokens and full scoring above `--most-full` labels are left out.

    python -m benchmarks.label_scores BUNDLE... [--pictures SOURCE] [--counts 10,81,1000] [--rounds 5] [--threads 2]
                                      [--names FILE...] [--most-full 10000] [--json FILE] [--plot FILE]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.bandwidth import ReadBandwidth
from benchmarks.label_names import names
from benchmarks.machine import describe_machine
from benchmarks.picture import write_picture
from benchmarks.report import cell, percentiles, publish, ratio, table
from fgr_edge import Recognizer
from fgr_edge.data.labelled import read_labelled
from fgr_edge.runtime.confidence import Confidence
from fgr_edge.runtime.label_trie.label_scorer import DIRECT, LabelScorer
from fgr_edge.runtime.labels import LabelSet, read_labels
from fgr_edge.runtime.request import Request

MOST_PREFILLED = 2048
SAMPLED = 8  # labels that one pass per label is timed on
PASSES_EVERY = 4  # rounds, from the first on: they are slow, and hardly differ
PREFILLS = ("prefill last row", "prefill all rows", "prefill after the prompt")


@dataclass(frozen=True)
class Case:
    """One list of labels on one bundle."""

    title: str
    recognizer: Recognizer
    scorer: LabelScorer
    full: bool
    confidence: Confidence

    @property
    def trie(self) -> Any:
        return self.scorer._compile(DIRECT).trie


def open_case(recognizer: Recognizer, title: str, labels: LabelSet, most_full: int) -> Case:
    """A case whose cache has room for everything that is timed."""
    scorer = recognizer._scorer_of(labels, None)
    case = Case(title, recognizer, scorer, len(labels) <= most_full, Confidence.uncalibrated(len(labels)))
    recognizer.model.decoder.reserve(1, MOST_PREFILLED + 512)
    return case


def read(case: Case, picture: Path) -> Any:
    """Picture and question into the cache, as recognition does it."""
    return case.recognizer._reader.read(picture, Request(), case.scorer)


def ways(case: Case, passes: bool, scores: list[Any]) -> dict[str, Callable[[Any], float]]:
    """Each way by name: from a context to the milliseconds that it took; best-first leaves its result in `scores`."""
    found: dict[str, Callable[[Any], float]] = {"best": lambda context: _best(case, context, scores)}
    if case.full:
        found["full"] = lambda context: _full(case, context)
        if len(case.trie.inner) <= MOST_PREFILLED:
            for name in PREFILLS:
                found[name] = partial(_prefill, case, name)
    if passes:
        found["cached"] = lambda context: _pass_per_label(case, context, whole=False)
        found["whole"] = lambda context: _pass_per_label(case, context, whole=True)
    return found


def _best(case: Case, context: Any, scores: list[Any]) -> float:
    start = time.perf_counter()
    scores.append(case.scorer.best(DIRECT, context.logits, case.recognizer.model.extend, case.confidence))
    return (time.perf_counter() - start) * 1e3


def _full(case: Case, context: Any) -> float:
    start = time.perf_counter()
    case.scorer.all(DIRECT, context.logits, case.recognizer.model.extend)
    return (time.perf_counter() - start) * 1e3


def _prefill(case: Case, name: str, _: Any) -> float:
    """The trie's tokens, each after the one before; all rows in as many calls and parts as full scoring makes."""
    decoder, tokens = case.recognizer.model.decoder, case.trie.tokens[case.trie.inner]
    embeds = case.recognizer.model.embedding.gather(tokens)
    if name != "prefill after the prompt":
        decoder.rewind(0)
    start = time.perf_counter()
    if name == "prefill last row":
        decoder.forward(embeds, np.array([len(embeds) - 1]))
    else:
        for part in np.array_split(embeds, -(-len(embeds) // case.scorer._chunk)):
            for _logits in decoder.check(part).call.in_parts():
                pass
    return (time.perf_counter() - start) * 1e3


def _pass_per_label(case: Case, context: Any, *, whole: bool) -> float:
    trie, decoder = case.trie, case.recognizer.model.decoder
    forms = np.linspace(0, len(trie.leaf_of) - 1, min(SAMPLED, len(trie.leaf_of))).astype(int)
    prompt = context.prompt.ids
    start = time.perf_counter()
    for form in forms:
        tokens = trie.tokens[trie.path(int(trie.leaf_of[form]))[:-1]]  # the closing token is predicted, not fed
        decoder.rewind(0 if whole else len(prompt))
        ids = np.concatenate([prompt, tokens]) if whole else tokens
        if len(ids):
            decoder.forward(case.recognizer.model.embedding.gather(ids), np.arange(len(ids) - len(tokens), len(ids)))
    return (time.perf_counter() - start) * 1e3 * len(trie.leaf_of) / len(forms)


def measure(case: Case, pictures: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Medians of every way, over rounds; each round takes the next picture."""
    done: dict[str, list[float]] = {}
    reads: list[float] = []
    scores: list[Any] = []
    for number in range(rounds + 1):
        picture = pictures[number % len(pictures)]
        turns = list(ways(case, number == 0 or number % PASSES_EVERY == 1, scores).items())
        turn = number % len(turns)
        for name, way in (*turns[turn:], *turns[:turn]):
            start = time.perf_counter()
            context = read(case, picture)
            read_ms = (time.perf_counter() - start) * 1e3
            took = way(context)
            if number:
                reads.append(read_ms)
                done.setdefault(name, []).append(took)
    return {
        "labels": len(case.scorer.labels),
        "inner_nodes": len(case.trie.inner),
        "prompt_tokens": len(context.prompt.ids),
        "read_ms": percentiles(reads),
        "ways_ms": {name: percentiles(values) for name, values in done.items()},
        "best_nodes": percentiles([found.nodes for found in scores[1:]]),
        "best_rest": percentiles([found.rest for found in scores[1:]]),
        "best_share": percentiles([first_share(found.log_probs) for found in scores[1:]]),
    }


def first_share(log_probs: npt.NDArray[np.float64]) -> float:
    """How sure the model is: the likeliest label's share of what was visited."""
    return float(1 / np.exp(log_probs - log_probs.max()).sum())


def with_ratios(row: dict[str, Any]) -> dict[str, Any]:
    """The bars: full against a plain prefill, best against reading the picture, both against one pass per label."""
    ms = {name: value["p50"] for name, value in row["ways_ms"].items()}
    row["ratios"] = {
        "full_of_prefill_last_row": ratio(ms.get("full"), ms.get("prefill last row")),
        "full_of_prefill_all_rows": ratio(ms.get("full"), ms.get("prefill all rows")),
        "full_of_prefill_after_prompt": ratio(ms.get("full"), ms.get("prefill after the prompt")),
        "best_of_read": ratio(ms["best"], row["read_ms"]["p50"]),
        "cached_of_full": ratio(ms["cached"], ms.get("full")),
        "whole_of_full": ratio(ms["whole"], ms.get("full")),
        "cached_of_best": ratio(ms["cached"], ms["best"]),
        "whole_of_best": ratio(ms["whole"], ms["best"]),
    }
    return row


def show(document: dict[str, Any]) -> None:
    """One line a list of labels."""
    head = ["bundle, labels", "inner", "read", "full", "best", "visited", "x prefill", "x all rows", "x after"]
    head += ["best/read", "cached/best", "whole/best", "cached/full", "whole/full"]
    rows = []
    for row in document["rows"]:
        ms, ratios = row["ways_ms"], row["ratios"]
        rows.append(
            (
                f"{row['bundle']}: {row['title']}",
                str(row["inner_nodes"]),
                cell(row["read_ms"]["p50"]),
                cell(ms["full"]["p50"] if "full" in ms else None),
                cell(ms["best"]["p50"]),
                cell(row["best_nodes"]["p50"], 0),
                cell(ratios["full_of_prefill_last_row"], 2),
                cell(ratios["full_of_prefill_all_rows"], 2),
                cell(ratios["full_of_prefill_after_prompt"], 2),
                cell(ratios["best_of_read"], 2),
                *(cell(ratios[f"{a}_of_{b}"], 1) for b in ("best", "full") for a in ("cached", "whole")),
            )
        )
    print(f"read bandwidth {document['read_bandwidth_gbps']['p50']:.1f} GB/s; milliseconds, medians")
    print(table(head, rows))


def draw(document: dict[str, Any], path: Path) -> None:
    """Milliseconds over the number of labels, one panel a bundle, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bundles = list(dict.fromkeys(row["bundle"] for row in document["rows"]))
    figure, panels = pyplot.subplots(1, len(bundles), figsize=(6 * len(bundles), 4.5), squeeze=False)
    for panel, bundle in zip(panels[0], bundles, strict=True):
        rows = [row for row in document["rows"] if row["bundle"] == bundle and row["title"].isdecimal()]
        for way in ("whole", "cached", "full", "best"):
            points = [(row["labels"], row["ways_ms"][way]["p50"]) for row in rows if way in row["ways_ms"]]
            if points:
                panel.plot(*zip(*points, strict=True), marker="o", label=way)
        panel.axhline(rows[0]["read_ms"]["p50"], color="grey", linestyle=":", label="read the picture")
        panel.set(xscale="log", yscale="log", xlabel="labels", ylabel="ms", title=bundle)
        panel.grid(alpha=0.3)
        panel.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def pictures_in(source: Path | None, count: int) -> list[Path]:
    """`count` pictures spread over a folder or a list, or one that is drawn."""
    if source is None:
        return [write_picture(Path("out/picture-520x400.jpg"), (520, 400))]
    if source.is_file():
        found = [picture.path for picture in read_labelled(source)]
    else:
        found = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return [found[i] for i in np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--pictures", type=Path, help="folder or list; without it one picture of 520 x 400 is drawn")
    parser.add_argument("--counts", default="10,81,300,1000,3000,10000")
    parser.add_argument("--names", type=Path, nargs="*", default=[], help="lists of labels to measure besides")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most-full", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    pictures = pictures_in(options.pictures, options.rounds + 1)
    lists = [(str(int(n)), LabelSet.from_names(names(int(n)))) for n in options.counts.split(",")]
    lists += [(path.stem, read_labels(path)) for path in options.names]
    bandwidth, rates, rows = ReadBandwidth(options.threads), [], []
    machine = describe_machine()
    for path in options.bundles:
        recognizer = Recognizer(path, ["any"], threads=options.threads)
        for title, labels in lists:
            row = measure(open_case(recognizer, title, labels, options.most_full), pictures, options.rounds)
            rows.append(with_ratios({"bundle": path.name, "title": title, **row}))
            rates.append(bandwidth.gbps(0.3))
    document = {
        "benchmark": "label_scores",
        "rounds": options.rounds,
        "threads": options.threads,
        "pictures": None if options.pictures is None else options.pictures.stem,
        "read_bandwidth_gbps": {"p50": round(float(np.median(rates)), 2), "min": min(rates), "max": max(rates)},
        "rows": rows,
        "machine": machine,
    }
    show(document)
    if options.plot is not None:
        draw(document, options.plot)
    publish(document, options.json)


if __name__ == "__main__":
    main()
