"""The output head as graphs of its own, for bundles whose decoder graph ends at the hidden rows.

head.onnx, the exact one:
    hidden         [1, R, H] float32  what the decoder graph gives
    -> logits      [1, R, V] float32
screen.onnx, a coarse copy of it:
    halves         [1, 2, H] float32  two rows that add up to one hidden row (see `runtime/screen_bounds.py`)
    -> coarse_logits [1, 2, V] float32
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fgr_edge.export.dialects.dialect import Dialect
from fgr_edge.export.graphs.builder import GraphBuilder
from fgr_edge.export.progress import Step
from fgr_edge.export.weights import Matrix


def build_head(folder: Path | None, head: Matrix, dialect: Dialect, step: Step) -> None:
    """Write head.onnx and head.onnx.data, which holds the weight [V, H] and nothing else."""
    g = GraphBuilder(folder, "head", dialect.opset_imports)
    hidden = g.input("hidden", np.float32, [1, "rows", head.columns])
    logits = dialect.float32(g, dialect.linear(g, dialect.working(g, hidden), head, None))
    g.output(logits, "logits", np.float32, [1, "rows", head.rows])
    g.save()
    step(head.rows * head.columns)


def build_screen(folder: Path | None, head: Matrix, dialect: Dialect, step: Step) -> None:
    """Write screen.onnx and screen.onnx.data; `dialect` has the screen's plan."""
    g = GraphBuilder(folder, "screen", dialect.opset_imports)
    halves = g.input("halves", np.float32, [1, 2, head.columns])
    logits = dialect.float32(g, dialect.linear(g, dialect.working(g, halves), head, None))
    g.output(logits, "coarse_logits", np.float32, [1, 2, head.rows])
    g.save()
    step(head.rows * head.columns)
