"""A bundle's graph made ready for one version of TensorRT: the cache gets a length, old versions basic operators.

In: a graph of a bundle, the release, the length of the cache. Out: a graph in the same folder, over the same weights,
and the shapes of its inputs. Weights are not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.errors import BundleError, EngineError, MissingExtraError
from fgr_edge.export.engine_profiles import Dims
from fgr_edge.export.tensorrt_versions import Release
from fgr_edge.runtime.bundle import Bundle

if TYPE_CHECKING:
    import onnx_ir

CACHE_LENGTH = "cache_length"  # the dimension that the exporter leaves open
DIALECTS = ("standard", "basic")


@dataclass(frozen=True, slots=True)
class PreparedGraph:
    """A graph that a parser takes as it is.

    Attributes:
        inputs: name -> sizes; what is still a name is for the profiles to say.
    """

    path: Path
    inputs: dict[str, Dims]


def prepare_graph(bundle: Bundle, graph: str, release: Release, cache_length: int, path: Path) -> PreparedGraph:
    """Write the graph `graph` ("decoder.onnx") of a bundle as `path`, beside its weights.

    Args:
        path: a file in the folder where the graph's external data lies.

    Raises:
        BundleError: the bundle's graphs are not those of a TensorRT target.
        EngineError: the graph cannot be rewritten.
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx_ir as ir
    except ImportError as error:
        raise MissingExtraError(
            f"engines are built from ONNX graphs and onnx_ir is not installed ({error}); pip install 'fgr-edge[export]'"
        ) from error
    found = bundle.manifest["dialect"]
    if found not in DIALECTS:
        raise BundleError(
            f"bundle {bundle.path} has graphs of the {found} dialect; engines are built from those of targets tensorrt "
            "and tensorrt-rtx: export it again with --target"
        )
    model = ir.load(bundle.file(graph))
    if release.dialect == "basic" and found == "standard":
        model = _in_basic_operators(bundle, model)
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None
        value.shape = ir.Shape([cache_length if _name(dim) == CACHE_LENGTH else dim for dim in value.shape])
    ir.save(model, path)
    inputs: dict[str, Dims] = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        inputs[str(value.name)] = [dim if isinstance(dim, int) else str(_name(dim)) for dim in value.shape]
    return PreparedGraph(path, inputs)


def _in_basic_operators(bundle: Bundle, model: onnx_ir.Model) -> onnx_ir.Model:
    from fgr_edge.export.dialects.basic import BasicDialect
    from fgr_edge.export.dialects.lowering import Heads, decoder_heads, lowered

    manifest = bundle.manifest
    heads = Heads(decoder_heads(model, manifest["decoder"]["head_dim"]), manifest["vision"]["head_dim"])
    return lowered(model, BasicDialect(_plan(bundle)), heads)


def _plan(bundle: Bundle) -> Plan:
    """Enough of the plan to tell which types lie between the layers."""
    precision = bundle.manifest["precision"]
    unknown = [name for part in ("vision", "decoder", "head") if (name := precision.get(part)) not in SCHEMES]
    if unknown:
        raise EngineError(
            f"bundle {bundle.path} has precision {unknown[0]!r}, which this fgr-edge does not know; upgrade it, or "
            "export the bundle again"
        )
    return Plan(SCHEMES[precision["vision"]], SCHEMES[precision["decoder"]], SCHEMES[precision["head"]])


def _name(dim: object) -> str | None:
    """Of a dimension that is known at run time only."""
    return getattr(dim, "value", None)
