"""What ONNX Runtime prints while it looks for CUDA does not get into results."""

from __future__ import annotations

import pytest

from fgr_edge.runtime.sessions.onnxruntime import _load_cuda_libraries


class _OnnxRuntime:
    def __init__(self) -> None:
        self.directories: list[str] = []

    def preload_dlls(self, *, directory: str) -> None:
        self.directories.append(directory)
        print("Failed to load libcudart.so.12")


def test_cuda_libraries_of_packages_are_loaded_and_stdout_stays_clean(capsys: pytest.CaptureFixture[str]) -> None:
    ort = _OnnxRuntime()
    _load_cuda_libraries(ort)
    said = capsys.readouterr()
    assert ort.directories == [""]  # nvidia's packages before the system's
    assert said.out == "" and "libcudart" in said.err


def test_versions_without_it_are_left_alone() -> None:
    _load_cuda_libraries(object())
