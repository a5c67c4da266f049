"""Every stored tensor is listed with the bytes that it has."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from fgr_edge.export.tensor_places import GRAPHS, SMALLEST_BYTES, tensor_places


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_places_hold_the_values_of_their_tensors(
    nano_bundle: Callable[..., Path], tmp_path: Path, precision: str
) -> None:
    # A copy: other tests link to the files of the shared bundle, and onnx refuses files with several names.
    bundle = shutil.copytree(nano_bundle(precision), tmp_path / "bundle")
    places = {(place.file.split(".")[0], place.name): place for place in tensor_places(bundle)}
    count = 0
    for graph in GRAPHS:
        for tensor in onnx.load(str(bundle / graph)).graph.initializer:
            values = onnx.numpy_helper.to_array(tensor, str(bundle))
            if values.nbytes < SMALLEST_BYTES:
                continue
            place = places[graph.split(".")[0], tensor.name]
            stored = (bundle / place.file).read_bytes()[place.offset : place.offset + place.length]
            np.testing.assert_array_equal(np.frombuffer(stored, values.dtype), values.reshape(-1))
            count += 1
    assert count > 100


def test_all_bytes_of_graphs_embedding_and_tokenizer_are_covered(nano_bundle: Callable[..., Path]) -> None:
    bundle = nano_bundle("int8")
    whole = {place.file for place in tensor_places(bundle) if place.offset == 0}
    assert whole >= {"embedding.bin", "tokenizer.json", *GRAPHS}
    for graph in GRAPHS:
        data = f"{graph}.data"
        places = [place for place in tensor_places(bundle) if place.file == data]
        ends = [0, *(place.offset + place.length for place in places)]
        gaps = [place.offset - end for place, end in zip(places, ends, strict=False)]
        assert min(gaps) >= 0 and max(gaps) < 4096, "between tensors there is padding only"
        assert ends[-1] == (bundle / data).stat().st_size
