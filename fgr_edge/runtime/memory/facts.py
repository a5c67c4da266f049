"""What the memory plan knows of a bundle, without opening a graph: widths, sizes of files, precision, lengths.

In: a manifest, the largest picture and the longest sequence that are wanted. Out: `MemoryFacts`, plain numbers, which
`changed` turns into those of the same model exported otherwise. Knows no device and no engine's habits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from fgr_edge.errors import BundleError, ConfigError
from fgr_edge.runtime.decoder import CHUNK_TOKENS
from fgr_edge.runtime.label_trie.best_first import BEST_FIRST_NODES
from fgr_edge.runtime.manifest import Manifest

Target = Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx"]
Part = Literal["vision", "decoder", "head"]

THOUGHT_TOKENS = 1024  # the longest answer that the recognizer leaves room for
TEXT_TOKENS = 64  # of a prompt around its picture: the chat template and the usual questions take 39
CACHE_STEP = 256  # the cache grows in steps of so many slots
ENGINE_CHUNK_TOKENS = 512  # of engines' profiles

# Stored bytes of a weight with its scales and zero points.
BYTES_PER_WEIGHT = {
    "fp32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "int8": 1 + 4 / 128,
    "int8-channel": 1 + 4 / 128,
    "int4-32": 0.5 + 4.5 / 32,
    "int4-128": 0.5 + 4.5 / 128,
    "w8a8": 1.0,
    "fp8": 1.0,
}
INT4 = {"vision": "int8", "decoder": "int4-128", "head": "int4-128"}  # what `--precision int4` stands for


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """A model in a bundle, and how it is to be used.

    Attributes:
        precision: scheme of each part by name.
        vision_bytes, decoder_bytes, head_bytes, screen_bytes: of weights; the head is the decoder's where it is inside.
        patch_inputs: numbers in a patch, as the vision graph takes it.
        head_inside: whether the head is part of the decoder's graph.
        tokenizer_bytes: of tokenizer.json.
        cache_bytes, working_bytes: of one number in the KV cache, and of one between layers.
        decomposed: whether attention holds its scores in memory (dialect basic).
        pixels: of the largest picture after resizing.
        tokens: longest sequence, picture and answer together.
        branches: cache slots for nodes of the labels' trie, beyond `tokens`.
        one_profile: whether engines are built with one profile for prompts and single tokens.
    """

    target: Target
    precision: dict[str, str]
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    vision_depth: int
    vision_hidden: int
    vision_heads: int
    vision_intermediate: int
    windowed: bool
    patch_px: int
    patch_inputs: int
    merge: int
    vision_bytes: int
    decoder_bytes: int
    head_bytes: int
    screen_bytes: int
    head_inside: bool
    tokenizer_bytes: int
    cache_bytes: int
    working_bytes: int
    decomposed: bool
    pixels: int
    tokens: int
    branches: int = BEST_FIRST_NODES
    one_profile: bool = False

    @property
    def patches(self) -> int:
        """Of the largest picture."""
        return self.pixels // self.patch_px**2

    @property
    def image_tokens(self) -> int:
        """That the decoder gets for the largest picture."""
        return self.patches // self.merge**2

    @property
    def prompt_tokens(self) -> int:
        """Picture and text."""
        return self.image_tokens + TEXT_TOKENS

    @property
    def prefill_tokens(self) -> int:
        """Of a prompt, that go through the decoder at once."""
        chunk = CHUNK_TOKENS if self.target in ("cpu", "cuda") else ENGINE_CHUNK_TOKENS
        return min(chunk, self.prompt_tokens, self.tokens)

    @property
    def cache_slots(self) -> int:
        """Of the KV cache."""
        return -(-(self.tokens + self.branches) // CACHE_STEP) * CACHE_STEP

    @property
    def weight_bytes(self) -> int:
        """Of all parts."""
        return self.vision_bytes + self.decoder_bytes + self.head_bytes + self.screen_bytes

    @property
    def head_weights(self) -> int:
        """Numbers in the output projection."""
        return self.vocab * self.hidden

    @property
    def head_graph_bytes(self) -> int:
        """Weights of the head, wherever it is."""
        inside = round(self.head_weights * BYTES_PER_WEIGHT[self.precision["head"]])
        return min(inside, self.decoder_bytes) if self.head_inside else self.head_bytes

    def part_bytes(self, part: Part) -> int:
        """Stored weights of a part's graph; 0 for a head inside the decoder's."""
        return {"vision": self.vision_bytes, "decoder": self.decoder_bytes, "head": self.head_bytes}[part]

    def weights(self, part: Part) -> int:
        """Numbers in a part's matrices; norms and biases are too small to count."""
        if part == "head":
            return self.head_weights
        if part == "decoder":
            attention = 2 * (self.heads + self.kv_heads) * self.head_dim * self.hidden
            return self.layers * (attention + 3 * self.hidden * self.intermediate)
        merged = self.vision_hidden * self.merge**2
        # Windowed towers are those with SwiGLU (three matrices); the others have two.
        mlp = (3 if self.windowed else 2) * self.vision_hidden * self.vision_intermediate
        return self.vision_depth * (4 * self.vision_hidden**2 + mlp) + merged * (merged + self.hidden)

    def changed(
        self, *, precision: dict[str, str] | None = None, pixels: int | None = None, tokens: int | None = None
    ) -> MemoryFacts:
        """The same model exported otherwise; a smaller picture takes its tokens off the sequence, too."""
        facts = self
        if precision is not None:
            facts = _reexported(facts, precision)
        if pixels is not None:
            saved = facts.image_tokens - replace(facts, pixels=pixels).image_tokens
            facts = replace(facts, pixels=pixels, tokens=facts.tokens - saved)
        return facts if tokens is None else replace(facts, tokens=tokens)

    def with_head_apart(self) -> MemoryFacts:
        """The same model with its head as a graph of its own."""
        head = self.head_graph_bytes
        return replace(self, decoder_bytes=self.decoder_bytes - head, head_bytes=head, head_inside=False)


