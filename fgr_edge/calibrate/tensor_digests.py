"""Digests of every stored tensor, so that a changed one is found and named even where its file's checksum was mended.

In: where each tensor lies (the exporter knows), a bundle. Out: a digest of each; the names of those that differ. Reads
bytes, knows neither ONNX nor shapes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import BundleError
from fgr_edge.runtime.bundle import Bundle

Array = npt.NDArray[Any]
Step = Callable[[int], None]

DIGEST_BYTES = 32
_BLOCK_BYTES = 4 * 1024 * 1024
_KEYS = ("names", "files", "places", "digests")


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Bytes offset : offset + length of a listed file of the bundle."""

    name: str
    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class TensorDigests:
    """BLAKE2b-256 of tensors, in the order of their places."""

    places: tuple[TensorPlace, ...]
    digests: tuple[bytes, ...]

    @classmethod
    def of(cls, bundle: Bundle, places: Sequence[TensorPlace]) -> TensorDigests:
        """Read and digest every tensor.

        Raises:
            BundleError: a place is outside its file, or the file is not the bundle's.
        """
        return cls(tuple(places), tuple(_digest(bundle.file(p.file), p, lambda _: None) for p in places))

    @property
    def total_bytes(self) -> int:
        """Of all tensors."""
        return sum(place.length for place in self.places)

    def changed(self, bundle: Bundle, step: Step) -> list[TensorPlace]:
        """The tensors that are not what they were; `step` is called with bytes read.

        Raises:
            BundleError: a place is outside its file, or the file is not the bundle's.
        """
        pairs = zip(self.places, self.digests, strict=True)
        return [place for place, digest in pairs if _digest(bundle.file(place.file), place, step) != digest]

    def to_arrays(self) -> dict[str, Array]:
        """The reverse of `from_arrays`."""
        flat = np.frombuffer(b"".join(self.digests), np.uint8)
        return {
            "names": np.array([place.name for place in self.places], np.str_),
            "files": np.array([place.file for place in self.places], np.str_),
            "places": np.array([(p.offset, p.length) for p in self.places], np.int64).reshape(-1, 2),
            "digests": flat.reshape(-1, DIGEST_BYTES).copy(),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> TensorDigests:
        """From names [n] and files [n] of text, places [n, 2] int64 and digests [n, 32] uint8.

        Raises:
            BundleError: they are not such arrays.
        """
        found = [arrays.get(key) for key in _KEYS]
        names, files, places, digests = found
        if names is None or files is None or places is None or digests is None:
            lacking = ", ".join(key for key, value in zip(_KEYS, found, strict=True) if value is None)
            raise BundleError(f"golden.npz has no tensors.{lacking}; export the bundle again")
        count = len(names) if names.ndim else -1
        if (
            (names.dtype.kind, files.dtype.kind, places.dtype.kind) != ("U", "U", "i")
            or digests.dtype != np.uint8
            or (files.shape, places.shape, digests.shape) != ((count,), (count, 2), (count, DIGEST_BYTES))
        ):
            raise BundleError("golden.npz holds no table of tensors where it should; export the bundle again")
        rows = zip(names.tolist(), files.tolist(), places.tolist(), strict=True)
        return cls(
            tuple(TensorPlace(name, file, offset, length) for name, file, (offset, length) in rows),
            tuple(row.tobytes() for row in digests),
        )


def _digest(path: Path, place: TensorPlace, step: Step) -> bytes:
    size = path.stat().st_size
    if place.offset < 0 or place.length < 0 or place.offset + place.length > size:
        raise BundleError(
            f"tensor {place.name} is said to lie at {place.offset} + {place.length} of {path.name}, which has {size} "
            "bytes; export the bundle again"
        )
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    left = place.length
    with open(path, "rb", buffering=0) as file:
        file.seek(place.offset)
        while left and (block := file.read(min(left, _BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
            step(len(block))
    return digest.digest()
