"""One pass of the original model over the calibration pictures, streamed: a few layers at a time are in memory.

In: a model, pictures, and what is read of them. Out: statistics of the input of every linear layer. A span of layers is
written in float32 as a graph of its own, run over everything by ONNX Runtime, and removed; what it made of each picture
waits in files for the next span.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.statistics import StatisticsWriter
from fgr_edge.export import settings
from fgr_edge.export.calibration_texts import Call
from fgr_edge.export.dialects.tapping import Tap, TappingDialect
from fgr_edge.export.graphs.decoder import build_decoder, decoder_weights
from fgr_edge.export.graphs.vision import build_vision, vision_weights
from fgr_edge.export.model import Model
from fgr_edge.export.progress import Step
from fgr_edge.export.weights import Matrix
from fgr_edge.runtime.image import ImageConfig, load_image, preprocess
from fgr_edge.runtime.rotary import RotaryAngles, frequency_axes
from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from fgr_edge.runtime.sessions.session import Array
from fgr_edge.runtime.vision import ImageEmbeds, grid_tables

Floats = npt.NDArray[np.float32]

SPAN_WEIGHTS = 128 * 1024 * 1024  # in a span, unless one layer alone has more; 512 MiB of float32, twice while it runs


def _unasked(_: Matrix) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class CalibrationPass:
    """What both parts of a pass share.

    Attributes:
        model: the original.
        scratch: an empty folder, for spans and for what waits between them.
        writer: gathers the statistics.
        grams: which matrices want X^T X.
        span_weights: in memory at a time.
    """

    model: Model
    scratch: Path
    writer: StatisticsWriter
    grams: Callable[[Matrix], bool] = _unasked
    span_weights: int = SPAN_WEIGHTS

    def see(self, pictures: Sequence[Path], image: ImageConfig, step: Step) -> list[ImageEmbeds]:
        """Run the vision tower; `step` is called with the blocks that one more picture has passed."""
        dims = self.model.vision_dims
        seen = [_Seen() for _ in pictures]
        waiting = _Waiting(self.scratch)
        for blocks in _spans(dims.depth, vision_weights(dims) // dims.depth, self.span_weights):
            self._see_with(blocks, pictures, image, seen, waiting, step)
            self.writer.flush()
        waiting.clear()
        return [picture.embeds(dims.merge_size) for picture in seen]

    def _see_with(
        self,
        blocks: range,
        pictures: Sequence[Path],
        image: ImageConfig,
        seen: Sequence[_Seen],
        waiting: _Waiting,
        step: Step,
    ) -> None:
        dims, weights = self.model.vision_dims, self.model.vision
        with self._opened(
            "vision", lambda folder, dialect: build_vision(folder, dims, weights, dialect, _no_step, span=blocks)
        ) as (session, taps):
            for number, path in enumerate(pictures):
                if blocks.start == 0:
                    patches = preprocess(load_image(path), image)
                    seen[number].grid = patches.grid[1:]
                    given = {"patches": patches.pixels}
                else:
                    given = {"hidden_in": waiting.get(number)}
                tables = grid_tables(settings.vision_spec(dims), *seen[number].grid)
                given |= {name: table for name, table in tables.items() if name in session.input_names}
                outputs = session.run(given)
                self._record(number, len(pictures), taps, outputs)
                if "hidden" in outputs:
                    waiting.put(number, outputs["hidden"])
                seen[number].keep(outputs)
                step(len(blocks))

    def read(self, texts: Sequence[Sequence[Call]], step: Step) -> None:
        """Run the decoder over the calls of each picture; `step` is called with the layers that one more has passed.

        The head itself is not run: its input is what the last span gives.
        """
        dims = self.model.decoder_dims
        waiting, tables = _Waiting(self.scratch), _Tables(self.model)
        for layers in _spans(dims.layers, decoder_weights(dims) // dims.layers, self.span_weights):
            self._read_with(layers, texts, tables, waiting, step)
            self.writer.flush()
        waiting.clear()

    def _read_with(
        self, layers: range, texts: Sequence[Sequence[Call]], tables: _Tables, waiting: _Waiting, step: Step
    ) -> None:
        dims, weights, head = self.model.decoder_dims, self.model.decoder, self.model.head
        most = max(map(len, texts))
        documents = most * len(texts)
        with self._opened(
            "decoder",
            lambda folder, dialect: build_decoder(folder, dims, weights, None, dialect, _no_step, span=layers),
        ) as (session, taps):
            for number, calls in enumerate(texts):
                past = tables.empty_cache(layers, calls)
                for document, call in enumerate(calls, start=number * most):
                    embeds = call.embeds if layers.start == 0 else waiting.get(document)
                    given = tables.inputs(call, embeds, layers) | past
                    outputs = session.run({name: given[name] for name in session.input_names})
                    past = {name: outputs[name.replace("past", "present")] for name in past}
                    self._record(document, documents, taps, outputs)
                    hidden = outputs["hidden"][0]
                    if layers.stop < dims.layers:
                        waiting.put(document, hidden)
                    else:
                        self.writer.add(document, documents, [head.name], hidden, gram=self.grams(head))
                step(len(layers))

    def _record(self, document: int, of: int, taps: Sequence[Tap], outputs: Mapping[str, Array]) -> None:
        for tap in taps:
            x = outputs[tap.output]
            names = [matrix.name for matrix in tap.matrices]
            self.writer.add(document, of, names, x.reshape(-1, x.shape[-1]), gram=any(map(self.grams, tap.matrices)))

    @contextmanager
    def _opened(
        self, name: str, build: Callable[[Path, TappingDialect], None]
    ) -> Iterator[tuple[OnnxRuntimeSession, list[Tap]]]:
        """Write a span's graph, open it, and remove it in the end."""
        folder = self.scratch / "span"
        folder.mkdir()
        dialect = TappingDialect()
        try:
            build(folder, dialect)
            yield OnnxRuntimeSession(folder / f"{name}.onnx"), dialect.taps
        finally:
            shutil.rmtree(folder)


