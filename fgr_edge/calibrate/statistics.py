"""What calibration sees of the inputs of each linear layer: gathered row by row, kept on disk, read when asked for.

In: inputs X [n, K] of one document (a picture, or what is written about it) after the other, by the names of the
matrices that they go into. Out: `InputStatistics` by matrix name. In memory is what has been begun and not been
flushed; what is on disk is mapped. Knows numbers, no model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.schemes.scheme import InputStatistics
from fgr_edge.errors import EngineError

Floats = npt.NDArray[np.float32]

INDEX = "statistics.json"
SAMPLE_ROWS = 512  # of each layer's inputs, spread evenly over the documents


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics in a folder, by matrix name.

    Attributes:
        folder: where they are.
        files: matrix name -> stem of its files; matrices with the same input share them.
        rows: matrix name -> rows of X that were seen.
        scales: matrix name -> what its inputs have been divided by since (see `divided`).
    """

    folder: Path
    files: Mapping[str, str]
    rows: Mapping[str, int]
    scales: Mapping[str, Floats]

    @classmethod
    def open(cls, folder: Path) -> Statistics:
        """Read what a `StatisticsWriter` wrote."""
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return cls(folder, index["files"], index["rows"], {})

    def inputs(self, name: str) -> InputStatistics | None:
        """What was seen of the inputs of matrix `name`; None where it was nothing."""
        if name not in self.files:
            return None
        stem = self.files[name]
        gram = self.folder / f"{stem}.gram.npy"
        seen = InputStatistics(
            abs_mean=self._read(f"{stem}.abs_mean.npy"),
            abs_max=self._read(f"{stem}.abs_max.npy"),
            sample=self._read(f"{stem}.sample.npy"),
            gram=self._read(gram.name) if gram.exists() else None,
        )
        return seen if name not in self.scales else divided(seen, self.scales[name])

    def divided(self, scales: Mapping[str, Floats]) -> Statistics:
        """The same, with the inputs of each matrix in `scales` divided by its scale [K], as folding leaves them."""
        return replace(self, scales={**self.scales, **scales})

    def _read(self, name: str) -> Floats:
        found: Floats = np.load(self.folder / name, mmap_mode="r")
        return found


def divided(seen: InputStatistics, scale: Floats) -> InputStatistics:
    """Statistics of X / scale, given those of X."""
    gram = None if seen.gram is None else seen.gram / np.outer(scale, scale)
    return InputStatistics(seen.abs_mean / scale, seen.abs_max / scale, seen.sample / scale, gram)


class StatisticsWriter:
    """Gathers statistics into a folder.

    Args:
        folder: exists; other files in it are left alone.
        sample_rows: of each input.
        seed: of the sample.
    """

    def __init__(self, folder: Path, *, sample_rows: int = SAMPLE_ROWS, seed: int = 0) -> None:
        self._folder = folder
        self._sample_rows = sample_rows
        self._seed = seed
        self._open: dict[tuple[str, ...], _Sums] = {}
        self._files: dict[str, str] = {}
        self._rows: dict[str, int] = {}

    def add(self, document: int, of: int, names: Sequence[str], x: Floats, *, gram: bool = False) -> None:
        """Take in X [n, K] of `document`, which matrices `names` multiply; once for each document.

        Args:
            document, of: its number from 0, and how many there are; the sample is spread over them.
            gram: whether X^T X is wanted: [K, K] in memory, n * K * K multiplications.
        """
        key = tuple(names)
        if key not in self._open:
            self._open[key] = _Sums(x.shape[1], gram=gram)
        # Seeded by the document alone: two layers that see the same tokens are sampled at the same ones.
        rng = np.random.default_rng([self._seed, document])
        share = (document + 1) * self._sample_rows // of - document * self._sample_rows // of
        self._open[key].add(x, np.sort(rng.permutation(len(x))[:share]))

    def flush(self) -> None:
        """Write what was gathered, and forget it; the matrices in it are complete.

        Raises:
            EngineError: inputs are NaN or infinite.
        """
        for names, sums in self._open.items():
            if not sums.finite:
                raise EngineError(
                    f"the inputs of {names[0]} are NaN or infinite on the calibration pictures; expected numbers: the "
                    "checkpoint's weights before it are broken, or it was merged or averaged from ones that are"
                )
            stem = f"{len(set(self._files.values())):04d}"
            for kind, values in sums.results().items():
                np.save(self._folder / f"{stem}.{kind}.npy", values)
            self._files |= dict.fromkeys(names, stem)
            self._rows |= dict.fromkeys(names, sums.rows)
        self._open.clear()

    def close(self) -> Statistics:
        """Flush, and write the index."""
        self.flush()
        index: dict[str, Any] = {"files": self._files, "rows": self._rows}
        (self._folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
        return Statistics.open(self._folder)


class _Sums:
    """Of one input."""

    def __init__(self, columns: int, *, gram: bool) -> None:
        self.rows = 0
        self._sum = np.zeros(columns, np.float64)
        self._max = np.zeros(columns, np.float32)
        self._gram = np.zeros((columns, columns), np.float32) if gram else None
        self._sample: list[Floats] = []

    def add(self, x: Floats, sampled: npt.NDArray[np.int64]) -> None:
        magnitude = np.abs(x)
        self.rows += len(x)
        self._sum += magnitude.sum(axis=0, dtype=np.float64)
        np.maximum(self._max, magnitude.max(axis=0, initial=0), out=self._max)
        self._sample.append(x[sampled])
        if self._gram is not None:
            self._gram += x.T @ x

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self._sum).all())

    def results(self) -> dict[str, Floats]:
        found = {
            "abs_mean": (self._sum / self.rows).astype(np.float32),
            "abs_max": self._max,
            "sample": np.concatenate(self._sample),
        }
        if self._gram is not None:
            found["gram"] = self._gram / np.float32(self.rows)
        return found
