"""The graphs of targets tensorrt and tensorrt-rtx are ones that NVIDIA's parser reads and its builder compiles.

TensorRT-RTX compiles without a GPU: `pip install tensorrt-rtx` (235 MB); without it these tests are skipped. What the
engines compute is not seen here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.calibrate.schemes.scheme import InputStatistics

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
trt = pytest.importorskip("tensorrt_rtx")

from fgr_edge.export.assembly import BundleOptions, write_bundle  # noqa: E402
from fgr_edge.export.checkpoint import Checkpoint  # noqa: E402
from fgr_edge.export.dialects.basic import BasicDialect  # noqa: E402
from fgr_edge.export.gpus import find_gpu, runnable  # noqa: E402
from fgr_edge.export.model import open_model  # noqa: E402
from fgr_edge.export.targets import TARGETS, Target  # noqa: E402

if TYPE_CHECKING:
    from tests.tiny import TinyModels

CACHE_LENGTH = 256
MOST = {"cache_length": CACHE_LENGTH, "sequence": 64, "rows": 8, "patches": 256, "tokens": 64, "windows": 4}


def graphs(models: TinyModels, shape: str, name: str, target: Target = TARGETS["tensorrt-rtx"]) -> Path:
    """A bundle whose quantized inputs were calibrated by assertion."""
    path = models.folder / f"{shape}-{target.name}-{name}.rtx"
    if not path.is_dir():
        scheme, one = SCHEMES[name], np.ones((1, 1), np.float32)
        plan = Plan(scheme, scheme, scheme, inputs=lambda _: InputStatistics(one[0], 8 * one[0], one))
        checkpoint = Checkpoint.open(models.checkpoint(shape))
        options = BundleOptions("tiny", "", quiet=True)
        write_bundle(open_model(checkpoint), target, plan, path, options)
    return path


def with_cache_length(path: Path) -> Path:
    """TensorRT wants the length of the cache to be a number; the graph leaves it to whoever builds the engine."""
    model = onnx.load(str(path), load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "cache_length":
                dim.dim_value = CACHE_LENGTH
    fixed = path.with_name(f"{path.stem}-{CACHE_LENGTH}.onnx")
    onnx.save(model, str(fixed))
    return fixed


def build(path: Path, sm: int) -> tuple[bytes | None, list[str]]:
    """An engine for a GPU that need not be there, and the parser's complaints."""
    names = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in onnx.load(str(path), load_external_data=False).graph.input
    }
    builder: Any = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.INTERNAL_ERROR))
    if not parser.parse_from_file(str(path)):
        return None, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), 0)
    profile = builder.create_optimization_profile()
    for name, dims in names.items():
        if any(isinstance(dim, str) for dim in dims):
            least, most = (
                [dim if isinstance(dim, int) else size(dim) for dim in dims] for size in (one, MOST.__getitem__)
            )
            profile.set_shape(name, least, most, most)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    return (None if engine is None else bytes(engine)), []


def one(dimension: str) -> int:
    return MOST[dimension] if dimension in ("cache_length", "patches", "tokens", "windows") else 1


@pytest.mark.parametrize("name", [name for name in SCHEMES if name != "fp32"])
@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
def test_the_builder_compiles_every_scheme_of_both_families(tiny_models: TinyModels, shape: str, name: str) -> None:
    folder = graphs(tiny_models, shape, name)
    for path in (folder / "vision.onnx", with_cache_length(folder / "decoder.onnx"), folder / "head.onnx"):
        engine, complaints = build(path, 89)
        assert complaints == [] and engine, path.name


@pytest.mark.parametrize("sm", [75, 80, 86, 89, 120])
def test_what_gpus_refuses_is_what_the_builder_refuses(tiny_models: TinyModels, sm: int) -> None:
    gpu = find_gpu(f"sm{sm}")
    for name in ("fp16", "bf16", "int8", "int4-32", "w8a8", "fp8"):
        engine, complaints = build(with_cache_length(graphs(tiny_models, "qwen2.5", name) / "decoder.onnx"), sm)
        assert complaints == []
        assert (engine is not None) == runnable(gpu, name), name


def test_the_parser_refuses_a_cache_of_unknown_length(tiny_models: TinyModels) -> None:
    engine, complaints = build(graphs(tiny_models, "qwen2.5", "fp16") / "decoder.onnx", 89)
    assert engine is None and "TensorScatter" in " ".join(complaints)


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8-channel", "int4-32", "w8a8"])
@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
def test_basic_operators_compile_whatever_the_length_of_the_cache(
    tiny_models: TinyModels, shape: str, name: str
) -> None:
    folder = graphs(tiny_models, shape, name, Target("basic", BasicDialect, tuple(SCHEMES)))
    for graph in ("vision.onnx", "decoder.onnx"):
        engine, complaints = build(folder / graph, 86)
        assert complaints == [] and engine, graph
