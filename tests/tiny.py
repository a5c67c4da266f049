"""Tiny random checkpoints, saved as transformers saves them, their bundles and their reference outputs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from fgr_edge.export.architectures import family_of
from fgr_edge.export.pipeline import ExportConfig, export_checkpoint
from fgr_edge.runtime.image import Patches
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.rotary import IntArray, prompt_positions

IMAGE_ID, VISION_START_ID, VISION_END_ID, EOS_ID = 5, 3, 4, 2
VOCAB = 320


def qwen2_5_vl(
    *, heads: int = 4, kv_heads: int = 2, window: int = 112, tied: bool = True, seed: int = 0
) -> Qwen2_5_VLForConditionalGeneration:
    """Random Qwen2.5-VL: 3 decoder layers of width 16 * heads, 4 vision blocks with full attention in 1 and 3."""
    hidden = 16 * heads
    config = Qwen2_5_VLConfig(
        text_config=dict(
            hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=3, num_attention_heads=heads,
            num_key_value_heads=kv_heads, vocab_size=VOCAB, rms_norm_eps=1e-6, max_position_embeddings=2048,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 3, 3]),
            tie_word_embeddings=tied, bos_token_id=None, eos_token_id=EOS_ID, pad_token_id=0,
        ),
        vision_config=dict(
            depth=4, hidden_size=48, intermediate_size=84, num_heads=3, patch_size=14, window_size=window,
            out_hidden_size=hidden, fullatt_block_indexes=[1, 3],
        ),
        tie_word_embeddings=tied, image_token_id=IMAGE_ID, vision_start_token_id=VISION_START_ID,
        vision_end_token_id=VISION_END_ID,
    )  # fmt: skip
    return _random(Qwen2_5_VLForConditionalGeneration, config, seed)


def qwen3_vl(*, tied: bool = True, seed: int = 0) -> Qwen3VLForConditionalGeneration:
    """Random Qwen3-VL: 4 decoder layers, 4 vision blocks, DeepStack after blocks 0 and 2."""
    config = Qwen3VLConfig(
        text_config=dict(
            hidden_size=48, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, vocab_size=VOCAB, max_position_embeddings=2048,
            rope_parameters=dict(rope_type="default", rope_theta=5e6, mrope_section=[3, 3, 2]),
            tie_word_embeddings=tied, bos_token_id=None, eos_token_id=EOS_ID, pad_token_id=0,
        ),
        vision_config=dict(
            depth=4, hidden_size=48, intermediate_size=84, num_heads=3, patch_size=16, out_hidden_size=48,
            num_position_embeddings=64, deepstack_visual_indexes=[0, 2],
        ),
        tie_word_embeddings=tied, image_token_id=IMAGE_ID, vision_start_token_id=VISION_START_ID,
        vision_end_token_id=VISION_END_ID,
    )  # fmt: skip
    return _random(Qwen3VLForConditionalGeneration, config, seed)


def _random(kind: Any, config: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    model = kind(config).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms and biases that are not one and zero, so that a swap shows
                parameter.copy_(
                    torch.randn_like(parameter) * 0.1 + (1.0 if "norm" in name and "bias" not in name else 0.0)
                )
            else:
                parameter.copy_(torch.randn_like(parameter) * (1.5 / parameter[0].numel() ** 0.5))
    return model


@dataclass(frozen=True)
class Reference:
    """transformers' answers for one picture grid and a prompt around it."""

    ids: np.ndarray  # [S] int64
    grid: tuple[int, int]  # patches
    pixels: np.ndarray  # [N, P] float32
    image_embeds: np.ndarray  # [M, H]
    logits: np.ndarray  # [S, V]
    greedy: list[int]  # 64 new tokens


