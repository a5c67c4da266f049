"""A small ONNX graph under construction: named inputs, nodes, small constants, and weights streamed to disk.

Knows ONNX, nothing of models. Weights go straight from a chunk iterator into the graph's external-data file, so the
memory in use is one chunk, whatever the size of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fgr_edge import __version__
from fgr_edge.export.weight_file import WeightFile

Dim = int | str
IR_VERSION = 11  # ONNX 1.18; the newest that ONNX Runtime 1.22 and TensorRT 10.13 both read

_DTYPES = {
    np.dtype(np.float32): ir.DataType.FLOAT,
    np.dtype(np.float16): ir.DataType.FLOAT16,
    np.dtype(ml_dtypes.bfloat16): ir.DataType.BFLOAT16,
    np.dtype(np.bool_): ir.DataType.BOOL,
    np.dtype(np.uint8): ir.DataType.UINT8,
    np.dtype(np.int8): ir.DataType.INT8,
    np.dtype(np.int32): ir.DataType.INT32,
    np.dtype(np.int64): ir.DataType.INT64,
}


class GraphBuilder:
    """Collects nodes for one graph and writes `<name>.onnx` beside its `<name>.onnx.data`.

    Args:
        folder: where both files go; None builds without reading or writing a weight, which still checks that every
            tensor is there and has its shape.
        name: file stem and graph name.
        opset_imports: domain -> version.
    """

    def __init__(self, folder: Path | None, name: str, opset_imports: Mapping[str, int]) -> None:
        self.folder = folder
        self.name = name
        self._opsets = dict(opset_imports)
        self._weights = None if folder is None else WeightFile(folder / f"{name}.onnx.data")
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._nodes: list[ir.Node] = []
        self._initializers: dict[str, ir.Value] = {}
        self._counts: dict[str, int] = {}
        self._shared: dict[str, ir.Value] = {}

    def input(self, name: str, dtype: npt.DTypeLike, shape: Sequence[Dim]) -> ir.Value:
        """Declare a graph input; a string in `shape` is a dimension known only at run time."""
        value = ir.val(name, dtype=_DTYPES[np.dtype(dtype)], shape=list(shape))
        self._inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: npt.DTypeLike, shape: Sequence[Dim]) -> None:
        """Make `value` a graph output called `name`."""
        value.name = name
        value.dtype = _DTYPES[np.dtype(dtype)]
        value.shape = ir.Shape(list(shape))
        self._outputs.append(value)

    def op(
        self, op_type: str, *inputs: ir.Value | None, domain: str = "", outputs: int = 1, **attributes: Any
    ) -> ir.Value:
        """Add a node and return its first output; `node.outputs` of `value.producer()` has the others."""
        count = self._counts[op_type] = self._counts.get(op_type, 0) + 1
        name = f"{op_type}_{count}"
        node = ir.node(op_type, list(inputs), attributes, domain=domain, num_outputs=outputs, name=name)
        for position, value in enumerate(node.outputs):
            value.name = name if position == 0 else f"{name}:{position}"
        self._nodes.append(node)
        return node.outputs[0]

    def ops(
        self, op_type: str, *inputs: ir.Value | None, domain: str = "", outputs: int, **attributes: Any
    ) -> Sequence[ir.Value]:
        """Add a node with several outputs and return them all."""
        first = self.op(op_type, *inputs, domain=domain, outputs=outputs, **attributes)
        node = first.producer()
        assert node is not None
        return node.outputs

    def constant(self, array: npt.NDArray[Any], name: str) -> ir.Value:
        """A small constant kept inside the .onnx file; the same name gives the same value again."""
        if name not in self._initializers:
            tensor = ir.tensor(array, name=name)
            self._initializers[name] = ir.val(name, const_value=tensor, dtype=tensor.dtype, shape=list(array.shape))
        return self._initializers[name]

    def shared(self, name: str, make: Callable[[], ir.Value]) -> ir.Value:
        """The value that `make` adds to the graph when `name` is first asked for, and the same again later."""
        if name not in self._shared:
            self._shared[name] = make()
        return self._shared[name]

    def weight(
        self,
        name: str,
        shape: Sequence[int],
        dtype: npt.DTypeLike | ir.DataType,
        chunks: Iterable[npt.NDArray[Any]],
    ) -> ir.Value:
        """Stream a weight to the external-data file; `chunks` concatenate to `shape` in C order.

        Chunks of a type that numpy lacks (INT4, FLOAT8E4M3FN) are its bytes.
        """
        kind = dtype if isinstance(dtype, ir.DataType) else _DTYPES[np.dtype(dtype)]
        if self._weights is None or self.folder is None:
            return ir.val(name, dtype=kind, shape=list(shape))
        offset, length = self._weights.append(chunks)
        expected = int(np.prod(shape, dtype=np.int64) * kind.itemsize)
        assert length == expected, f"{name}: wrote {length} bytes, expected {expected}"
        tensor = ir.ExternalTensor(
            self._weights.path.name,
            offset,
            length,
            kind,
            shape=ir.Shape(list(shape)),
            name=name,
            base_dir=self.folder,
        )
        value = ir.val(name, const_value=tensor, dtype=kind, shape=list(shape))
        self._initializers[name] = value
        return value

    def keep(self, value: ir.Value) -> ir.Value:
        """Take over an initializer of another graph, wherever its numbers lie."""
        self._initializers[str(value.name)] = value
        return value

    def model(self) -> ir.Model:
        """The graph as it stands."""
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._nodes,
            initializers=list(self._initializers.values()),
            opset_imports=self._opsets,
            name=self.name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="fgr-edge", producer_version=__version__)

    def save(self) -> None:
        """Write the graph beside its weights."""
        if self._weights is None or self.folder is None:
            return
        self._weights.close()
        ir.save(self.model(), self.folder / f"{self.name}.onnx")
