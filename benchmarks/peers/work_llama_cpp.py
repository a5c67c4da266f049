"""llama.cpp as a peer, through llama-cpp-python's bindings of its C functions: a GGUF file, and its vision tower's.

The C functions are called directly, without the classes on top, which copy logits. Labels: the prompt once, its cache
shared by as many sequences as there are labels, all label tokens in one batch. The token is chosen by numpy's argmax,
which is faster than its own sampler here.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp as lib
import numpy as np
from llama_cpp import mtmd_cpp as mtmd
from PIL import Image

from benchmarks.peers.worker import Floats, Generated, Scored, Seen, ms_since, serve, token_log_probs

PICTURE = "<|vision_start|>{image}<|vision_end|>"
CONTEXT_TOKENS = 2048
PIECE_BYTES = 64


class LlamaCppWorker:
    """A decoder file and a vision file, opened; `vision` is None where pictures are not asked for."""

    def __init__(self, model: Path, vision: Path | None, threads: int) -> None:
        lib.llama_backend_init()
        self._threads = threads
        self._model = lib.llama_model_load_from_file(str(model).encode(), lib.llama_model_default_params())
        if not self._model:
            raise OSError(f"llama.cpp cannot load {model}; write it again with gguf_checkpoint.py")
        self._vocab = lib.llama_model_get_vocab(self._model)
        self._tokens = lib.llama_vocab_n_tokens(self._vocab)
        self._context = self._open_context(1)
        self._label_context: Any = None
        self._vision: Any = None
        if vision is not None:
            params = mtmd.mtmd_context_params_default()
            params.use_gpu, params.n_threads, params.warmup = False, threads, False
            self._vision = mtmd.mtmd_init_from_file(str(vision).encode(), self._model, params)
            if not self._vision:
                raise OSError(f"llama.cpp cannot load {vision}; write it again with gguf_checkpoint.py")
        self._piece = ctypes.create_string_buffer(PIECE_BYTES)

    def _open_context(self, sequences: int) -> Any:
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = CONTEXT_TOKENS
        params.n_seq_max, params.kv_unified = sequences, True
        params.n_threads = params.n_threads_batch = self._threads
        return lib.llama_init_from_model(self._model, params)

    def decode(self, ids: Sequence[int], new_tokens: int) -> Generated:
        start = time.perf_counter()
        tokens = [int(self.logits(ids).argmax())]
        first = time.perf_counter()
        pieces = [self._text(tokens[0])]
        one = (lib.llama_token * 1)()
        while len(tokens) < new_tokens:
            one[0] = tokens[-1]
            _checked(lib.llama_decode(self._context, lib.llama_batch_get_one(one, 1)))
            tokens.append(int(self._row(self._context, -1).argmax()))
            pieces.append(self._text(tokens[-1]))
        return Generated(tokens, (first - start) * 1e3, ms_since(first), b"".join(pieces).decode(errors="replace"))

    def labels(self, ids: Sequence[int], labels: Sequence[Sequence[int]]) -> Scored:
        if self._label_context is None:
            self._label_context = self._open_context(len(labels))
        context = self._label_context
        memory = lib.llama_get_memory(context)
        start = time.perf_counter()
        lib.llama_memory_clear(memory, False)
        _decode(context, [(token, i, 0, i == len(ids) - 1) for i, token in enumerate(ids)])
        first = self._row(context, -1)[None].copy()
        prompt_ms, start = ms_since(start), time.perf_counter()
        for sequence in range(1, len(labels)):
            lib.llama_memory_seq_cp(memory, 0, sequence, -1, -1)
        fed = [
            (token, len(ids) + i, sequence, True)
            for sequence, label in enumerate(labels)
            for i, token in enumerate(label[:-1])
        ]
        _decode(context, fed)
        log_probs, at = [], 0
        for label in labels:
            rows = [first, *(self._row(context, at + i)[None] for i in range(len(label) - 1))]
            log_probs.append(token_log_probs(np.concatenate(rows), label))
            at += len(label) - 1
        return Scored(log_probs, prompt_ms, ms_since(start))

    def picture(self, path: Path, text: str) -> Seen:
        start = time.perf_counter()
        tokens = self._read_picture(path, text)
        token = int(self._row(self._context, -1).argmax())
        return Seen(token, ms_since(start), tokens)

    def picture_logits(self, path: Path, text: str) -> Floats:
        self._read_picture(path, text)
        return self._row(self._context, -1)

    def _read_picture(self, path: Path, text: str) -> int:
        """From the file to the logits of the last position; how many tokens they come after."""
        if self._vision is None:
            raise NotImplementedError("no vision file was written")
        pixels = np.ascontiguousarray(Image.open(path).convert("RGB"))
        height, width, _ = pixels.shape
        data = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        bitmap = mtmd.mtmd_bitmap_init(width, height, data)
        chunks = mtmd.mtmd_input_chunks_init()
        chat = text.replace(PICTURE, mtmd.mtmd_default_marker().decode()).encode()
        asked = mtmd.mtmd_input_text(chat, len(chat), False, True)
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        _checked(mtmd.mtmd_tokenize(self._vision, chunks, ctypes.byref(asked), bitmaps, 1))
        lib.llama_memory_clear(lib.llama_get_memory(self._context), False)
        end = lib.llama_pos(0)
        _checked(
            mtmd.mtmd_helper_eval_chunks(
                self._vision, self._context, chunks, 0, 0, CONTEXT_TOKENS, True, ctypes.byref(end)
            )
        )
        count = sum(
            mtmd.mtmd_input_chunk_get_n_tokens(mtmd.mtmd_input_chunks_get(chunks, i))
            for i in range(mtmd.mtmd_input_chunks_size(chunks))
        )
        mtmd.mtmd_input_chunks_free(chunks)
        mtmd.mtmd_bitmap_free(bitmap)
        return int(count)

    def logits(self, ids: Sequence[int]) -> Floats:
        lib.llama_memory_clear(lib.llama_get_memory(self._context), False)
        prompt = (lib.llama_token * len(ids))(*ids)
        _checked(lib.llama_decode(self._context, lib.llama_batch_get_one(prompt, len(ids))))
        return self._row(self._context, -1)

    def _row(self, context: Any, index: int) -> Floats:
        """Logits [V] of an output: llama.cpp's own memory."""
        return np.ctypeslib.as_array(lib.llama_get_logits_ith(context, index), (self._tokens,))

    def _text(self, token: int) -> bytes:
        count = lib.llama_token_to_piece(self._vocab, token, self._piece, PIECE_BYTES, 0, True)
        return self._piece.raw[: max(0, count)]


def _decode(context: Any, rows: Sequence[tuple[int, int, int, bool]]) -> None:
    """One batch of (token, position, sequence, whether logits are wanted)."""
    batch = lib.llama_batch_init(len(rows), 0, 1)
    batch.n_tokens = len(rows)
    for i, (token, position, sequence, wanted) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
        batch.seq_id[i][0] = sequence
    try:
        _checked(lib.llama_decode(context, batch))
    finally:
        lib.llama_batch_free(batch)


def _checked(code: int) -> None:
    """Raises: RuntimeError: llama.cpp says that it failed."""
    if code:
        raise RuntimeError(f"llama.cpp returned {code}, expected 0; its log is on stderr")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--vision", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    serve(
        ("llama-cpp-python", "numpy"),
        lambda: LlamaCppWorker(options.model, options.vision, options.threads),
    )


if __name__ == "__main__":
    main()
