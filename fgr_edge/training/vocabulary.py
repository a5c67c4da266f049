"""Nano's own vocabulary: a small byte-level BPE in Qwen's form, its chat template and its image processor.

Any text encodes, because every byte is a token. `<think>`, `<answer>` and their ends are single tokens that decoding
keeps; the chat's tokens are special and are dropped.
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
KEPT = ("<think>", "</think>", "<answer>", "</answer>")
# Qwen2's splitting of text into words.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif 'text' in part -%}
{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def train_tokenizer(lines: list[str], size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `size` tokens made from `lines`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    plain = [line for text in lines for line in _without_kept(text)]
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIAL) - len(KEPT),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(plain, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in KEPT])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def _without_kept(text: str) -> list[str]:
    for token in KEPT:
        text = text.replace(token, "\0")
    return [part for part in text.split("\0") if part]


def special_ids(tokenizer: Any) -> dict[str, int]:
    """Ids of the special tokens by their text."""
    return {token: int(tokenizer.convert_tokens_to_ids(token)) for token in SPECIAL}


def image_limits(px: int, unit: int = 28) -> tuple[int, int]:
    """Smallest and largest area in pixels that make a square picture `px` wide.

    The largest has slack: resizing rounds down, and an exact `px` squared would lose a row to rounding.
    """
    return (px - unit // 2) ** 2, px * px + px * unit // 4