class _Seen:
    """What the vision tower gives of one picture, as its spans give it."""

    def __init__(self) -> None:
        self.grid = (0, 0)  # of patches
        self._outputs: dict[str, Floats] = {}

    def keep(self, outputs: Mapping[str, Array]) -> None:
        self._outputs |= {name: x for name, x in outputs.items() if name.startswith(("image_embeds", "deepstack."))}

    def embeds(self, merge: int) -> ImageEmbeds:
        deepstack = tuple(self._outputs[f"deepstack.{i}"] for i in range(len(self._outputs) - 1))
        grid = (self.grid[0] // merge, self.grid[1] // merge)
        return ImageEmbeds.of_arrays(self._outputs["image_embeds"], deepstack, grid)


class _Waiting:
    """What a span made of each document, in files that the next span overwrites."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: set[int] = set()

    def put(self, document: int, values: Floats) -> None:
        np.save(self._path(document), values)
        self._written.add(document)

    def get(self, document: int) -> Floats:
        values: Floats = np.load(self._path(document))
        return values

    def clear(self) -> None:
        for document in self._written:
            self._path(document).unlink()

    def _path(self, document: int) -> Path:
        return self._folder / f"waiting.{document}.npy"


class _Tables:
    """Inputs of a span of the decoder besides the tokens."""

    def __init__(self, model: Model) -> None:
        dims = self._dims = model.decoder_dims
        axes = frequency_axes(dims.mrope_section, interleaved=dims.mrope_interleaved)
        self._angles = RotaryAngles(dims.head_dim, dims.rope_theta, axes)

    def empty_cache(self, layers: range, calls: Sequence[Call]) -> dict[str, Array]:
        """past_* of every layer, with room for the longest of the calls."""
        dims = self._dims
        slots = max(call.positions.shape[1] for call in calls)
        cache = np.zeros((1, dims.kv_heads, slots, dims.head_dim), np.float32)
        return {f"past_{kind}.{layer}": cache for layer in layers for kind in ("key", "value")}

    def inputs(self, call: Call, embeds: Floats, layers: range) -> dict[str, Array]:
        total = call.positions.shape[1]
        self._angles.reserve(int(call.positions.max()) + 1)
        cos, sin = self._angles.at(call.positions)
        return {
            "inputs_embeds": embeds[None],
            "seqlens_k": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
            "cos_cache": cos,
            "sin_cache": sin,
            "logit_rows": np.arange(call.answered_from, total - call.past),
            **{f"deepstack.{i}": call.deepstack[i][None] for i in layers if i < len(call.deepstack)},
        }


def _spans(layers: int, layer_weights: int, span_weights: int) -> list[range]:
    length = max(1, span_weights // layer_weights)
    return [range(start, min(start + length, layers)) for start in range(0, layers, length)]


def _no_step(_: int) -> None:
    pass
