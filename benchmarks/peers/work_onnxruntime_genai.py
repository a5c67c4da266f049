"""ONNX Runtime GenAI as a peer: a folder that its model builder wrote, its generator loop as its documentation has it.

The graph computes logits of the last position only (`prune_lm_head`). Labels need those of every position: they run
on a second folder, built without it, opened when they are first asked for; one pass a label on the prompt's cache,
which is rewound in between.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og

from benchmarks.peers.worker import Floats, Generated, Scored, Seen, ms_since, serve, token_log_probs

ROOM = 256


class OnnxRuntimeGenAiWorker:
    """A model folder, opened.

    Args:
        every: the same model with logits of every position; None where there is none.
    """

    def __init__(self, model: Path, every: Path | None, threads: int) -> None:
        self._threads = threads
        self._every_path = every
        self._every: Any = None
        self._model = self._open(model)
        self._tokenizer = og.Tokenizer(self._model)

    def _open(self, path: Path) -> Any:
        config = og.Config(str(path))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": self._threads}}}}))
        return og.Model(config)

    def _generator(self, model: Any, tokens: int) -> Any:
        params = og.GeneratorParams(model)
        # A minimum length keeps the end token from ending anything.
        params.set_search_options(do_sample=False, max_length=tokens, min_length=tokens)
        return og.Generator(model, params)

    def decode(self, ids: Sequence[int], new_tokens: int) -> Generated:
        stream = self._tokenizer.create_stream()
        start = time.perf_counter()
        generator = self._generator(self._model, len(ids) + new_tokens)
        generator.append_tokens(np.asarray([ids], np.int32))
        generator.generate_next_token()
        tokens = [int(generator.get_next_tokens()[0])]
        first = time.perf_counter()
        pieces = [stream.decode(tokens[0])]
        while len(tokens) < new_tokens:
            generator.generate_next_token()
            tokens.append(int(generator.get_next_tokens()[0]))
            pieces.append(stream.decode(tokens[-1]))
        return Generated(tokens, (first - start) * 1e3, ms_since(first), "".join(pieces))

    def labels(self, ids: Sequence[int], labels: Sequence[Sequence[int]]) -> Scored:
        if self._every is None:
            if self._every_path is None:
                raise NotImplementedError("no model with logits of every position was built")
            self._every = self._open(self._every_path)
        generator = self._generator(self._every, len(ids) + ROOM)
        start = time.perf_counter()
        generator.append_tokens(np.asarray([ids], np.int32))
        first = np.asarray(generator.get_output("logits"), np.float32)[0, -1:]
        prompt_ms, start = ms_since(start), time.perf_counter()
        log_probs = []
        for label in labels:
            rows = first
            if len(label) > 1:
                generator.append_tokens(np.asarray([label[:-1]], np.int32))
                rows = np.concatenate([first, np.asarray(generator.get_output("logits"), np.float32)[0]])
                generator.rewind_to(len(ids))
            log_probs.append(token_log_probs(rows, label))
        return Scored(log_probs, prompt_ms, ms_since(start))

    def picture(self, path: Path, text: str) -> Seen:
        raise NotImplementedError("its model builder writes the text decoder of Qwen2.5-VL only")

    def picture_logits(self, path: Path, text: str) -> Floats:
        raise NotImplementedError("its model builder writes the text decoder of Qwen2.5-VL only")

    def logits(self, ids: Sequence[int]) -> Floats:
        generator = self._generator(self._model, len(ids) + 1)
        generator.append_tokens(np.asarray([ids], np.int32))
        return np.asarray(generator.get_logits(), np.float32).reshape(-1)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--every", type=Path, help="built with logits of every position")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    serve(
        ("onnxruntime-genai", "onnxruntime"),
        lambda: OnnxRuntimeGenAiWorker(options.model, options.every, options.threads),
    )


if __name__ == "__main__":
    main()
