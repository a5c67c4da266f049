"""A chat template becomes plain text with two slots, as transformers would render it."""

from __future__ import annotations

from typing import Any

import pytest

from fgr_edge.errors import CheckpointError
from fgr_edge.export.architectures import FAMILIES
from fgr_edge.export.chat import prompt_spec
from fgr_edge.runtime.prompt_text import DEFAULT_QUESTION, DIRECT_TEMPLATE, REASON_TEMPLATE

IMAGE = "<|image_pad|>"
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for p in m.content %}{% if p.type == 'image' %}"
    + PICTURE
    + "{% else %}{{ p.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Idioms that templates on the hub use: counters, namespaces, membership, whitespace control, loop controls.
COUNTING = (
    """{%- set count = namespace(value=0) -%}
{%- for message in messages -%}
    {%- if loop.first and message['role'] != 'system' -%}<|im_start|>system
Be brief.<|im_end|>
{% endif -%}
    <|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else -%}
    {%- for content in message['content'] -%}
        {%- if content['type'] == 'image' or 'image' in content or 'image_url' in content -%}
            {%- set count.value = count.value + 1 -%}
            {%- if add_vision_id %}Picture {{ count.value }}: {% endif -%}
            """
    + PICTURE
    + """
        {%- elif 'text' in content -%}{{ content['text'] }}{%- endif -%}
        {%- if count.value > 5 -%}{%- break -%}{%- endif -%}
    {%- endfor -%}
{%- endif -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""
)


def by_transformers(template: str, question: str) -> str:
    pytest.importorskip("transformers")
    from tests.tiny import tokenizer

    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    ]
    text = tokenizer().apply_chat_template(messages, chat_template=template, add_generation_prompt=True, tokenize=False)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize(
    "template",
    [*(family.chat_template for family in FAMILIES), PLAIN, COUNTING],
    ids=[*(family.name for family in FAMILIES), "plain", "counting"],
)
def test_rendered_text_equals_transformers(template: str) -> None:
    spec = prompt_spec(template, IMAGE)
    text = spec.template.replace("{image}", IMAGE).replace("{question}", "Which apple?")
    assert text == by_transformers(template, "Which apple?")
    assert PICTURE.replace(IMAGE, "{image}") + "{question}<|im_end|>" in spec.template


def test_a_template_without_a_system_message_gets_none() -> None:
    assert "system" not in prompt_spec(PLAIN, IMAGE).template
    assert prompt_spec(COUNTING, IMAGE).template.startswith("<|im_start|>system\nBe brief.<|im_end|>")


def test_families_differ_in_their_default_system_message() -> None:
    with_system = {family.name: "system" in prompt_spec(family.chat_template, IMAGE).template for family in FAMILIES}
    assert with_system == {"qwen2_5_vl": True, "qwen3_vl": False}


def test_wordings_are_those_that_training_uses() -> None:
    spec = prompt_spec(PLAIN, IMAGE)
    assert (spec.direct, spec.reason, spec.question) == (DIRECT_TEMPLATE, REASON_TEMPLATE, DEFAULT_QUESTION)
    assert spec.image_token == IMAGE


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in messages %}", "chat template does not render: .*check chat_template.jinja"),
        ("{{ nothing.at.all }}", "chat template does not render"),
        ("hello", r"shows \{image\} 0 times, expected once; rendered, it reads 'hello'"),
        (PLAIN.replace("{{ p.text }}", ""), r"shows \{question\} 0 times"),
        (PLAIN.replace(PICTURE, PICTURE * 2), r"shows \{image\} 2 times"),
        (PLAIN + "{{ messages.append(1) }}", "does not render"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "does not render"),
        ("{% include '/etc/passwd' %}", "does not render"),
    ],
)
def test_templates_that_cannot_be_used_are_refused(template: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        prompt_spec(template, IMAGE)
