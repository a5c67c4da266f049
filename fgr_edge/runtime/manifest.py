"""manifest.json: what is in it, and the one reader that validates it.

In: a bundle's folder, or a manifest about to be written. Out: a `Manifest` whose required keys are there and
of the right type. Does not look at the other files.

The manifest carries `manifest_sha256`, the digest of itself without that key (JSON with sorted keys and no
spaces): a changed number in it is found at open, like a changed weight.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypedDict, cast

from fgr_edge.errors import BundleError

MANIFEST = "manifest.json"
EMBEDDING = "embedding.bin"
SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 16 * 1024 * 1024


class FileEntry(TypedDict):
    """A file of the bundle: bytes, and SHA-256 in lower-case hex."""

    size: int
    sha256: str


class EmbeddingSpec(TypedDict):
    """embedding.bin: [rows, columns] of `dtype`, little-endian, C order, no header."""

    dtype: Literal["float32", "float16", "bfloat16"]
    rows: int
    columns: int


class RequiredDecoderPart(TypedDict):
    """What every manifest says of decoder.onnx."""

    layers: int
    hidden: int
    kv_heads: int
    head_dim: int
    vocab: int
    rope_theta: float
    mrope_section: list[int]
    mrope_interleaved: bool
    deepstack: int
    max_positions: int
    cache_dtype: str


class DecoderPart(RequiredDecoderPart, total=False):
    """`decoder.DecoderSpec` as JSON: what the host needs to know of decoder.onnx.

    `tree_attention` came later: bundles without the key have no tree attention.
    """

    tree_attention: bool


class VisionPart(TypedDict):
    """`vision.VisionSpec` as JSON: what the host needs to know of vision.onnx."""

    head_dim: int
    merge_size: int
    rope_theta: float
    window_patches: int | None
    learned_positions: int | None
    deepstack: int


class ScreenPart(TypedDict):
    """What the host needs to know of screen.onnx: inputs that share a scale in its engine."""

    scheme: str
    block_size: int


class WidthsPart(TypedDict):
    """What the memory plan needs to know of the graphs and the host does not: see `runtime/memory/facts.py`."""

    heads: int
    intermediate: int
    vision_depth: int
    vision_hidden: int
    vision_heads: int
    vision_intermediate: int


class RequiredManifest(TypedDict):
    """manifest.json; `image`, `prompt` and `generation` are checked further by the modules that use them."""

    schema_version: int
    manifest_sha256: str
    family: str
    name: str
    target: str
    dialect: str
    precision: dict[str, str]
    decoder: DecoderPart
    vision: VisionPart
    image: dict[str, Any]
    prompt: dict[str, Any]
    generation: dict[str, Any]
    embedding: EmbeddingSpec
    files: dict[str, FileEntry]
    provenance: dict[str, Any]


class Manifest(RequiredManifest, total=False):
    """`screen` is there where the head is a graph of its own, with a coarse copy of it (see `runtime/head.py`).

    `widths` came later: bundles without the key have no memory plan.
    """

    screen: ScreenPart
    widths: WidthsPart


_EMBEDDING = {"dtype": "text", "rows": "size", "columns": "size"}
_DECODER = {
    "layers": "size",
    "hidden": "size",
    "kv_heads": "size",
    "head_dim": "size",
    "vocab": "size",
    "rope_theta": "number",
    "mrope_section": "counts",
    "mrope_interleaved": "bool",
    "deepstack": "count",
    "max_positions": "size",
    "cache_dtype": "text",
}
_OPTIONAL_DECODER = {"tree_attention": "bool"}
_VISION = {
    "head_dim": "size",
    "merge_size": "size",
    "rope_theta": "number",
    "window_patches": "size or null",
    "learned_positions": "size or null",
    "deepstack": "count",
}
_SCREEN = {"scheme": "text", "block_size": "size"}
_WIDTHS = dict.fromkeys(
    ("heads", "intermediate", "vision_depth", "vision_hidden", "vision_heads", "vision_intermediate"), "size"
)
_TEXTS = ("family", "name", "target", "dialect")
_OBJECTS = (
    *("precision", "decoder", "vision", "image", "prompt", "generation"),
    *("embedding", "files", "provenance"),
)
_MANIFEST = {**dict.fromkeys(_TEXTS, "text"), **dict.fromkeys(_OBJECTS, "object")}
_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def read_manifest(folder: Path) -> Manifest:
    """Read, check and return the manifest of the bundle in `folder`.

    Raises:
        BundleError: there is no such bundle, its manifest is damaged or newer than this version, or a key
            is missing or of the wrong type.
    """
    manifest = _parse(folder)
    where = str(folder / MANIFEST)
    _check_schema(manifest, where)
    if "manifest_sha256" not in manifest:
        raise BundleError(f"{where} has no key 'manifest_sha256'; expected one written by `fgr-edge export`")
    if manifest["manifest_sha256"] != _digest(manifest):
        raise BundleError(
            f"{where} has changed since it was written (its manifest_sha256 differs); copy the bundle again "
            "or export it again"
        )
    return check_manifest(manifest, where)


def check_manifest(manifest: Mapping[str, Any], where: str = MANIFEST) -> Manifest:
    """Return `manifest`, checked, its digest excepted; `where` names it in messages.

    Raises:
        BundleError: the key at fault, what was found and what was expected.
    """
    _check_schema(manifest, where)
    _check_keys(manifest, _MANIFEST, where, "")
    decoder = manifest["decoder"]
    there = {key: kind for key, kind in _OPTIONAL_DECODER.items() if key in decoder}
    _check_keys(decoder, {**_DECODER, **there}, where, "decoder.")
    _check_keys(manifest["vision"], _VISION, where, "vision.")
    _check_keys(manifest["embedding"], _EMBEDDING, where, "embedding.")
    for part, kinds in (("screen", _SCREEN), ("widths", _WIDTHS)):
        if part in manifest:
            _check(manifest[part], "object", where, part)
            _check_keys(manifest[part], kinds, where, f"{part}.")
    for part, precision in manifest["precision"].items():
        _check(precision, "text", where, f"precision.{part}")
    for name, entry in manifest["files"].items():
        if not is_safe_name(name):
            raise BundleError(
                f"{where} lists the file {name!r}; expected a relative path inside the bundle, with forward slashes, "
                f"other than {MANIFEST}; do not use this bundle"
            )
        _check(entry, "object", where, f"files.{name}")
        _check_keys(entry, {"size": "count", "sha256": "sha256"}, where, f"files.{name}.")
    checked = cast(Manifest, manifest)
    _check_embedding(checked, where)
    return checked


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `manifest` with its `manifest_sha256`: what is written as manifest.json."""
    return {**manifest, "manifest_sha256": _digest(manifest)}


