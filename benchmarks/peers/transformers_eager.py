"""Hugging Face transformers, eager PyTorch on the CPU, as its documentation has it: processor, `generate`.

The pictures go through `Qwen2VLImageProcessorPil` (the other processor needs torchvision), the question through
the checkpoint's tokenizer and chat template, or the family's where the checkpoint has none.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen2VLImageProcessorPil
from transformers.utils.logging import disable_progress_bar

from benchmarks.peers.peer import Decoded, FirstToken
from fgr_edge.export.architectures.qwen2_5_vl import CHAT_TEMPLATE
from fgr_edge.runtime.prompt_text import DEFAULT_QUESTION, DIRECT_TEMPLATE

IMAGE_TOKEN = "<|image_pad|>"
Dtype = Literal["float32", "float16", "bfloat16"]


class TransformersEager:
    """A checkpoint, loaded.

    Args:
        checkpoint: Folder in Hugging Face layout.
        name: Column of the table.
        threads: Of PyTorch, for the whole process.
        dtype: Of weights and activations.
    """

    def __init__(self, checkpoint: Path, name: str, threads: int, dtype: Dtype = "float32") -> None:
        torch.set_num_threads(threads)
        disable_progress_bar()
        self.name = name
        self.tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
        self._chat_template = self.tokenizer.chat_template or CHAT_TEMPLATE
        self._image_id = self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self._processor = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)
        # Any: `generate` is declared for a protocol that the declared models do not meet.
        self._model: Any = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=getattr(torch, dtype))
        self._model.eval()
        self._dtype = getattr(torch, dtype)
        self._inputs: dict[str, Any] = {}

    def first_token(self, picture: Path) -> FirstToken:
        """Picture and question to inputs, `generate` of one token."""
        start = time.perf_counter()
        self._inputs = self.prepare(picture)
        token = self.generate(1)[0]
        ms = (time.perf_counter() - start) * 1e3
        return FirstToken(token, ms, tuple(self._inputs["input_ids"][0].tolist()))

    def decode(self, new_tokens: int) -> Decoded:
        """`generate` of all tokens, minus `generate` of one on the same inputs right before it."""
        start = time.perf_counter()
        self.generate(1)
        first = time.perf_counter()
        tokens = self.generate(new_tokens)
        end = time.perf_counter()
        return Decoded(tuple(tokens), ((end - first) - (first - start)) * 1e3)

    def prepare(self, picture: Path) -> dict[str, Any]:
        """The model's inputs for a picture and the default question."""
        images = self._processor(images=[Image.open(picture).convert("RGB")], return_tensors="pt")
        wording = DIRECT_TEMPLATE.replace("{question}", DEFAULT_QUESTION)
        content = [{"type": "image"}, {"type": "text", "text": wording}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self._chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )
        grid = images["image_grid_thw"]
        tokens = int(grid.prod()) // self._processor.merge_size**2
        encoded = self.tokenizer(text.replace(IMAGE_TOKEN, IMAGE_TOKEN * tokens), return_tensors="pt")
        ids = encoded["input_ids"]
        return {
            "input_ids": ids,
            "attention_mask": encoded["attention_mask"],
            "mm_token_type_ids": (ids == self._image_id).int(),
            "pixel_values": images["pixel_values"].to(self._dtype),
            "image_grid_thw": grid,
        }

    def answer(self, picture: Path, new_tokens: int) -> str:
        """Text of a greedy answer that ends at a stop token or after `new_tokens`, as a first-time user asks for it."""
        inputs = self.prepare(picture)
        with torch.inference_mode():
            ids = self._model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        text: str = self.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return text.strip()

    def generate(self, new_tokens: int) -> list[int]:
        """Exactly so many greedy tokens: without a stop token nothing ends earlier."""
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.repetition_penalty = 1.0
        with torch.inference_mode():
            ids = self._model.generate(
                **self._inputs,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        generated: list[int] = ids[0, self._inputs["input_ids"].shape[1] :].tolist()
        return generated
