"""The `cuda` target on the GPU against the same bundle on the CPU; needs onnxruntime-gpu and an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fgr_edge.export.pipeline import ExportConfig, export_checkpoint

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="session")
def cuda() -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip("onnxruntime has no CUDA provider: pip install 'fgr-edge[cuda]' in an environment of its own")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_cuda_bundle_answers_like_the_cpu(
    cuda: None,
    nano_checkpoint: Path,
    nano_labels: Path,
    birds: Callable[[int], list[Path]],
    tmp_path: Path,
    precision: str,
) -> None:
    from fgr_edge import Recognizer

    bundle = export_checkpoint(
        ExportConfig(
            nano_checkpoint, tmp_path / "bundle", "cuda", precision, labels=nano_labels, proof=False, quiet=True
        )
    )
    on_gpu, on_cpu = Recognizer(bundle, device="cuda"), Recognizer(bundle, device="cpu")
    for picture in birds(8):
        gpu, cpu = on_gpu(picture), on_cpu(picture)
        assert gpu.label == cpu.label
        assert gpu.probability is not None and cpu.probability is not None
        assert np.isclose(gpu.probability, cpu.probability, atol=0.05)


def test_cuda_streams_the_reasoning_of_the_cpu(
    cuda: None, nano_checkpoint: Path, birds: Callable[[int], list[Path]], tmp_path: Path
) -> None:
    from fgr_edge import Recognizer

    bundle = export_checkpoint(
        ExportConfig(nano_checkpoint, tmp_path / "bundle", "cuda", "fp32", proof=False, quiet=True)
    )
    picture = birds(1)[0]
    on_gpu = Recognizer(bundle, device="cuda")(picture, mode="reason")
    assert on_gpu.label == Recognizer(bundle, device="cpu")(picture, mode="reason").label


def test_cuda_scores_every_label_like_the_cpu(
    cuda: None, nano_checkpoint: Path, nano_labels: Path, birds: Callable[[int], list[Path]], tmp_path: Path
) -> None:
    from fgr_edge import Recognizer

    bundle = export_checkpoint(
        ExportConfig(nano_checkpoint, tmp_path / "bundle", "cuda", "fp32", labels=nano_labels, proof=False, quiet=True)
    )
    on_gpu, on_cpu = Recognizer(bundle, device="cuda"), Recognizer(bundle, device="cpu")
    for picture in birds(2):
        gpu, cpu = on_gpu.evidence(picture).log_probs, on_cpu.evidence(picture).log_probs
        assert np.abs(gpu - cpu).max() / np.abs(cpu).max() < 0.05  # a float16 cache, added up in another order
