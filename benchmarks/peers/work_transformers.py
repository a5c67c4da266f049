"""Hugging Face transformers as a peer, in float32: eager, or compiled by torch.compile over a static cache.

Labels: the prompt once, its cache repeated for every label, all labels as one padded batch.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import CompileConfig, DynamicCache
from transformers.generation.streamers import BaseStreamer

from benchmarks.peers.transformers_eager import TransformersEager
from benchmarks.peers.worker import Floats, Generated, Scored, Seen, ms_since, serve, token_log_probs


class Clock(BaseStreamer):
    """Notes when each token came, and its text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._prompt = True
        self.tokens: list[int] = []
        self.times: list[float] = []
        self.pieces: list[str] = []

    def put(self, value: torch.Tensor) -> None:
        if self._prompt:  # generate hands it in first
            self._prompt = False
            return
        self.times.append(time.perf_counter())
        self.tokens.append(int(value.reshape(-1)[0]))
        self.pieces.append(self._tokenizer.decode(self.tokens[-1:]))

    def end(self) -> None:
        """Nothing is held back."""


class TransformersWorker:
    """A checkpoint, loaded."""

    def __init__(self, checkpoint: Path, threads: int, compiled: bool) -> None:
        self._peer = TransformersEager(checkpoint, "transformers", threads)
        self._model = self._peer._model
        self._options: dict[str, Any] = {}
        if compiled:
            compile_config = CompileConfig(mode="default")
            compile_config._compile_all_devices = True  # type: ignore[assignment]  # the CPU is left out otherwise
            self._options = {"cache_implementation": "static", "compile_config": compile_config}
        self._model.generation_config.eos_token_id = None

    def decode(self, ids: Sequence[int], new_tokens: int) -> Generated:
        clock = Clock(self._peer.tokenizer)
        prompt = torch.tensor([ids])
        start = time.perf_counter()
        with torch.inference_mode():
            self._model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
                streamer=clock,
                **self._options,
            )
        first, last = clock.times[0], time.perf_counter()
        return Generated(clock.tokens, (first - start) * 1e3, (last - first) * 1e3, "".join(clock.pieces))

    def labels(self, ids: Sequence[int], labels: Sequence[Sequence[int]]) -> Scored:
        if self._options:
            raise NotImplementedError("as eager: a batch of labels is prefill, which generate does not compile")
        start = time.perf_counter()
        cache = DynamicCache(config=self._model.config.get_text_config())
        first = self._forward(torch.tensor([ids]), cache, 0, last=True)[0].numpy()
        prompt_ms, start = ms_since(start), time.perf_counter()
        shared = copy.deepcopy(cache)
        shared.batch_repeat_interleave(len(labels))
        fed = torch.zeros((len(labels), max(map(len, labels)) - 1), dtype=torch.long)
        for row, label in zip(fed, labels, strict=True):
            row[: len(label) - 1] = torch.tensor(label[:-1])
        rows = self._forward(fed, shared, len(ids), last=False).numpy()
        log_probs = []
        for row, label in zip(rows, labels, strict=True):
            log_probs.append(token_log_probs([first[-1], *row[: len(label) - 1]], label))
        return Scored(log_probs, prompt_ms, ms_since(start))

    def _forward(self, ids: torch.Tensor, cache: DynamicCache, past: int, *, last: bool) -> torch.Tensor:
        count, length = ids.shape
        places = torch.arange(past, past + length).expand(3, count, length)
        with torch.inference_mode():
            logits: torch.Tensor = self._model(
                input_ids=ids,
                attention_mask=torch.ones((count, past + length), dtype=torch.long),
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1 if last else 0,
            ).logits
        return logits

    def picture(self, path: Path, text: str) -> Seen:
        if self._options:
            raise NotImplementedError("as eager: generate does not compile vision and prefill")
        seen = self._peer.first_token(path)
        return Seen(seen.token, seen.ms, len(seen.prompt_ids))

    def picture_logits(self, path: Path, text: str) -> Floats:
        inputs = self._peer.prepare(path)
        with torch.inference_mode():
            row: Floats = self._model(**inputs, logits_to_keep=1).logits[0, -1].numpy()
        return row

    def logits(self, ids: Sequence[int]) -> Floats:
        cache = DynamicCache(config=self._model.config.get_text_config())
        row: Floats = self._forward(torch.tensor([ids]), cache, 0, last=True)[0, -1].numpy()
        return row


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    serve(("transformers", "torch"), lambda: TransformersWorker(options.model, options.threads, options.compiled))


if __name__ == "__main__":
    main()
