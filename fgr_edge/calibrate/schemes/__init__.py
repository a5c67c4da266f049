"""Quantization schemes by name, one file each."""

from __future__ import annotations

from fgr_edge.calibrate.schemes.scheme import BlockWeights, Plain, Scheme, WeightsAndInputs

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Plain("fp32", "float32"),
        Plain("fp16", "float16"),
        Plain("bf16", "bfloat16"),
        BlockWeights("int8", 8, 128),
        BlockWeights("int8-channel", 8, None),
        BlockWeights("int4-32", 4, 32),
        BlockWeights("int4-128", 4, 128),
        WeightsAndInputs("w8a8", "int8"),
        WeightsAndInputs("fp8", "fp8"),
    )
}
