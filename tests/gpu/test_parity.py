"""Every stage on the GPU against the original's golden outputs, by each engine that is installed: `verify`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from fgr_edge.calibrate.golden import make_golden, store_golden
from fgr_edge.calibrate.verify import verify
from fgr_edge.errors import FgrEdgeError
from fgr_edge.export.pipeline import ExportConfig, export_checkpoint
from fgr_edge.export.tensor_places import tensor_places

pytestmark = pytest.mark.gpu

PRECISIONS = ("fp16", "int8", "int4")


@contextmanager
def quiet(title: str, total: int) -> Iterator[Any]:
    yield lambda count: None


@pytest.fixture(scope="session")
def original(nano_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/nano in float32, for the CPU."""
    pytest.importorskip("onnx")
    path = tmp_path_factory.mktemp("original") / "bundle"
    return export_checkpoint(
        ExportConfig(nano_checkpoint, path, "cpu", "fp32", proof=False, screened=False, quiet=True)
    )


def exported(checkpoint: Path, original: Path, path: Path, target: str, precision: str) -> Path:
    """A bundle with golden outputs, computed on the CPU."""
    method = "nearest" if precision == "int4" else None
    export_checkpoint(ExportConfig(checkpoint, path, target, precision, method=method, proof=False, quiet=True))
    store_golden(path, make_golden(original, path, tensors=tensor_places(path)))
    return path


@pytest.mark.parametrize("precision", PRECISIONS)
def test_onnxruntime_on_cuda_is_right_in_every_stage(
    nano_checkpoint: Path, original: Path, tmp_path: Path, precision: str
) -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip("onnxruntime has no CUDA provider: onnxruntime-gpu has")
    bundle = exported(nano_checkpoint, original, tmp_path / "bundle", "cuda", precision)
    report = verify(bundle, None, quiet, device="cuda")
    assert report["passed"], (report["first_wrong"], report["likely_cause"])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("product", ["tensorrt-rtx", "tensorrt"])
def test_engines_are_built_here_and_right_in_every_stage(
    nano_checkpoint: Path, original: Path, tmp_path: Path, product: str, precision: str
) -> None:
    from fgr_edge.export.engine_build import BuildConfig, build_engines
    from fgr_edge.export.tensorrt import load_library

    try:
        load_library(cast(Any, product))
    except FgrEdgeError as error:
        pytest.skip(str(error))
    bundle = exported(nano_checkpoint, original, tmp_path / "bundle", product, precision)
    built = build_engines(BuildConfig(bundle, quiet=True))  # refuses engines that are wrong, naming the stage
    assert built.report is not None and built.report["passed"]
    assert verify(bundle, None, quiet)["passed"]
