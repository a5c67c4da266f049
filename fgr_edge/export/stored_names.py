"""One tensor under the many names that versions of transformers and PEFT give it.

In: a family's prefixes, and a name as an adapter or another checkpoint writes it ("model.language_model.layers.0...",
"model.layers.0..."). Out: the name under which this checkpoint stores it. Reads no tensor.
"""

from __future__ import annotations

from collections.abc import Container

from fgr_edge.export.architectures import Family

HEAD_NAMES = ("lm_head.weight", "model.lm_head.weight", "language_model.lm_head.weight")
"""Where the output projection may be stored."""


def stored_name(checkpoint: Container[str], family: Family, name: str) -> str | None:
    """The name under which `checkpoint` stores what is called `name` elsewhere; None where it stores no such tensor."""
    if name in checkpoint:
        return name
    for known in _same_tensor(family, name):
        if known in checkpoint:
            return known
    return None


def embedding_name(checkpoint: Container[str], family: Family) -> str | None:
    """The name of the token embedding, [V, H]."""
    return stored_name(checkpoint, family, family.decoder_prefixes[0] + family.decoder_names["embedding"])


def head_name(checkpoint: Container[str]) -> str | None:
    """The name of the stored output projection; None where it is the embedding."""
    return next((name for name in HEAD_NAMES if name in checkpoint), None)


def _same_tensor(family: Family, name: str) -> list[str]:
    """Every name that `name` may have, itself included."""
    if name in HEAD_NAMES:
        return list(HEAD_NAMES)
    # The tower first: "model.visual." also begins with the decoder's "model.".
    for prefixes in (family.vision_prefixes, family.decoder_prefixes):
        for prefix in sorted(prefixes, key=len, reverse=True):
            if name.startswith(prefix):
                return [other + name.removeprefix(prefix) for other in prefixes]
    return []
