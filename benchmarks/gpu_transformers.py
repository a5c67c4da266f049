"""Hugging Face transformers on a GPU, eager or with torch.compile: what the engines are compared with.

In: a checkpoint, a device. Out: `first_token` and `decode` as every peer has them. Compiled is as its documentation
has it: `generate` with a static cache, which compiles the decode step where the device is a GPU.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.transformers_eager import Dtype, TransformersEager


class TransformersOnGpu(TransformersEager):
    """A checkpoint, loaded onto `device`; times are taken with the device idle before and after."""

    def __init__(self, checkpoint: Path, device: str, dtype: Dtype, *, compiled: bool) -> None:
        threads = os.cpu_count() or 1
        name = f"transformers {dtype} {'compiled' if compiled else 'eager'}"
        super().__init__(checkpoint, name, threads, dtype)
        self._device = device
        self._compiled = compiled
        self._model.to(device)

    def prepare(self, picture: Path) -> dict[str, Any]:
        """As on the CPU, moved to the device."""
        return {name: tensor.to(self._device) for name, tensor in super().prepare(picture).items()}

    def generate(self, new_tokens: int) -> list[int]:
        """Exactly so many greedy tokens; waits until the device has made them."""
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.repetition_penalty = 1.0
        cache = {"cache_implementation": "static"} if self._compiled else {}
        with torch.inference_mode():
            ids = self._model.generate(
                **self._inputs,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
                **cache,
            )
        generated: list[int] = ids[0, self._inputs["input_ids"].shape[1] :].tolist()  # waits for the device
        return generated

    def decoder_bytes(self) -> int:
        """Weights that one token reads: language model and head, a tied embedding as the head it is."""
        head = self._model.get_output_embeddings().weight
        body = (
            value for name, value in self._model.model.language_model.named_parameters() if "embed_tokens" not in name
        )
        return sum(value.numel() * value.element_size() for value in (*body, head))
