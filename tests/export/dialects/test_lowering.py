"""A standard graph rewritten in basic operators is the graph that the basic dialect would have exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.calibrate.schemes.scheme import InputStatistics
from fgr_edge.errors import EngineError

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

import onnx_ir as ir  # noqa: E402

from fgr_edge.export.assembly import BundleOptions, write_bundle  # noqa: E402
from fgr_edge.export.checkpoint import Checkpoint  # noqa: E402
from fgr_edge.export.dialects.basic import BasicDialect  # noqa: E402
from fgr_edge.export.dialects.lowering import Heads, decoder_heads, lowered  # noqa: E402
from fgr_edge.export.dialects.standard import StandardDialect  # noqa: E402
from fgr_edge.export.model import open_model  # noqa: E402
from fgr_edge.export.targets import Target  # noqa: E402
from fgr_edge.runtime.bundle import Bundle  # noqa: E402

if TYPE_CHECKING:
    from tests.tiny import TinyModels

DIALECTS = {"standard": StandardDialect, "basic": BasicDialect}


def plan_of(name: str) -> Plan:
    scheme, one = SCHEMES[name], np.ones((1, 1), np.float32)
    return Plan(scheme, scheme, scheme, inputs=lambda _: InputStatistics(one[0], 8 * one[0], one))


def written(models: TinyModels, shape: str, name: str, spelling: str) -> Path:
    path = models.folder / f"{shape}-{name}-{spelling}.lowering"
    if not path.is_dir():
        target = Target("tensorrt", DIALECTS[spelling], tuple(SCHEMES))
        model = open_model(Checkpoint.open(models.checkpoint(shape)))
        write_bundle(model, target, plan_of(name), path, BundleOptions("tiny", "", quiet=True))
    return path


def rewritten(folder: Path, graph: str, name: str) -> ir.Model:
    manifest = Bundle.open(folder).manifest
    model = ir.load(folder / graph)
    heads = Heads(decoder_heads(model, manifest["decoder"]["head_dim"]), manifest["vision"]["head_dim"])
    return lowered(model, BasicDialect(plan_of(name)), heads)


@pytest.mark.parametrize("graph", ["vision.onnx", "decoder.onnx"])
@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16", "int8", "int4-32", "w8a8"])
@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
def test_it_is_the_graph_that_the_basic_dialect_exports(
    tiny_models: TinyModels, shape: str, name: str, graph: str
) -> None:
    found = ir.to_proto(rewritten(written(tiny_models, shape, name, "standard"), graph, name))
    expected = onnx.load(str(written(tiny_models, shape, name, "basic") / graph), load_external_data=False)
    assert [node.op_type for node in found.graph.node] == [node.op_type for node in expected.graph.node]
    assert list(found.graph.node) == list(expected.graph.node)
    assert list(found.graph.input) == list(expected.graph.input)
    assert list(found.graph.output) == list(expected.graph.output)
    assert [(i.domain, i.version) for i in found.opset_import] == [("", 21)]
    used = {name for node in expected.graph.node for name in node.input}
    tensors = {t.name: t for t in found.graph.initializer}
    for tensor in expected.graph.initializer:
        if tensor.name in used:
            same = tensors[tensor.name]
            assert (same.dims, same.data_type, same.external_data, same.raw_data) == (
                tensor.dims,
                tensor.data_type,
                tensor.external_data,
                tensor.raw_data,
            ), tensor.name


def test_a_decoder_that_does_not_tell_its_heads_is_refused(tiny_models: TinyModels) -> None:
    model = ir.load(written(tiny_models, "qwen2.5", "fp32", "standard") / "decoder.onnx")
    del model.graph.initializers["qkv_widths"]
    with pytest.raises(EngineError, match="export the bundle again"):
        decoder_heads(model, 16)
