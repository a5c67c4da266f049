"""Options that several verbs take."""

from __future__ import annotations

from enum import Enum


class Mode(str, Enum):
    """How to answer."""

    direct = "direct"
    reason = "reason"
