"""What is probably wrong where a stage is the first that differs: every stage before it is right, which leaves little.

In: the first wrong stage, and its first check that fails. Out: a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping

from fgr_edge.calibrate.golden_bounds import Against

_STAGES: Mapping[str, str] = {
    "files": "the copy is damaged or incomplete: copy the bundle again from where it came from, or export it again",
    "weights": "stored tensors were changed after export and the checksums with them: export the bundle again, and do "
    "not trust where this copy came from",
    "engine": "this engine cannot load the graphs: update it, or export for the target that this machine has",
    "preprocessing": "the manifest's image numbers (size, mean, std) were changed, or this Pillow resizes otherwise",
    "vision tables": "the host cuts or places patches otherwise: window order, or the manifest's vision part "
    "(window_patches, rope_theta, merge_size)",
    "vision": "pixels and tables are right, image embeddings are not: weights or attention layout of vision.onnx "
    "(q/k/v order?), or a kernel of this engine",
    "prompt": "tokenizer.json or the manifest's prompt was changed, or this version of tokenizers reads it otherwise",
    "rotary": "positions or rotary rows of the decoder are wrong: rope base or mrope sections in the manifest "
    "(decoder.rope_theta, decoder.mrope_section)",
    "prefill": "the decoder differs after the prompt already; embeddings, prompt and rotary rows are right: weights or "
    "attention layout of decoder.onnx (q/k/v order?), or a kernel of this engine",
    "decode": "prefill is right and single tokens after it are not: cache rows that are stale or not written where the "
    "next token reads them, or the number of valid rows",
    "labels": "text is decoded right and label scores are not: the mask or the rotary rows of tree attention, or the "
    "token ids of the names",
    "generation": "logits along a given text are right and chosen tokens are not: rows of the cache are lost or stale "
    "when decoding goes on for longer",
    "next picture": "the first picture is right and the one after it is not: KV from the previous picture is still "
    "read, the cache does not start anew",
}
_CHECKS: Mapping[tuple[str, str], str] = {
    ("rotary", "positions"): "positions of the picture's or the text's tokens are wrong: mrope of the host "
    "(merge_size, place of the picture in the prompt)",
    ("decode", "repeated"): "the same text decoded again in the same slots differs: stale cache rows of what was "
    "there before are read (rewind, number of valid rows)",
    (
        "decode",
        "at_once",
    ): "tokens one by one differ from the same tokens in one call: cache rows that are stale or not "
    "written where the next token reads them",
    ("labels", "after"): "text after scoring labels differs: their branches stay in the cache and are read as text",
    ("next picture", "again"): "the first picture, read again after another one, differs: KV from the previous picture "
    "is still read, the cache does not start anew",
}
_ORIGINAL = (
    "this machine does what the exporting one did, but it is not what the original does: {part} is quantized too "
    "coarsely for this model, or was exported wrongly; export with --precision fp32 to tell which"
)


def likely_cause(stage: str, check: str | None, against: Against | None) -> str:
    """The sentence; check: name of the output that fails, None where the stage failed as a whole."""
    if against == "original" and stage not in ("preprocessing", "vision tables", "prompt", "rotary"):
        return _ORIGINAL.format(part="vision.onnx" if stage == "vision" else "decoder.onnx")
    parts = [] if check is None else check.split(".")
    return next((_CHECKS[stage, part] for part in parts if (stage, part) in _CHECKS), _STAGES[stage])
