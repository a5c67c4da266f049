"""Patches to image embeddings: index tables made on the host, one graph run.

The tables say how patches form windows, where each stands (rotary angles) and how the learned positions are read. They
depend only on the grid and are kept for the next picture of the same size.
Source: transformers, `vision_utils.py` (window index, position ids, bilinear taps).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.image import Patches
from fgr_edge.runtime.sessions.session import Array, Buffer, HostArray, Session, host_view

Floats = npt.NDArray[np.float32]
KEPT_GRIDS = 8


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """What the vision graph expects; written by export into the manifest's `vision` part."""

    head_dim: int
    merge_size: int
    rope_theta: float
    window_patches: int | None
    learned_positions: int | None
    deepstack: int


class ImageEmbeds:
    """A picture as decoder input, where the vision engine left it; on the host when somebody asks for that.

    Args:
        buffers: [M, H] float32 each: the tokens, then a row for each of them for every DeepStack layer.
        grid: (height, width) in tokens.
    """

    def __init__(self, buffers: Sequence[Buffer], grid: tuple[int, int]) -> None:
        self.buffers = tuple(buffers)
        self.grid = grid
        self._on_host: tuple[Floats, ...] | None = None

    @classmethod
    def of_arrays(cls, tokens: Floats, deepstack: Sequence[Floats], grid: tuple[int, int]) -> ImageEmbeds:
        """Embeddings that are on the host."""
        return cls([HostArray(array) for array in (tokens, *deepstack)], grid)

    @property
    def count(self) -> int:
        """M, how many tokens the picture takes."""
        return self.buffers[0].shape[0]

    @property
    def tokens(self) -> Floats:
        """[M, H] on the host; waits for the engine, the first time."""
        return self._arrays()[0]

    @property
    def deepstack(self) -> tuple[Floats, ...]:
        """Per DeepStack layer [M, H] on the host; waits likewise."""
        return self._arrays()[1:]

    def _arrays(self) -> tuple[Floats, ...]:
        if self._on_host is None:
            self._on_host = tuple(host_view(buffer) for buffer in self.buffers)
        return self._on_host


class VisionEncoder:
    """An open vision graph."""

    def __init__(self, session: Session, spec: VisionSpec) -> None:
        self._session = session
        self._spec = spec
        self._tables: OrderedDict[tuple[int, int], dict[str, Array]] = OrderedDict()

    def encode(self, patches: Patches) -> ImageEmbeds:
        """Run the tower on one picture; engines that work elsewhere than on the host are not waited for."""
        _, height, width = patches.grid
        outputs = self._session.run_resident({"patches": patches.pixels, **self._grid_tables(height, width)})
        merge = self._spec.merge_size
        names = ("image_embeds", *(f"deepstack.{i}" for i in range(self._spec.deepstack)))
        return ImageEmbeds([outputs[name] for name in names], (height // merge, width // merge))

    def _grid_tables(self, height: int, width: int) -> dict[str, Array]:
        key = (height, width)
        if key not in self._tables:
            self._tables[key] = grid_tables(self._spec, height, width)
            if len(self._tables) > KEPT_GRIDS:
                self._tables.popitem(last=False)
        self._tables.move_to_end(key)
        return self._tables[key]


def grid_tables(spec: VisionSpec, height: int, width: int) -> dict[str, Array]:
    """All inputs of the vision graph but the pixels, for a grid of height x width patches."""
    rows, columns = patch_coordinates(height, width, spec.merge_size)
    tables: dict[str, Array] = {}
    if spec.window_patches is not None:
        tables.update(window_tables(height, width, spec.merge_size, spec.window_patches))
        rows, columns = rows[tables["order"]], columns[tables["order"]]
    if spec.learned_positions is not None:
        side = round(spec.learned_positions**0.5)
        tables.update(position_tables(rows, columns, (height, width), side))
    tables["cos"], tables["sin"] = rotary_tables(rows, columns, spec.head_dim, spec.rope_theta)
    return tables


def patch_coordinates(height: int, width: int, merge: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row and column of each patch in the processor's order: merge x merge blocks, row by row."""
    blocks = (height // merge, width // merge, merge, merge)
    block_row, block_column, row, column = np.indices(blocks).reshape(4, -1)
    return block_row * merge + row, block_column * merge + column


def rotary_tables(
    rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], head_dim: int, theta: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """cos and sin [N, D / 2]: the first half of the frequencies turns with the row, the second with the column."""
    half = head_dim // 2
    exponents = np.arange(0, half, 2, dtype=np.float32) / np.float32(half)
    inverse = (1.0 / np.power(np.float32(theta), exponents)).astype(np.float32)
    angles = np.concatenate([axis[:, None].astype(np.float32) * inverse for axis in (rows, columns)], axis=1)
    return np.cos(angles), np.sin(angles)


def window_tables(height: int, width: int, merge: int, window: int) -> dict[str, Array]:
    """Cut a grid into windows of window x window patches, ragged at the right and the bottom.

    Returns order [N], window_rows [W, window^2], window_mask, window_inverse [N] and restore [M]; see graphs/vision.py.
    """
    unit, span = merge * merge, window // merge
    rows, columns = np.indices((height // merge, width // merge)).reshape(2, -1)
    windows_across = -(-(width // merge) // span)
    window_of = rows // span * windows_across + columns // span  # of each merged token, in reading order
    tokens = np.argsort(window_of, kind="stable")
    counts = np.bincount(window_of) * unit
    order = (tokens[:, None] * unit + np.arange(unit)).reshape(-1)
    slots = np.arange(window * window)
    mask = slots < counts[:, None]
    first = np.cumsum(counts) - counts
    return {
        "order": order,
        "window_rows": np.where(mask, first[:, None] + slots, 0),
        "window_mask": mask.astype(np.int32),
        "window_inverse": np.flatnonzero(mask),
        "restore": np.argsort(tokens),
    }


def position_tables(
    rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], grid: tuple[int, int], side: int
) -> dict[str, Array]:
    """Bilinear taps [N, 4] into a learned side x side table stretched corner to corner over the grid."""
    taps, weights = [], []
    for index, size in zip((rows, columns), grid, strict=True):
        source = index.astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
        low = np.floor(source)
        share = source - low
        taps.append(np.stack([low, np.minimum(low + 1, side - 1)], axis=1).astype(np.int64))
        weights.append(np.stack([1 - share, share], axis=1))
    return {
        "position_rows": (taps[0][:, :, None] * side + taps[1][:, None, :]).reshape(-1, 4),
        "position_weights": (weights[0][:, :, None] * weights[1][:, None, :]).reshape(-1, 4).astype(np.float32),
    }
