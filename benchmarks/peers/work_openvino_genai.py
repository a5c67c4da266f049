"""OpenVINO GenAI as a peer: `LLMPipeline` for text, `VLMPipeline` for pictures, each a folder that optimum-intel wrote.

All settings are its own (8-bit KV cache, inputs of matrices rounded to 8 bits), less prefix caching, which would answer
the second of two equal prompts from memory. The pipelines do not tell the probability of a given text, so labels run on
the same graph in OpenVINO itself: the prompt once, then all labels as one batch that `beam_idx` hangs below it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from PIL import Image

from benchmarks.peers.worker import Floats, Generated, Scored, Seen, ms_since, serve, token_log_probs

PICTURE = "<|vision_start|>{image}<|vision_end|>"
PICTURE_TAG = "<ov_genai_image_0>"


class FirstTokenStreamer(openvino_genai.StreamerBase):
    """Notes the first token and when it came."""

    def __init__(self) -> None:
        super().__init__()
        self.token: int | None = None
        self.time = 0.0

    def write(self, token: Any) -> openvino_genai.StreamingStatus:
        if self.token is None:
            self.time = time.perf_counter()
            self.token = int(token[0] if isinstance(token, (list, tuple)) else token)
        return openvino_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        pass


class OpenVinoGenAiWorker:
    """The pipelines, opened; `pictures` is the folder of the whole model, None where there is none."""

    def __init__(self, model: Path, pictures: Path | None, threads: int) -> None:
        self._threads, self._path = threads, model
        self._text = openvino_genai.LLMPipeline(str(model), "CPU", scheduler_config=_scheduler(), **self._properties())
        self._tokenizer = self._text.get_tokenizer()
        self._pictures = None
        if pictures is not None:
            self._pictures = openvino_genai.VLMPipeline(
                str(pictures), "CPU", scheduler_config=_scheduler(), **self._properties()
            )
        self._request: Any = None

    def _properties(self) -> dict[str, Any]:
        return {"INFERENCE_NUM_THREADS": self._threads}

    def decode(self, ids: Sequence[int], new_tokens: int) -> Generated:
        config = _config(new_tokens)
        pieces: list[str] = []

        def write(piece: str) -> openvino_genai.StreamingStatus:
            pieces.append(piece)
            return openvino_genai.StreamingStatus.RUNNING

        prompt = openvino.Tensor(np.asarray([ids], np.int64))
        start = time.perf_counter()
        done = self._text.generate(prompt, config, write)
        ms = ms_since(start)
        first_ms = float(done.perf_metrics.get_ttft().mean)
        tokens = [int(token) for token in done.tokens[0]][-new_tokens:]
        return Generated(tokens, first_ms, ms - first_ms, "".join(pieces))

    def labels(self, ids: Sequence[int], labels: Sequence[Sequence[int]]) -> Scored:
        self._open_graph()
        start = time.perf_counter()
        first = self._infer(np.asarray([ids], np.int64), 0, np.zeros(1, np.int32))[0, -1:].copy()
        prompt_ms, start = ms_since(start), time.perf_counter()
        longest = max(map(len, labels)) - 1
        fed = np.zeros((len(labels), longest), np.int64)
        for row, label in zip(fed, labels, strict=True):
            row[: len(label) - 1] = label[:-1]
        rows = self._infer(fed, len(ids), np.zeros(len(labels), np.int32))
        log_probs = [
            token_log_probs(np.concatenate([first, row[: len(label) - 1]]), label)
            for row, label in zip(rows, labels, strict=True)
        ]
        return Scored(log_probs, prompt_ms, ms_since(start))

    def picture(self, path: Path, text: str) -> Seen:
        if self._pictures is None:
            raise NotImplementedError("optimum-intel did not convert the whole model")
        streamer = FirstTokenStreamer()
        start = time.perf_counter()
        pixels = np.asarray(Image.open(path).convert("RGB"))[None]
        self._pictures.generate(
            text.replace(PICTURE, PICTURE_TAG),
            images=[openvino.Tensor(pixels)],
            generation_config=_config(1),
            streamer=streamer,
        )
        if streamer.token is None:
            raise RuntimeError("the pipeline ended without a token")
        return Seen(streamer.token, (streamer.time - start) * 1e3, None)

    def picture_logits(self, path: Path, text: str) -> Floats:
        raise NotImplementedError("its pipeline tells tokens only")

    def logits(self, ids: Sequence[int]) -> Floats:
        self._open_graph()
        found: Floats = self._infer(np.asarray([ids], np.int64), 0, np.zeros(1, np.int32))[0, -1].copy()
        return found

    def _open_graph(self) -> None:
        if self._request is None:
            core = openvino.Core()
            compiled = core.compile_model(self._path / "openvino_model.xml", "CPU", self._properties())
            self._request = compiled.create_infer_request()

    def _infer(self, ids: Any, past: int, rows: Any) -> Floats:
        """Logits [B, S, V] of tokens [B, S] after `past` tokens; `rows` are the rows of the cache they continue."""
        if past == 0:
            self._request.reset_state()
        count, length = ids.shape
        self._request.infer(
            {
                "input_ids": ids,
                "attention_mask": np.ones((count, past + length), np.int64),
                "position_ids": np.tile(np.arange(past, past + length), (count, 1)),
                "beam_idx": rows,
            }
        )
        logits: Floats = self._request.get_tensor("logits").data
        return logits


def _scheduler() -> openvino_genai.SchedulerConfig:
    """A prompt is one batch, as in the pipeline's own default; no prefix caching."""
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_batched_tokens = 1 << 20
    scheduler.enable_prefix_caching = False
    return scheduler


def _config(new_tokens: int) -> openvino_genai.GenerationConfig:
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = new_tokens
    config.min_new_tokens = new_tokens
    config.ignore_eos = True
    config.do_sample = False
    config.apply_chat_template = False
    return config


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder of the whole model")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    serve(
        ("openvino-genai", "openvino", "optimum-intel", "nncf"),
        lambda: OpenVinoGenAiWorker(options.model, options.pictures, options.threads),
    )


if __name__ == "__main__":
    main()
