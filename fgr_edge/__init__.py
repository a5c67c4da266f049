"""Fine-grained recognition with a multimodal LLM, compiled for the edge.

`from fgr_edge import Recognizer` is the whole interface; nothing is imported before it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fgr_edge.runtime.prediction import Prediction
    from fgr_edge.runtime.recognizer import Recognizer

__version__ = "0.1.0"
__all__ = ["Prediction", "Recognizer", "__version__"]


def __getattr__(name: str) -> object:
    if name == "Recognizer":
        from fgr_edge.runtime.recognizer import Recognizer

        return Recognizer
    if name == "Prediction":
        from fgr_edge.runtime.prediction import Prediction

        return Prediction
    raise AttributeError(f"module 'fgr_edge' has no attribute {name!r}")
