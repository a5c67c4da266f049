"""The model families that can be exported: one file of facts each, and the table that finds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fgr_edge.errors import CheckpointError
from fgr_edge.export.architectures import qwen2_5_vl, qwen3_vl
from fgr_edge.export.architectures.family import DecoderDims, Family, VisionDims

__all__ = ["FAMILIES", "DecoderDims", "Family", "VisionDims", "family_of"]

FAMILIES = (qwen2_5_vl.FAMILY, qwen3_vl.FAMILY)


def family_of(config: Mapping[str, Any]) -> Family:
    """Find the family of a parsed config.json by its `model_type`.

    Raises:
        CheckpointError: no family supports it; the message lists those that are.
    """
    found = config.get("model_type")
    for family in FAMILIES:
        if found in family.model_types:
            return family
    supported = ", ".join(name for family in FAMILIES for name in family.model_types)
    named = f"architecture {found!r} is not supported" if found else "config.json has no model_type"
    raise CheckpointError(f"{named}; supported: {supported} (Fine-R1 is a qwen2_5_vl)")
