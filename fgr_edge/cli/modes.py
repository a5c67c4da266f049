"""Options that several verbs take."""

from __future__ import annotations

from enum import Enum


class Mode(str, Enum):
    """How to answer."""

    direct = "direct"
    reason = "reason"


class Device(str, Enum):
    """Where ONNX Runtime runs the graphs."""

    cpu = "cpu"
    cuda = "cuda"