def read_facts(manifest: Manifest, *, pixels: int | None = None, tokens: int | None = None) -> MemoryFacts:
    """The facts of a bundle.

    Args:
        pixels: of the largest picture; None takes the bundle's limit. More than that is resized to it.
        tokens: longest sequence; None leaves room for the largest picture and the longest thought.

    Raises:
        BundleError: the bundle was exported before widths were written into manifests.
        ConfigError: the sequence has no room for the picture, or the model none for the sequence.
    """
    if "widths" not in manifest:
        raise BundleError(
            "manifest.json has no 'widths', which the memory plan needs: the bundle is of an older fgr-edge; export it "
            "again"
        )
    widths, decoder, image = manifest["widths"], manifest["decoder"], manifest["image"]
    files = {name: entry["size"] for name, entry in manifest["files"].items()}
    head_bytes, screen_bytes = (files.get(f"{name}.onnx.data", 0) for name in ("head", "screen"))
    target = cast(Target, manifest["target"])
    facts = MemoryFacts(
        target=target,
        precision={part: manifest["precision"][part] for part in ("vision", "decoder", "head")},
        layers=decoder["layers"],
        hidden=decoder["hidden"],
        heads=widths["heads"],
        kv_heads=decoder["kv_heads"],
        head_dim=decoder["head_dim"],
        intermediate=widths["intermediate"],
        vocab=decoder["vocab"],
        vision_depth=widths["vision_depth"],
        vision_hidden=widths["vision_hidden"],
        vision_heads=widths["vision_heads"],
        vision_intermediate=widths["vision_intermediate"],
        windowed=manifest["vision"]["window_patches"] is not None,
        patch_px=image["patch_size"],
        patch_inputs=3 * image["temporal_patch_size"] * image["patch_size"] ** 2,
        merge=image["merge_size"],
        vision_bytes=files.get("vision.onnx.data", 0),
        decoder_bytes=files.get("decoder.onnx.data", 0),
        head_bytes=head_bytes,
        screen_bytes=screen_bytes,
        head_inside=head_bytes == 0,
        tokenizer_bytes=files.get("tokenizer.json", 0),
        cache_bytes=2 if decoder["cache_dtype"] == "float16" else 4,
        working_bytes=_working_bytes(manifest),
        decomposed=manifest["dialect"] == "basic",
        pixels=min(pixels or image["max_pixels"], image["max_pixels"]),
        tokens=0,
    )
    return _with_lengths(facts, tokens, decoder["max_positions"])


def _with_lengths(facts: MemoryFacts, tokens: int | None, most: int) -> MemoryFacts:
    wanted = min(facts.prompt_tokens + THOUGHT_TOKENS, most) if tokens is None else tokens
    if wanted > most:
        raise ConfigError(f"{wanted} tokens are planned for, the model has positions for {most}; ask for fewer")
    if wanted <= facts.prompt_tokens and tokens is not None:
        raise ConfigError(
            f"{wanted} tokens have no room for the largest picture and its question, {facts.prompt_tokens} tokens; "
            "plan more tokens, or a smaller picture (--image-size)"
        )
    return replace(facts, tokens=wanted)


def _working_bytes(manifest: Manifest) -> int:
    """ONNX Runtime's graphs compute in float32, those for TensorRT in 16 bits unless nothing is narrower than 32."""
    if manifest["dialect"] == "onnxruntime":
        return 4
    return 4 if {manifest["precision"][part] for part in ("vision", "decoder", "head")} == {"fp32"} else 2


def _reexported(facts: MemoryFacts, precision: dict[str, str]) -> MemoryFacts:
    """Parts scaled from the bytes of one scheme to those of another; a screen is of float32 heads only."""

    def scaled(size: int, part: str) -> int:
        return round(size * BYTES_PER_WEIGHT[precision[part]] / BYTES_PER_WEIGHT[facts.precision[part]])

    decoder, head = facts.decoder_bytes, facts.head_bytes
    if facts.head_inside:
        inside = facts.head_graph_bytes
        decoder = scaled(decoder - inside, "decoder") + scaled(inside, "head")
    else:
        decoder, head = scaled(decoder, "decoder"), scaled(head, "head")
    narrow: dict[str, Any] = {}
    if facts.target not in ("cpu", "cuda"):
        narrow = {"working_bytes": 2, "cache_bytes": 2}
    return replace(
        facts,
        precision=precision,
        vision_bytes=scaled(facts.vision_bytes, "vision"),
        decoder_bytes=decoder,
        head_bytes=head,
        screen_bytes=facts.screen_bytes if precision["head"] == "fp32" else 0,
        **narrow,
    )