def is_safe_name(name: str) -> bool:
    """Whether `name` is a relative path that stays inside a folder, on Windows too, and not the manifest."""
    parts = name.split("/")
    return (
        not any(part in ("", ".", "..") for part in parts)
        and not re.search(r"[\\:\x00-\x1f\ud800-\udfff]", name)
        and PurePosixPath(name).as_posix() == name
        and name.lower() != MANIFEST
    )


def embedding_bytes(spec: EmbeddingSpec) -> int:
    """Size of embedding.bin."""
    return spec["rows"] * spec["columns"] * _ITEM_BYTES[spec["dtype"]]


def _digest(manifest: Mapping[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    try:
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} holds what JSON has not ({error}); export the bundle again") from error
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _parse(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir():
        found = "it is a file" if folder.exists() else "there is no such folder"
        raise BundleError(f"{folder} is no bundle: {found}; expected a folder made by `fgr-edge export`")
    if not path.is_file():
        is_checkpoint = (folder / "config.json").is_file()
        advice = "this looks like a checkpoint: run" if is_checkpoint else "make one with"
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}; {advice} `fgr-edge export`")
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_MANIFEST_BYTES else b""
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} is too large: {size} bytes, expected at most {MAX_MANIFEST_BYTES}")
    try:
        manifest = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON ({error}); copy or export the bundle again") from error
    if not isinstance(manifest, dict):
        raise BundleError(f"{path} holds a JSON {type(manifest).__name__}, expected an object; export again")
    return manifest


def _refuse_constant(text: str) -> float:
    raise ValueError(f"it contains {text}")


def _check_schema(manifest: Mapping[str, Any], where: str) -> None:
    _check_keys(manifest, {"schema_version": "size"}, where, "")
    found = manifest["schema_version"]
    if found > SCHEMA_VERSION:
        raise BundleError(
            f"{where} has schema_version {found}, this fgr-edge reads up to {SCHEMA_VERSION}; upgrade it "
            "(`pip install --upgrade fgr-edge`) or export the bundle with this version"
        )


def _check_keys(values: Mapping[str, Any], kinds: Mapping[str, str], where: str, prefix: str) -> None:
    for key, kind in kinds.items():
        if key not in values:
            raise BundleError(f"{where} has no key '{prefix}{key}' (a {kind}); export the bundle again")
        _check(values[key], kind, where, prefix + key)


def _check(value: object, kind: str, where: str, key: str) -> None:
    if not _fits(value, kind):
        shown = json.dumps(value, default=repr)
        raise BundleError(f"{where} has {shown[:80]} under '{key}', expected a {kind}; export the bundle again")


def _fits(value: object, kind: str) -> bool:
    whole = type(value) is int  # True is an int to isinstance
    if kind == "size or null":
        return value is None or _fits(value, "size")
    if kind == "counts":
        return isinstance(value, (list, tuple)) and all(_fits(item, "count") for item in value)
    return {
        "text": isinstance(value, str),
        "object": isinstance(value, Mapping),
        "bool": isinstance(value, bool),
        "size": whole and cast(int, value) >= 1,
        "count": whole and cast(int, value) >= 0,
        "number": (whole or isinstance(value, float)) and math.isfinite(cast(float, value)),
        "sha256": isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None,
    }[kind]


def _check_embedding(manifest: Manifest, where: str) -> None:
    spec, files = manifest["embedding"], manifest["files"]
    if spec["dtype"] not in _ITEM_BYTES:
        raise BundleError(
            f"{where} has dtype {spec['dtype']!r} under 'embedding.dtype', expected one of {', '.join(_ITEM_BYTES)}"
        )
    if spec["columns"] != manifest["decoder"]["hidden"]:
        raise BundleError(
            f"{where} has {spec['columns']} under 'embedding.columns', expected {manifest['decoder']['hidden']} as "
            "under 'decoder.hidden'; export the bundle again"
        )
    if EMBEDDING not in files:
        raise BundleError(f"{where} does not list {EMBEDDING} under 'files'; expected the table there")
    if files[EMBEDDING]["size"] != embedding_bytes(spec):
        raise BundleError(
            f"{where} lists {EMBEDDING} with {files[EMBEDDING]['size']} bytes, expected {embedding_bytes(spec)} "
            f"for {spec['rows']} x {spec['columns']} (embedding.rows x embedding.columns) {spec['dtype']}; "
            "export the bundle again"
        )
