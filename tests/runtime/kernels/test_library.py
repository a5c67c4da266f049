"""Our products are MatMulNBits at accuracy level 4, and a row of them does not depend on the rows beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fgr_edge.runtime.kernels import library
from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from tests.runtime.made_up_products import NOT_BUILT, WHY_NOT, Floats, Product

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

built = pytest.mark.skipif(NOT_BUILT, reason=WHY_NOT)

MOST_ROWS = 20
SHAPES = ((64, 256), (67, 200), (1, 128), (331, 96), (130, 1000))  # N, K: odd, and no multiples of the block, too


def session(product: Product, folder: Path, threads: int = 2) -> OnnxRuntimeSession:
    found = OnnxRuntimeSession(product.graph(folder), threads=threads)
    assert found.products == f"fgr-edge {library.instructions()}"
    return found


def product_of(session: OnnxRuntimeSession, x: Floats) -> Floats:
    y: Floats = session.run({"x": x})["y"]
    return y


@built
@pytest.mark.parametrize("zero_points", [False, True], ids=["symmetric", "zero points"])
@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_products_are_those_of_rounded_inputs_with_levels(
    bits: int, block: int, zero_points: bool, tmp_path: Path
) -> None:
    for shape in SHAPES:
        product = Product.drawn(bits, block, shape, zero_points=zero_points, bias=shape[0] % 2 == 1)
        opened = session(product, tmp_path)
        for rows in range(1, MOST_ROWS + 1):
            x = product.inputs(rows)
            expected = product.expected(x)
            np.testing.assert_allclose(
                product_of(opened, x), expected, rtol=0, atol=2e-6 * np.abs(expected).max(), err_msg=f"{shape}, {rows}"
            )


@built
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_is_the_same_to_the_last_bit_whatever_is_computed_with_it(
    bits: int, threads: int, tmp_path: Path
) -> None:
    product = Product.drawn(bits, 64, (1030, 700), zero_points=bits == 4, bias=True)
    opened = session(product, tmp_path, threads)
    x = product.inputs(300)  # more than are rounded at a time
    together = product_of(opened, x)
    for rows in range(1, MOST_ROWS + 1):
        for start in (0, 3, 300 - rows):
            part = product_of(opened, x[start : start + rows])
            assert np.array_equal(part, together[start : start + rows]), f"{rows} rows from {start}"


@built
def test_ties_are_rounded_to_even(tmp_path: Path) -> None:
    product = Product.drawn(8, 32, (16, 32))
    x = np.zeros((1, 32), np.float32)
    x[0, :6] = 127, 0.5, 1.5, 2.5, -0.5, -1.5  # a step of 1
    even = np.zeros_like(x)
    even[0, :6] = 127, 0, 2, 2, 0, -2
    opened = session(product, tmp_path)
    assert np.array_equal(product_of(opened, x), product_of(opened, even))


@built
def test_inputs_of_any_size_are_multiplied(tmp_path: Path) -> None:
    product = Product.drawn(8, 64, (33, 192))
    opened = session(product, tmp_path)
    assert np.array_equal(product_of(opened, np.zeros((3, 192), np.float32)), np.zeros((3, 33)))
    assert product_of(opened, np.zeros((0, 192), np.float32)).shape == (0, 33)
    x = product.inputs(2)
    for factor in (1e-30, 1e30):
        scaled = x * np.float32(factor)
        expected = product.expected(scaled)
        np.testing.assert_allclose(product_of(opened, scaled), expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    tiny = np.full((1, 192), np.float32(1e-44))  # less than a step can be
    assert np.abs(product_of(opened, tiny)).max() < 1e-38


@built
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_makes_its_row_none_and_no_other(bits: int, bad: float, tmp_path: Path) -> None:
    product = Product.drawn(bits, 64, (70, 200))
    opened = session(product, tmp_path)
    x = product.inputs(5)
    sound = product_of(opened, x)
    for column in (0, 77, 199):
        spoilt = x.copy()
        spoilt[2, column] = bad
        found = product_of(opened, spoilt)
        assert not np.isfinite(found[2]).any()
        assert np.array_equal(np.delete(found, 2, 0), np.delete(sound, 2, 0))


@built
def test_sums_of_exponentials_are_those_of_doubles() -> None:
    random = np.random.default_rng(0)
    for count in (1, 5, 64, 1000, 70_001):
        rows = random.normal(0, 9, (3, count)).astype(np.float32)
        largest = rows.max(axis=1).astype(np.float64)
        expected = largest + np.log(np.exp(rows - largest[:, None]).sum(axis=1))
        found = library.log_sums(rows)
        assert found is not None
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
        for other in (np.asfortranarray(rows), rows.astype(np.float64)):
            again = library.log_sums(other)  # type: ignore[arg-type]
            assert again is not None and np.array_equal(again, found)


@built
def test_the_library_names_instructions_that_this_processor_has() -> None:
    flags = Path("/proc/cpuinfo")
    name = library.instructions()
    if name != "avx512vnni" or not flags.exists():
        pytest.skip(f"{name} is not looked up here")
    assert "avx512_vnni" in flags.read_text()


def test_a_library_that_was_not_built_multiplies_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "libkernels.so")
    assert library.instructions() is None
    assert library.log_sums(np.zeros((1, 3), np.float32)) is None


def test_a_file_that_is_no_library_is_left_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "libkernels.so"
    path.write_bytes(b"\x7fELF, cut short")
    monkeypatch.setattr(library, "LIBRARY", path)
    with caplog.at_level("INFO", logger="fgr_edge"):
        assert library.instructions() is None
    assert "cannot be used" in caplog.text


def test_graphs_are_told_apart_by_what_they_multiply(tmp_path: Path) -> None:
    assert library.multiplies(Product.drawn(8, 64, (4, 64)).graph(tmp_path))
    other = tmp_path / "other.onnx"
    assert not library.multiplies(other)
    other.write_bytes(b"")
    assert not library.multiplies(other)
    other.write_bytes(b"MatMul")
    assert not library.multiplies(other)
