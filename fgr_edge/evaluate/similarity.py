"""Relative semantic similarity (Fine-R1, open world): how much nearer than a coarse word an answer is to the name.

    SS = max(0, (sim(prediction, truth) - sim(super, truth)) / (1 - sim(super, truth)))

The paper takes SigLIP's text encoder; here it is any folder with `model.onnx` and `tokenizer.json`:
    in   input_ids [1, S] int64; attention_mask [1, S] int64 where the graph asks for it
    out  the first output of shape [1, D], float: the embedding of the text
Truncation and padding are those of tokenizer.json. SigLIP reads the last of 64 padded tokens: its file must pad to 64.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from fgr_edge.errors import ConfigError
from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession


class TextEncoder(Protocol):
    """A text's unit vector [D]."""

    def __call__(self, text: str) -> npt.NDArray[np.float64]: ...


class OnnxTextEncoder:
    """A text encoder in a folder; keeps the vectors of the last texts, since names come again and again.

    Raises:
        ConfigError: a file is missing, the tokenizer cannot be read, or the graph has other inputs or outputs.
        EngineError, MissingExtraError: the engine is missing or refuses the graph.
    """

    def __init__(self, folder: Path) -> None:
        for name in ("model.onnx", "tokenizer.json"):
            if not (folder / name).is_file():
                raise ConfigError(f"{folder} has no {name}; expected a text encoder as model.onnx and tokenizer.json")
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises no narrower class
            raise ConfigError(f"{folder / 'tokenizer.json'} is no tokenizer ({error}); copy it again") from error
        self._session = OnnxRuntimeSession(folder / "model.onnx")
        known = {"input_ids", "attention_mask"}
        if "input_ids" not in self._session.input_names or not self._session.input_names <= known:
            found = ", ".join(sorted(self._session.input_names))
            raise ConfigError(f"{folder / 'model.onnx'} has the inputs {found}; expected input_ids, attention_mask")
        self._folder = folder
        self._remembered = lru_cache(maxsize=4096)(self._encode)

    def __call__(self, text: str) -> npt.NDArray[np.float64]:
        return self._remembered(text)

    def _encode(self, text: str) -> npt.NDArray[np.float64]:
        encoded = self._tokenizer.encode(text)
        given = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask}
        inputs = {name: np.asarray([given[name]], np.int64) for name in self._session.input_names}
        outputs = self._session.run(inputs)
        found = next((value for value in outputs.values() if value.ndim == 2 and len(value) == 1), None)
        if found is None:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
            raise ConfigError(f"{self._folder / 'model.onnx'} puts out {shapes}; expected one embedding [1, D]")
        vector: npt.NDArray[np.float64] = found[0].astype(np.float64)
        norm = float(np.linalg.norm(vector))
        if not np.isfinite(norm) or norm == 0:
            raise ConfigError(
                f"{self._folder / 'model.onnx'} gives {text!r} no direction (norm {norm}); export it again"
            )
        vector /= norm
        return vector


def relative_similarity(encode: TextEncoder, prediction: str, truth: str, coarse: str) -> float:
    """SS, 0..1; 1 where the coarse word is itself as close to the name as can be."""
    near, far = float(encode(prediction) @ encode(truth)), float(encode(coarse) @ encode(truth))
    return max(0.0, (near - far) / (1.0 - far)) if far < 1.0 else float(near >= 1.0)
