"""Targets `tensorrt` and `tensorrt-rtx` on the GPU: engines built here against the same graphs on the CPU.

Needs an NVIDIA GPU, cuda-python and one of the libraries; each that is not there is skipped. Until they have run on a
GPU these tests are themselves untested: what the session does is tested on a fake in `tests/runtime/sessions`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fgr_edge.errors import EngineError
from fgr_edge.runtime.engine_record import Product

pytestmark = pytest.mark.gpu

PRODUCTS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
# Of log-probabilities, relative to the largest: products may be TF32, sums are added in another order.
TOLERANCE = {"fp32": 0.02, "fp16": 0.05, "int8": 0.05}


@pytest.fixture(scope="session", params=PRODUCTS)
def product(request: pytest.FixtureRequest) -> str:
    """A product whose library is installed, on a machine with a GPU."""
    pytest.importorskip("cuda.bindings.runtime", reason="pip install 'fgr-edge[tensorrt]' or [tensorrt-rtx]")
    pytest.importorskip(PRODUCTS[request.param])
    from fgr_edge.runtime.sessions.tensorrt_library import Library

    try:
        Library(cast(Product, request.param))
    except EngineError as error:
        pytest.skip(str(error))
    return str(request.param)


@pytest.fixture(scope="session")
def built(
    product: str, nano_checkpoint: Path, nano_labels: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """`built("fp16")`: models/nano with the engines of this GPU, which `build` has verified."""
    from fgr_edge.export.engine_build import BuildConfig, build_engines
    from fgr_edge.export.pipeline import ExportConfig, export_checkpoint

    made: dict[str, Path] = {}

    def build(precision: str) -> Path:
        if precision not in made:
            folder = tmp_path_factory.mktemp(f"{product}-{precision}") / "bundle"
            export_checkpoint(ExportConfig(nano_checkpoint, folder, product, precision, labels=nano_labels, quiet=True))
            build_engines(BuildConfig(folder, quiet=True))
            made[precision] = folder
        return made[precision]

    return build


@pytest.mark.parametrize("precision", TOLERANCE)
def test_engines_answer_like_their_graphs_on_the_cpu(
    built: Callable[[str], Path], birds: Callable[[int], list[Path]], precision: str
) -> None:
    from fgr_edge import Recognizer

    bundle = built(precision)
    on_gpu, on_cpu = Recognizer(bundle), Recognizer(bundle, device="cpu")
    agreed = 0
    for picture in birds(8):
        gpu, cpu = on_gpu.evidence(picture).log_probs, on_cpu.evidence(picture).log_probs
        assert np.abs(gpu - cpu).max() / np.abs(cpu).max() < TOLERANCE[precision]
        agreed += on_gpu(picture).label == on_cpu(picture).label
    assert agreed >= 7


def test_reasoning_is_what_the_graphs_on_the_cpu_say(
    built: Callable[[str], Path], birds: Callable[[int], list[Path]]
) -> None:
    from fgr_edge import Recognizer

    bundle, picture = built("fp32"), birds(1)[0]
    found = Recognizer(bundle)(picture, mode="reason")
    expected = Recognizer(bundle, device="cpu")(picture, mode="reason")
    assert found.label == expected.label
    assert found.text.split()[:8] == expected.text.split()[:8]


def test_decode_runs_as_one_captured_graph(built: Callable[[str], Path], birds: Callable[[int], list[Path]]) -> None:
    from fgr_edge import Recognizer

    recognizer = Recognizer(built("fp16"))
    recognizer(birds(1)[0], mode="reason", think_budget=16)
    call: Any = recognizer.model.decoder._calls[1, 1, 1]
    assert call.run._graph is not None


def test_a_picture_of_another_size_leaves_captured_graphs_right(
    built: Callable[[str], Path], birds: Callable[[int], list[Path]]
) -> None:
    from PIL import Image

    from fgr_edge import Recognizer

    recognizer = Recognizer(built("fp16"))
    picture = birds(1)[0]
    first = recognizer(picture, mode="reason", think_budget=24)
    with Image.open(picture) as image:
        recognizer(image.convert("RGB").resize((320, 192)), mode="reason", think_budget=24)
    again = recognizer(picture, mode="reason", think_budget=24)
    assert again.text == first.text
    assert again.probability == pytest.approx(first.probability, abs=1e-3)
