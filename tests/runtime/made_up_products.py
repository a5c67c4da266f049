"""Graphs of one product of rows with weights in blocks, and what it should give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.kernels import library

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

NOT_BUILT = library.instructions() is None
WHY_NOT = "the library of products was not built here, or has no kernels for this processor"


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """y [R, N] = x [R, K] times a weight in blocks, and a bias.

    Attributes:
        levels: [N, blocks, block], unpacked.
        scales: [N, blocks].
        zero_points: [N, blocks]; None is the middle level.
    """

    bits: int
    columns: int
    levels: Bytes
    scales: Floats
    zero_points: Bytes | None
    bias: Floats | None

    @classmethod
    def drawn(
        cls, bits: int, block: int, shape: tuple[int, int], *, zero_points: bool = False, bias: bool = False
    ) -> Product:
        """A weight [N, K] of random levels; those behind the last column are not zero, and must not count."""
        random = np.random.default_rng(bits * block + sum(shape))
        rows, columns = shape
        blocks = -(-columns // block)

        def levels(*shape: int) -> Bytes:
            return random.integers(0, 2**bits, shape, np.uint8)

        return cls(
            bits,
            columns,
            levels(rows, blocks, block),
            random.uniform(-0.02, 0.02, (rows, blocks)).astype(np.float32),
            levels(rows, blocks) if zero_points else None,
            random.standard_normal(rows, np.float32) if bias else None,
        )

    def inputs(self, rows: int) -> Floats:
        """Rows [R, K], none near the middle between two steps: there, engines that divide differently go apart."""
        x = np.random.default_rng(rows).standard_normal((rows, self.columns), np.float32)
        x *= np.exp(np.random.default_rng(7).normal(0, 2, self.columns)).astype(np.float32)  # some inputs are large
        steps = _steps(x, self.levels.shape[2])[0].reshape(rows, -1)[:, : self.columns]
        return np.where(np.abs(steps % 1 - 0.5) < 1e-3, np.float32(0.99) * x, x)

    def expected(self, x: Floats) -> npt.NDArray[np.float64]:
        """y as MatMulNBits defines it at accuracy level 4: inputs rounded to int8 by block, ties to even."""
        steps, scales = _steps(x, self.levels.shape[2])
        middle = 2 ** (self.bits - 1) if self.zero_points is None else self.zero_points[..., None].astype(np.int64)
        dots = np.einsum("rbk,nbk->rnb", np.rint(steps), self.levels.astype(np.int64) - middle)
        y: npt.NDArray[np.float64] = (dots * scales[:, None] * self.scales).sum(axis=2)
        return y if self.bias is None else y + self.bias

    def graph(self, folder: Path, **attributes: int) -> Path:
        """The graph: x [rows, K] -> y [rows, N]."""
        import onnx

        rows, _, block = self.levels.shape
        weights: dict[str, npt.NDArray[Any] | None] = {
            "levels": self._packed(self.levels),
            "scales": self.scales,
            "zero_points": None if self.zero_points is None else self._packed(self.zero_points),
            "bias": self.bias,
        }
        given = {name: "" if array is None else name for name, array in weights.items()}
        names = ["x", given["levels"], given["scales"], given["zero_points"], "", given["bias"]]
        numbers = {"K": self.columns, "N": rows, "bits": self.bits, "block_size": block, "accuracy_level": 4}
        node = onnx.helper.make_node("MatMulNBits", names, ["y"], domain="com.microsoft", **(numbers | attributes))
        info = onnx.helper.make_tensor_value_info
        made = onnx.helper.make_graph(
            [node],
            "product",
            [info("x", onnx.TensorProto.FLOAT, ["rows", self.columns])],
            [info("y", onnx.TensorProto.FLOAT, ["rows", rows])],
            [onnx.numpy_helper.from_array(array, name) for name, array in weights.items() if array is not None],
        )
        opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)]
        path = folder / "product.onnx"
        path.write_bytes(onnx.helper.make_model(made, ir_version=10, opset_imports=opsets).SerializeToString())
        return path

    def _packed(self, levels: Bytes) -> Bytes:
        """With 4 bits two a byte, the first in the lower half; an odd row is filled up."""
        if self.bits == 8:
            return levels
        odd = levels.shape[-1] % 2
        even = np.pad(levels, [(0, 0)] * (levels.ndim - 1) + [(0, odd)])
        return even[..., ::2] | even[..., 1::2] << np.uint8(4)


def _steps(x: Floats, block: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Inputs [R, blocks, block] in steps of their block, not yet rounded, and the steps [R, blocks]."""
    rows, columns = x.shape
    blocks = -(-columns // block)
    padded = np.pad(x, ((0, 0), (0, blocks * block - columns))).reshape(rows, blocks, block)
    scales = np.abs(padded).max(axis=2) / np.float32(127)
    inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales > 0)
    return padded.astype(np.float64) * inverse[..., None], scales.astype(np.float64)
