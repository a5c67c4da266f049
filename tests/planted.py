"""Bundles with golden outputs, and faults planted in them: weights and manifests changed with every checksum mended."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from fgr_edge.calibrate.golden import Golden, make_golden, store_golden
from fgr_edge.calibrate.tensor_digests import TensorDigests
from fgr_edge.calibrate.verify import verify
from fgr_edge.calibrate.verify_report import VerifyReport
from fgr_edge.export.progress import progress_bar
from fgr_edge.export.tensor_places import tensor_places
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.bundle_amendment import BundleAmendment


def checked(bundle: Path, **options: Any) -> VerifyReport:
    """`verify` without photographs."""
    return verify(bundle, options.pop("data", None), progress_bar, **options)


def with_golden(reference: Path, bundle: Path, folder: Path) -> Path:
    """A copy of `bundle` in `folder` that has golden outputs."""
    copy = shutil.copytree(bundle, folder / bundle.name)
    store_golden(copy, make_golden(reference, copy, tensors=tensor_places(copy)))
    return Path(copy)


def copied(bundle: Path, folder: Path) -> Path:
    """A copy to plant a fault in."""
    return Path(shutil.copytree(bundle, folder / "planted"))


def mend_digests(bundle: Path) -> None:
    """Make the golden digests those of the bundle as it is now."""
    opened = Bundle.open(bundle)
    golden = Golden.read(opened)
    digests = TensorDigests.of(opened, golden.tensors.places)
    store_golden(bundle, replace(golden, tensors=digests).to_arrays())


def set_number(bundle: Path, part: str, key: str, value: object) -> None:
    """Change the manifest and mend its digest."""
    with BundleAmendment(bundle) as amendment:
        manifest: dict[str, Any] = dict(amendment.manifest or {})
        manifest[part] = {**manifest[part], key: value}
        amendment.manifest = manifest


def change_bytes(bundle: Path, file: str, change: Callable[[bytearray], None]) -> None:
    """Change a file and mend its checksum."""
    stored = bytearray((bundle / file).read_bytes())
    change(stored)
    with BundleAmendment(bundle) as amendment:
        amendment.path(file).write_bytes(stored)


def flip(bundle: Path, tensor: str) -> None:
    """Flip one bit in the middle of a stored tensor."""
    place = next(place for place in tensor_places(bundle) if place.name == tensor)

    def change(stored: bytearray) -> None:
        stored[place.offset + place.length // 2] ^= 1

    change_bytes(bundle, place.file, change)


def swap_qkv(bundle: Path, graph: str, layer: int, order: str) -> None:
    """Put the stacked rows of q, k and v of one layer in another order ("kqv"), scales and biases too."""
    model = onnx.load(str(bundle / f"{graph}.onnx"), load_external_data=False)
    pattern = re.compile(rf"\.{layer}\..*(q_proj|qkv)\.")
    widths = _qkv_widths(bundle, graph)
    tensors = [t for t in model.graph.initializer if t.data_location == 1 and pattern.search(t.name)]
    assert tensors

    def change(stored: bytearray) -> None:
        for tensor in tensors:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            start, length, rows = int(entries["offset"]), int(entries["length"]), tensor.dims[0]
            width = length // rows
            q, k = (rows - 2 * widths if graph == "decoder" else rows // 3), widths or rows // 3
            bounds = dict(zip("qkv", np.cumsum([0, q, k]).tolist(), strict=True))
            ends = dict(zip("qkv", np.cumsum([q, k, k]).tolist(), strict=True))
            old = bytes(stored[start : start + length])
            stored[start : start + length] = b"".join(old[bounds[c] * width : ends[c] * width] for c in order)

    change_bytes(bundle, f"{graph}.onnx.data", change)


@cache
def _kv_rows(bundle: Path) -> int:
    decoder = Bundle.open(bundle).manifest["decoder"]
    return decoder["kv_heads"] * decoder["head_dim"]


def _qkv_widths(bundle: Path, graph: str) -> int:
    """Rows of k in the decoder; 0 where q, k and v are of one width."""
    return _kv_rows(bundle) if graph == "decoder" else 0