def reference(
    model: Any,
    grid: tuple[int, int],
    *,
    before: int = 5,
    after: int = 7,
    seed: int = 0,
    repetition_penalty: float = 1.0,
) -> Reference:
    """Run transformers in float32 on random pixels of `grid` patches, without and with its cache.

    Args:
        repetition_penalty: of the greedy tokens.
    """
    rng = np.random.default_rng(seed)
    vision = model.config.vision_config
    merge = vision.spatial_merge_size
    tokens = grid[0] * grid[1] // merge**2
    pixels = rng.standard_normal((grid[0] * grid[1], 3 * vision.temporal_patch_size * vision.patch_size**2), np.float32)
    text = rng.integers(6, VOCAB, before + after)
    ids = np.concatenate(
        [text[:before], [VISION_START_ID], np.full(tokens, IMAGE_ID), [VISION_END_ID], text[before:]]
    ).astype(np.int64)
    grid_thw = torch.tensor([[1, *grid]])
    inputs = dict(
        input_ids=torch.from_numpy(ids)[None],
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        pixel_values=torch.from_numpy(pixels),
        image_grid_thw=grid_thw,
        mm_token_type_ids=torch.from_numpy((ids == IMAGE_ID).astype(np.int32))[None],
    )
    with torch.inference_mode():
        embeds = model.model.visual(torch.from_numpy(pixels), grid_thw=grid_thw).pooler_output
        logits = model(**inputs).logits[0]
        greedy = model.generate(
            **inputs,
            max_new_tokens=64,
            min_new_tokens=64,
            do_sample=False,
            repetition_penalty=repetition_penalty,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(ids) :]
    return Reference(ids, grid, pixels, embeds.numpy(), logits.numpy(), greedy.tolist())


def with_qwen_vocabulary(folder: Path, tokenizer_json: Path, seed: int = 0) -> tuple[Path, Any]:
    """A random Qwen2.5-VL of width 32 with the whole Qwen vocabulary, saved; returns its folder and the model."""
    config = Qwen2_5_VLConfig(
        text_config=dict(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            vocab_size=151936, max_position_embeddings=2048,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 3, 3]),
            tie_word_embeddings=True, bos_token_id=None, eos_token_id=151645, pad_token_id=151643,
        ),
        vision_config=dict(
            depth=2, hidden_size=48, intermediate_size=84, num_heads=3, patch_size=14, window_size=112,
            out_hidden_size=32, fullatt_block_indexes=[1],
        ),
        tie_word_embeddings=True, image_token_id=151655, vision_start_token_id=151652, vision_end_token_id=151653,
    )  # fmt: skip
    model = _random(Qwen2_5_VLForConditionalGeneration, config, seed)
    with torch.no_grad():  # so that some names are likelier than others by more than rounding
        model.model.language_model.embed_tokens.weight.mul_(2.0)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_json), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)
    image_processor(model).save_pretrained(folder)
    return folder, model


SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, no merges: ids 0 to 5 are `SPECIAL`, then the 256 bytes; any text is as long as its UTF-8."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def save(model: Any, folder: Path, **options: Any) -> Path:
    """Save model and tokenizer as transformers does; returns the folder."""
    model.save_pretrained(folder, **options)
    tokenizer().save_pretrained(folder)
    return folder


SHAPES: dict[str, Callable[[], Any]] = {
    "qwen2.5": qwen2_5_vl,
    "qwen2.5-wide": lambda: qwen2_5_vl(heads=9, kv_heads=3, seed=1),  # 144 columns: a second, partial int8 block
    "qwen2.5-untied": lambda: qwen2_5_vl(heads=6, kv_heads=6, window=56, tied=False, seed=2),
    "qwen3": qwen3_vl,
    "qwen3-untied": lambda: qwen3_vl(tied=False, seed=1),
}
"""Checkpoints that differ in family, head counts, window size and head."""

PIXELS = (56 * 56, 28 * 28 * 48)  # least and most of a resized picture: tiny models see small pictures


def image_processor(model: Any) -> Qwen2VLImageProcessorPil:
    """Of the model's patch and merge size; mean and deviation are no family's default."""
    vision = model.config.vision_config
    return Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        size={"shortest_edge": PIXELS[0], "longest_edge": PIXELS[1]},
        image_mean=[0.4, 0.45, 0.5],
        image_std=[0.3, 0.25, 0.2],
    )


