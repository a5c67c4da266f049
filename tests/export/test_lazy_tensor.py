"""Tensors that are computed when asked for behave as stored ones; rounding is torch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.export.lazy_tensor import LazyTensor, VirtualTensor, rounded, same_values, to_float32
from tests.export.test_checkpoint import small

torch = pytest.importorskip("torch")


def every_bfloat16_boundary() -> npt.NDArray[np.float32]:
    """Each finite bfloat16, its neighbours, the ties after it, and infinities; [n]."""
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    bits = np.concatenate([high + low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]).astype(np.uint32)
    return bits.view(np.float32)


def doubled(tensor: LazyTensor) -> VirtualTensor:
    return VirtualTensor(tensor.name, tensor.shape, tensor.dtype, lambda start, stop: 2 * tensor.rows(start, stop))


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32", "float64"])
def test_rounding_is_torchs(name: str) -> None:
    values = every_bfloat16_boundary()
    expected = torch.from_numpy(values).to(getattr(torch, name)).float().numpy()
    found = to_float32(rounded(values, name), name)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, expected)  # NaN is equal to NaN here


def test_integers_are_not_rounded_to() -> None:
    with pytest.raises(ValueError, match="rounded to int8"):
        rounded(np.zeros(1, np.float32), "int8")


def test_an_overlay_replaces_and_adds_and_leaves_the_base_as_it_was(tmp_path: Path) -> None:
    base = Checkpoint.open(small(tmp_path))
    weight = base.tensor("w")
    over = base.with_tensors({"w": doubled(weight), "new": doubled(weight)}, "doubled")
    np.testing.assert_array_equal(over.tensor("w", (2, 3)).read(), 2 * weight.read())
    np.testing.assert_array_equal(over.tensor("new").rows(1, 2), 2 * weight.rows(1, 2))
    assert over.tensor("s").read() == 7
    assert list(base.names()) == ["w", "s"]
    assert list(over.names()) == ["w", "s", "new"]
    np.testing.assert_array_equal(base.tensor("w").read(), weight.read())


def test_the_digest_covers_the_notes_in_order_and_the_base(tmp_path: Path) -> None:
    base = Checkpoint.open(small(tmp_path))
    digests = {
        base.digest(),
        base.with_tensors({}, "a").digest(),
        base.with_tensors({}, "b").digest(),
        base.with_tensors({}, "a").with_tensors({}, "b").digest(),
        base.with_tensors({}, "b").with_tensors({}, "a").digest(),
    }
    assert len(digests) == 5
    assert base.with_tensors({}, "a").notes == ("a",)
    assert base.with_tensors({}, "a").digest() == Checkpoint.open(tmp_path).with_tensors({}, "a").digest()


def test_rows_of_a_virtual_tensor_are_rounded_to_its_dtype() -> None:
    values = np.linspace(1, 1.01, 12, dtype=np.float32).reshape(4, 3)
    tensor = VirtualTensor("w", (4, 3), "bfloat16", lambda start, stop: values[start:stop].copy())
    expected = torch.from_numpy(values).bfloat16()
    np.testing.assert_array_equal(tensor.read(), expected.float().numpy())
    np.testing.assert_array_equal(tensor.raw(), expected.view(torch.uint16).numpy())
    np.testing.assert_array_equal(tensor.rows(1, 3), expected[1:3].float().numpy())
    assert tensor.nbytes == 24
    with pytest.raises(IndexError, match=r"rows 3:5 asked of shape \[4, 3\]"):
        tensor.rows(3, 5)


def test_a_computation_of_the_wrong_shape_is_not_passed_on() -> None:
    tensor = VirtualTensor("w", (4, 3), "float32", lambda start, stop: np.zeros((stop - start, 2), np.float32))
    with pytest.raises(ValueError, match="w: computed float32"):
        tensor.rows(0, 2)


def test_stored_and_virtual_tensors_are_compared_by_their_bits(tmp_path: Path) -> None:
    weight = Checkpoint.open(small(tmp_path)).tensor("w")
    same = VirtualTensor("w", (2, 3), "float32", weight.rows)
    assert same_values(weight, same)
    assert not same_values(weight, doubled(weight))
    assert not same_values(weight, VirtualTensor("w", (2, 3), "bfloat16", weight.rows))
