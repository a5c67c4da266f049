"""What TensorRT complains about becomes one message: which node, what was said, what to do."""

from __future__ import annotations

import pytest

from fgr_edge.export.engine_complaints import Complaint, build_failed, parse_failed

# As TensorRT-RTX 1.7.1 says it of graphs that were broken on purpose, or as NVIDIA documents it.
SAID = {
    "No importer registered for op: FancyAttention. Attempting to import as plugin.": "upgrade the library",
    "Assertion failed: cacheDims of TensorScatter must be static": "--cache-length",
    "Fp8 is not supported on this device": "--precision w8a8",
    "INT4 is not supported": "--precision int8",
    "BF16 precision needs SM80": "--precision fp16",
    "Failed to import initializer: lm_head.": "fgr-edge verify",
    "Failed to parse the ONNX model.": "the graph is damaged",
    "Myelin MyelinCheckException: CHECK(status == CUDA_SUCCESS) failed.": "nvidia-smi",
    "Cuda Runtime (out of memory)": "memory ran out",
    "Could not find any implementation for node MatMul_12 due to insufficient workspace": "--workspace-mb",
    "CUDA initialization failure with error: 35": "nvidia-smi",
    "Internal error: 42": "please report it",
}


@pytest.mark.parametrize("said", SAID)
def test_what_is_said_decides_what_to_do(said: str) -> None:
    for message in (
        build_failed("decoder.onnx", "tensorrt 10.3.0", [said]),
        parse_failed("decoder.onnx", "tensorrt 10.3.0", [Complaint("MatMul_7", "MatMul", said)], []),
    ):
        assert SAID[said] in message and said.rstrip(". ") in message and message.startswith("tensorrt 10.3.0")


def test_the_node_and_its_operator_are_named_and_what_follows_is_counted() -> None:
    complaints = [Complaint(f"Attention_{n}", "Attention", "No importer registered") for n in range(36)]
    message = parse_failed("decoder.onnx", "tensorrt 10.3.0", complaints, [])
    assert "node Attention_0 (Attention): No importer registered; node Attention_1" in message
    assert "(and 33 more)" in message and "Attention_3" not in message


def test_noise_of_a_machine_without_a_gpu_is_left_out() -> None:
    noise = "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (driver version is insufficient)"
    message = build_failed("head.onnx", "tensorrt-rtx 1.7.1", [f"The tensor\n{noise}", noise])
    assert "head.onnx and cannot build an engine of it: The tensor. To do: " in message and "nvidia-smi" not in message


def test_a_library_that_gives_no_reason_is_told_so() -> None:
    assert "it gives no reason. To do:" in build_failed("head.onnx", "tensorrt-rtx 1.7.1", [])
    assert "cannot read head.onnx: it gives no reason" in parse_failed("head.onnx", "tensorrt-rtx 1.7.1", [], [])