@dataclass
class TinyModels:
    """Models of `SHAPES`, their checkpoints and bundles, each made once below `folder`."""

    folder: Path
    _models: dict[str, Any] = field(default_factory=dict)
    _references: dict[tuple[str, tuple[int, int]], Reference] = field(default_factory=dict)

    def model(self, shape: str) -> Any:
        if shape not in self._models:
            self._models[shape] = SHAPES[shape]()
        return self._models[shape]

    def reference(self, shape: str, grid: tuple[int, int]) -> Reference:
        if (shape, grid) not in self._references:
            self._references[shape, grid] = reference(self.model(shape), grid)
        return self._references[shape, grid]

    def checkpoint(self, shape: str) -> Path:
        """Folder of the checkpoint; a test that changes it copies it first."""
        path = self.folder / shape
        if not path.is_dir():
            save(self.model(shape), path)
            image_processor(self.model(shape)).save_pretrained(path)
        return path

    def bundle(self, shape: str, precision: str = "fp32", target: str = "cpu", *, screened: bool | None = None) -> Path:
        """Folder of the bundle; a test that changes it copies it first."""
        path = self.folder / f"{shape}-{target}-{precision}{'-screened' if screened else ''}.bundle"
        if not path.is_dir():
            export_checkpoint(
                ExportConfig(
                    self.checkpoint(shape), path, target, precision, proof=False, screened=screened, quiet=True
                )
            )
        return path


@dataclass(frozen=True)
class Feed:
    """What the decoder is given for a `Reference`."""

    embeds: np.ndarray  # [S, H] float32, the picture's tokens in their place
    positions: IntArray  # [3, S]
    deepstack: list[np.ndarray]  # per DeepStack layer [S, H]


def feed(recognizer: Recognizer, reference: Reference) -> Feed:
    """The decoder's inputs, made as the recognizer makes them, from the reference's ids and pixels."""
    seen = recognizer.model.vision.encode(Patches(reference.pixels, (1, *reference.grid)))
    start, count = int(np.flatnonzero(reference.ids == IMAGE_ID)[0]), len(seen.tokens)
    embeds = recognizer.model.embedding.gather(reference.ids)
    deepstack = [np.zeros_like(embeds) for _ in seen.deepstack]
    for place, values in zip((embeds, *deepstack), (seen.tokens, *seen.deepstack), strict=True):
        place[start : start + count] = values
    return Feed(embeds, prompt_positions(start, seen.grid, len(reference.ids) - start - count), deepstack)


def all_logits(recognizer: Recognizer, reference: Reference) -> np.ndarray:
    """Logits [S, V] of every position, from one uncached call."""
    given = feed(recognizer, reference)
    prefill(recognizer, given)
    recognizer.model.decoder.rewind(0)
    return recognizer.model.decoder.forward(given.embeds, np.arange(len(given.embeds)), given.deepstack).copy()


def prefill(recognizer: Recognizer, given: Feed) -> np.ndarray:
    """Start a new sequence with room for 72 tokens; logits [V] after its last token."""
    return recognizer.model.decoder.prefill(given.embeds, given.positions, max_new_tokens=72, deepstack=given.deepstack)


def greedy(recognizer: Recognizer, logits: np.ndarray, count: int = 64) -> list[int]:
    """`count` tokens after the prompt in the cache, the likeliest each time, stop tokens or not."""
    tokens: list[int] = []
    for _ in range(count):
        tokens.append(int(logits.argmax()))
        logits = recognizer.model.extend(tokens[-1:])
    return tokens


