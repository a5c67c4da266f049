"""Quantization schemes by name, one file each.

int4 has zero points: four bits a block, where the engine takes them (TensorRT does not). On models/nano the
divergence from the original was a third smaller with them, blocks of 128, GPTQ (0.0050 and 0.0074 nats).
"""

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
        BlockWeights("int4-32", 4, 32, asymmetric=True),
        BlockWeights("int4-128", 4, 128, asymmetric=True),
        WeightsAndInputs("w8a8", "int8"),
        WeightsAndInputs("fp8", "fp8"),
    )
}
