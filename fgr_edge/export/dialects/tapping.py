"""A dialect that lets calibration look in: float32, with the input of every linear layer as a graph output.

Spells all else as ONNX Runtime does. Matrices that multiply one input share its output.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.export.dialects.dialect import Vector
from fgr_edge.export.dialects.onnxruntime import OnnxRuntimeDialect
from fgr_edge.export.graphs.builder import Dim, GraphBuilder
from fgr_edge.export.weights import Matrix


@dataclass(frozen=True, slots=True)
class Tap:
    """An input of linear layers: the graph output that shows it, and the matrices that multiply it."""

    output: str
    matrices: list[Matrix] = field(default_factory=list)


class TappingDialect(OnnxRuntimeDialect):
    """For one graph.

    Attributes:
        taps: the inputs of its linear layers, in their order.
    """

    def __init__(self) -> None:
        super().__init__(Plan.uniform(SCHEMES["fp32"]), tree_attention=False)
        self.taps: list[Tap] = []
        self._tapped: dict[ir.Value, Tap] = {}

    def linear(
        self, g: GraphBuilder, x: ir.Value, weight: Matrix, bias: Vector | None, *, flat: bool = False
    ) -> ir.Value:
        if x not in self._tapped:
            tap = Tap(f"tap.{len(self.taps)}")
            rows = f"{tap.output}.rows"
            shape: list[Dim] = [rows, weight.columns] if flat else [1, rows, weight.columns]
            # Not x itself, which may be an input of the graph.
            g.output(g.op("Identity", x), tap.output, np.float32, shape)
            self.taps.append(tap)
            self._tapped[x] = tap
        self._tapped[x].matrices.append(weight)
        return super().linear(g, x, weight, bias, flat=flat)