def drawing(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise over a gradient, in colour."""
    noise = np.random.default_rng(seed).integers(0, 120, (height, width, 3))
    ramp = np.linspace(0, 135, width)[None, :, None] * [1.0, 0.6, 0.2]
    return Image.fromarray((noise + ramp).astype(np.uint8))


def asked(recognizer: Recognizer, mode: str = "direct", question: str | None = None) -> str:
    """The user message of a recognition."""
    spec = recognizer.model.prompts.spec
    wording = spec.direct if mode == "direct" else spec.reason
    return wording.replace("{question}", spec.question if question is None else question)


def reference_of(checkpoint: Path, model: Any) -> HuggingFace:
    """transformers on the checkpoint, with the chat template that export takes where it brings none."""
    config = json.loads((checkpoint / "config.json").read_text())
    template = None if (checkpoint / "chat_template.jinja").is_file() else family_of(config).chat_template
    return HuggingFace(checkpoint, model, template)


def recorded(recognizer: Recognizer) -> list[int]:
    """A list that every token fed to the decoder as text is added to."""
    fed: list[int] = []
    extend, advance = recognizer.model.extend, recognizer.model.advance

    def recording(inner: Any) -> Any:
        def call(tokens: Any) -> Any:
            fed.extend(tokens)
            return inner(tokens)

        return call

    recognizer.model.extend = recording(extend)  # type: ignore[method-assign]
    recognizer.model.advance = recording(advance)  # type: ignore[method-assign]
    speculation = recognizer._reader.speculation
    if speculation is not None:
        speculation.advance = recording(speculation.advance)  # type: ignore[method-assign]
    return fed


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over largest magnitude: the measure of DESIGN.md's numbers."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@dataclass(frozen=True)
class HuggingFace:
    """A checkpoint run by transformers on real pictures: its own tokenizer, PIL image processor and generate."""

    folder: Path
    model: Any
    chat_template: str | None = None  # where the checkpoint brings none

    @cached_property
    def tokenizer(self) -> Any:
        return PreTrainedTokenizerFast.from_pretrained(self.folder)

    @cached_property
    def processor(self) -> Any:
        return Qwen2VLImageProcessorPil.from_pretrained(self.folder)

    def inputs(self, image: Any, question: str) -> dict[str, torch.Tensor]:
        """What `generate` takes for one picture and a question, as Qwen2_5_VLProcessor makes it."""
        pixels = self.processor(image, return_tensors="np")
        tokens = int(np.prod(pixels["image_grid_thw"][0])) // self.processor.merge_size**2
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )
        pad = "<|image_pad|>"
        ids = self.tokenizer(text.replace(pad, pad * tokens), return_tensors="pt")["input_ids"]
        return dict(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=torch.from_numpy(pixels["pixel_values"]),
            image_grid_thw=torch.from_numpy(pixels["image_grid_thw"]),
            mm_token_type_ids=(ids == self.tokenizer.convert_tokens_to_ids(pad)).int(),
        )

    def logits(self, inputs: dict[str, torch.Tensor], more: list[int] | None = None) -> np.ndarray:
        """[S + len(more), V]: teacher-forced over the prompt and `more` tokens."""
        if more:
            extra = torch.tensor([more])
            inputs = {
                **inputs,
                "input_ids": torch.cat([inputs["input_ids"], extra], dim=1),
                "attention_mask": torch.ones(1, inputs["input_ids"].shape[1] + len(more), dtype=torch.long),
                "mm_token_type_ids": torch.cat(
                    [inputs["mm_token_type_ids"], torch.zeros_like(extra, dtype=torch.int32)], dim=1
                ),
            }
        with torch.inference_mode():
            logits: np.ndarray = self.model(**inputs).logits[0].numpy()
        return logits

    def log_probs(self, inputs: dict[str, torch.Tensor], sequences: list[list[int]], batch: int = 32) -> np.ndarray:
        """Log-probability [F] of each sequence after the prompt, teacher-forced over transformers' own cache."""
        found = np.empty(len(sequences))
        with torch.inference_mode():
            prompt = self.model(**inputs, use_cache=True, logits_to_keep=1)
            first = prompt.logits[0, -1].log_softmax(-1)
            length = inputs["input_ids"].shape[1]
            position = length + int(self.model.model.rope_deltas)  # a picture takes fewer positions than it has tokens
            order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
            for start in range(0, len(order), batch):
                rows = order[start : start + batch]
                longest = max(len(sequences[i]) for i in rows)
                ids = torch.tensor([[*sequences[i], *[0] * (longest - len(sequences[i]))] for i in rows])
                cache = copy.deepcopy(prompt.past_key_values)
                cache.batch_repeat_interleave(len(rows))
                logits = self.model(
                    input_ids=ids,
                    past_key_values=cache,
                    attention_mask=torch.ones(len(rows), length + longest, dtype=torch.long),
                    position_ids=(position + torch.arange(longest)).expand(3, len(rows), longest),
                ).logits
                for row, i in enumerate(rows):
                    steps = logits[row, : len(sequences[i]) - 1].log_softmax(-1)
                    later = steps.gather(-1, ids[row, 1 : len(sequences[i]), None]).double()
                    found[i] = float(first[sequences[i][0]]) + float(later.sum())
        return found

    def greedy(self, inputs: dict[str, torch.Tensor], count: int = 64) -> list[int]:
        """`count` new tokens, the likeliest each time, stop tokens or not."""
        with torch.inference_mode():
            ids = self.model.generate(
                **inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        return ids[0, inputs["input_ids"].shape[1] :].tolist()
