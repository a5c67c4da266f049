"""This project's runtime as a peer: an exported bundle. Labels are scored over their trie, all of them in one tree."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers.fgr_edge import FgrEdge
from benchmarks.peers.worker import Floats, Generated, Scored, Seen, ms_since, serve
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.confidence import Confidence
from fgr_edge.runtime.label_trie.label_scorer import DIRECT, LabelScorer
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.model import TextModel
from fgr_edge.runtime.sampling import Sampler, SamplingConfig

ROOM = 256


class TextWorker:
    """The decoder of a bundle and no more: what is compared with peers that have no vision tower open either."""

    def __init__(self, model: TextModel) -> None:
        self._model = model

    def decode(self, ids: Sequence[int], new_tokens: int) -> Generated:
        model, sampler = self._model, Sampler(SamplingConfig())
        start = time.perf_counter()
        tokens = [int(self.logits(ids).argmax())]
        first = time.perf_counter()
        pieces = [model.prompts.decode(tokens)]
        while len(tokens) < new_tokens:
            tokens.append(sampler.next(model.advance(tokens[-1:])))
            pieces.append(model.prompts.decode(tokens[-1:]))
        return Generated(tokens, (first - start) * 1e3, ms_since(first), "".join(pieces))

    def labels(self, ids: Sequence[int], labels: Sequence[Sequence[int]]) -> Scored:
        raise NotImplementedError("opened for texts alone")

    def picture(self, path: Path, text: str) -> Seen:
        raise NotImplementedError("opened for texts alone")

    def picture_logits(self, path: Path, text: str) -> Floats:
        raise NotImplementedError("opened for texts alone")

    def logits(self, ids: Sequence[int], branches: int = 0) -> Floats:
        embeds = self._model.embedding.gather(np.asarray(ids, np.int64))
        positions = np.tile(np.arange(len(ids)), (3, 1))
        return self._model.decoder.prefill(embeds, positions, max_new_tokens=ROOM, branches=branches)


class FgrEdgeWorker(TextWorker):
    """A bundle, opened; `names` are the labels whose tokens `labels` is asked for."""

    def __init__(self, bundle: Path, threads: int, names: Sequence[str]) -> None:
        self._peer = FgrEdge(bundle, bundle.name, threads, ROOM)
        self._recognizer = self._peer._recognizer
        super().__init__(self._recognizer.model)
        self._names = list(names)
        self._confidence = Confidence.uncalibrated(len(self._names))
        self._scorer: LabelScorer | None = None

    def labels(self, ids: Sequence[int], labels: Sequence[Sequence[int]]) -> Scored:
        recognizer = self._recognizer
        if self._scorer is None:
            self._scorer = recognizer._scorer_of(LabelSet.from_names(self._names), None)
        scorer = self._scorer
        start = time.perf_counter()
        logits = self.logits(ids, branches=scorer.branches).copy()
        prompt_ms, start = ms_since(start), time.perf_counter()
        scores = scorer.all(DIRECT, logits, recognizer.model.extend)
        ms, start = ms_since(start), time.perf_counter()
        best = scorer.best(DIRECT, logits, recognizer.model.extend, self._confidence)
        best_ms = ms_since(start)
        seen = [value if np.isfinite(value) else None for value in best.log_probs.tolist()]
        return Scored(scores.log_probs.tolist(), prompt_ms, ms, best_ms, seen, best.rest)

    def picture(self, path: Path, text: str) -> Seen:
        seen = self._peer.first_token(path)
        return Seen(seen.token, seen.ms, len(seen.prompt_ids))

    def picture_logits(self, path: Path, text: str) -> Floats:
        return self._peer.first_logits(path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--labels", type=Path, required=True, help="a file of names, one a line")
    parser.add_argument("--text", action="store_true", help="the decoder alone: neither pictures nor labels")
    options = parser.parse_args()
    names = options.labels.read_text(encoding="utf-8").splitlines()

    def opened() -> TextWorker:
        if options.text:
            return TextWorker(TextModel(Bundle.open(options.model), threads=options.threads))
        return FgrEdgeWorker(options.model, options.threads, names)

    serve(("onnxruntime", "numpy"), opened)


if __name__ == "__main__":
    main()
