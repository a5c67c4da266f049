"""A checkpoint's Jinja chat template, rendered once into plain text with slots, so that no device needs Jinja."""

from __future__ import annotations

from typing import Any

from fgr_edge.errors import CheckpointError, MissingExtraError
from fgr_edge.runtime.prompt import PromptSpec
from fgr_edge.runtime.prompt_text import DEFAULT_QUESTION, DIRECT_TEMPLATE, REASON_TEMPLATE

_QUESTION = "qQ7_the_question_7Qq"  # stands for the question while the template is rendered


def prompt_spec(chat_template: str, image_token: str) -> PromptSpec:
    """Render `chat_template` around one picture and one question, and mark where they stand.

    Args:
        chat_template: Jinja, in transformers' message format.
        image_token: the text of the picture placeholder, `<|image_pad|>` in the Qwen families.

    Raises:
        CheckpointError: the template does not render, or does not show the picture and the question once each.
        MissingExtraError: jinja2 is not installed.
    """
    content = [{"type": "image"}, {"type": "text", "text": _QUESTION}]
    text = _render(chat_template, [{"role": "user", "content": content}])
    for slot, mark in ((image_token, "{image}"), (_QUESTION, "{question}")):
        if text.count(slot) != 1:
            raise CheckpointError(
                f"the chat template shows {mark} {text.count(slot)} times, expected once; rendered, it reads {text!r}"
            )
        text = text.replace(slot, mark)
    return PromptSpec(
        template=text,
        direct=DIRECT_TEMPLATE,
        reason=REASON_TEMPLATE,
        question=DEFAULT_QUESTION,
        image_token=image_token,
    )


def _refuse(message: str) -> None:
    """What templates call for conversations they do not take."""
    raise CheckpointError(f"the checkpoint's chat template refuses one picture with a question: {message}")


def _render(chat_template: str, messages: list[dict[str, Any]]) -> str:
    try:
        from jinja2.exceptions import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingExtraError("jinja2 is not installed; pip install 'fgr-edge[export]'") from error
    # The settings that transformers renders chat templates with; the sandbox keeps a template from running code.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(chat_template).render(messages=messages, add_generation_prompt=True)
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint's chat template does not render: {error}; check chat_template.jinja"
        ) from error
