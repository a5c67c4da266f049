"""Reads the parts of a manifest into the dataclasses that the runtime works with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from fgr_edge.errors import BundleError

T = TypeVar("T")


def read_spec(kind: type[T], values: Mapping[str, Any], part: str) -> T:
    """Build the dataclass `kind` from JSON; keys it does not know are left to newer versions.

    Raises:
        BundleError: a key is missing; the message names it.
    """
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in values:
            value = values[field.name]
            arguments[field.name] = tuple(value) if isinstance(value, list) else value
        elif field.default is dataclasses.MISSING:
            raise BundleError(
                f"manifest.json: {part!r} has no {field.name!r}; export the bundle again with this version"
            )
    return kind(**arguments)
