"""engines/<product>-<gpu>-<version>/engine.json: which engines a bundle carries, for which GPU, made from which graphs.

In: a bundle's folder and what runs here (product, version, GPU). Out: the record of the engines that fit, or an error
that says which are there. Knows files and digests; opens no engine and needs no library.

A folder holds `vision.engine`, `decoder.engine`, `head.engine` (where the head is a graph of its own), `timing.cache`
and `engine.json`. No manifest lists them: `fgr-edge build` makes them from the bundle, on the device that runs them.
Engines of TensorRT-RTX may be for several generations of GPUs at once; their folder names the generations, not a GPU.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fgr_edge.errors import EngineError

Product = Literal["tensorrt", "tensorrt-rtx"]
Shape = tuple[int, ...]

ENGINES = "engines"
RECORD = "engine.json"
TIMING_CACHE = "timing.cache"
RECORD_SCHEMA = 1
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """Sizes that an engine is optimised for; the index in `EngineFile.profiles` is TensorRT's index of the profile.

    Attributes:
        name: "prefill", "decode", or "<width>x<height>" of a camera's pictures.
        inputs: smallest, usual and largest shape of each input whose shape is not fixed.
    """

    name: str
    inputs: Mapping[str, tuple[Shape, Shape, Shape]]


@dataclass(frozen=True, slots=True)
class EngineFile:
    """One engine.

    Attributes:
        file: its name in the folder.
        sha256, size_bytes: of that file.
        sources: graph and weights that it was made from, by their names in the bundle, and their SHA-256.
        profiles: in TensorRT's order.
        stripped: whether the engine was built without its weights. A refit puts them in from the graph as it was built,
            which then lies beside the engine (`decoder.onnx`), with the bundle's weights under a second name.
    """

    file: str
    sha256: str
    size_bytes: int
    sources: Mapping[str, str]
    profiles: tuple[EngineProfile, ...]
    stripped: bool = False


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """What engine.json says.

    Attributes:
        product: "tensorrt" or "tensorrt-rtx".
        product_version: of the library that built them, such as "10.3.0"; an engine runs with that version alone.
        gpu_name: as the driver calls it; "" where they were built without a GPU.
        sms: generations (compute capabilities, 87 is 8.7) that they run on.
        flags: of the build, sorted; part of what decides whether engines are built again.
        cache_length: slots of the KV cache, a number in these engines.
        engines: by graph: "vision", "decoder", "head".
        verified: summary of the report of `verify` on this device; None where none ran.
        folder: where the record lies; set by `read_record`.
    """

    product: Product
    product_version: str
    gpu_name: str
    sms: tuple[int, ...]
    flags: tuple[str, ...]
    cache_length: int
    engines: Mapping[str, EngineFile]
    verified: Mapping[str, Any] | None = None
    folder: Path | None = None

    def path(self, graph: str) -> Path:
        """The engine of a graph ("vision", "decoder", "head").

        Raises:
            EngineError: there is none.
        """
        if self.folder is None or graph not in self.engines:
            raise EngineError(
                f"{self.folder or 'an unwritten record'} holds engines of {', '.join(self.engines) or 'nothing'}, none "
                f"of {graph}; build them again: fgr-edge build BUNDLE --force"
            )
        return self.folder / self.engines[graph].file

    def fits(self, product: str, product_version: str, gpu_name: str, sm: int) -> bool:
        """Whether the engines run here. TensorRT's are for the GPU that they were timed on, RTX's for a generation."""
        same = (self.product, self.product_version) == (product, product_version) and sm in self.sms
        return same and (self.product == "tensorrt-rtx" or self.gpu_name == gpu_name)


def folder_name(product: Product, product_version: str, gpu_name: str, sms: tuple[int, ...]) -> str:
    """Of the engines' folder: "tensorrt-sm87-orin-10.3.0", "tensorrt-rtx-sm86-sm89-1.7.1.116"."""
    generations = "-".join(f"sm{sm}" for sm in sms)
    slug = re.sub(r"[^a-z0-9]+", "-", gpu_name.lower()).strip("-") if product == "tensorrt" else ""
    return "-".join(part for part in (product, generations, slug, product_version) if part)


def write_record(folder: Path, record: EngineRecord) -> None:
    """Write engine.json beside the engines that it names."""
    values = {key: value for key, value in asdict(record).items() if key != "folder"}
    text = json.dumps({"schema_version": RECORD_SCHEMA, **values}, indent=2, ensure_ascii=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def read_record(folder: Path) -> EngineRecord:
    """The record in one folder of engines.

    Raises:
        EngineError: it is missing or damaged, or an engine that it names is not there or of another size.
    """
    path = folder / RECORD
    try:
        values = json.loads(path.read_bytes())
        if values["schema_version"] != RECORD_SCHEMA:
            raise ValueError(f"schema_version is {values['schema_version']}, expected {RECORD_SCHEMA}")
        record = _record(values, folder)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise EngineError(
            f"{path} is no record of engines ({type(error).__name__}: {error}); expected what `fgr-edge build` writes: "
            "remove the folder and build again"
        ) from error
    for engine in record.engines.values():
        there = folder / engine.file
        size = there.stat().st_size if there.is_file() else None
        if size != engine.size_bytes:
            found = "is missing" if size is None else f"has {size} bytes, expected {engine.size_bytes}"
            raise EngineError(f"{there} {found}; build the engines again: fgr-edge build BUNDLE --force")
    return record


def read_records(bundle: Path) -> list[EngineRecord]:
    """All engines in a bundle's folder, by name of their folders.

    Raises:
        EngineError: a record is damaged.
    """
    return [read_record(path.parent) for path in sorted((bundle / ENGINES).glob(f"*/{RECORD}"))]


def find_engines(bundle: Path, product: Product, product_version: str, gpu_name: str, sm: int) -> EngineRecord:
    """The engines that run here.

    Raises:
        EngineError: none fits, or a record is damaged; says which are there and how to build.
    """
    records = read_records(bundle)
    fitting = [record for record in records if record.fits(product, product_version, gpu_name, sm)]
    if fitting:
        # Several of RTX fit where one was built for this generation alone: it comes first.
        return min(fitting, key=lambda record: len(record.sms))
    there = "; ".join(_described(record) for record in records) or "none"
    raise EngineError(
        f"bundle {bundle} has no engines for {gpu_name} (SM{sm}) with {product} {product_version}; it has {there}. "
        f"Build them here: fgr-edge build {bundle}"
    )


def check_sources(record: EngineRecord, digests: Mapping[str, str]) -> None:
    """Refuse engines made from other graphs or weights than the bundle's; `digests` are the manifest's, by file.

    Raises:
        EngineError: names the files.
    """
    sources = {name: digest for engine in record.engines.values() for name, digest in engine.sources.items()}
    changed = sorted(name for name, digest in sources.items() if digests.get(name) != digest)
    if changed:
        raise EngineError(
            f"the engines in {record.folder} were built from another {', '.join(changed)} than the bundle's: it was "
            "exported again since; build them again: fgr-edge build BUNDLE"
        )


def _described(record: EngineRecord) -> str:
    generations = ", ".join(f"SM{sm}" for sm in record.sms)
    gpu = f"{record.gpu_name} ({generations})" if record.gpu_name else generations
    return f"{record.product} {record.product_version} for {gpu}"


def _record(values: Mapping[str, Any], folder: Path) -> EngineRecord:
    if values["product"] not in get_args(Product):
        raise ValueError(f"product is {values['product']!r}")
    verified = values["verified"]
    if verified is not None and not isinstance(verified, dict):
        raise ValueError(f"verified is {verified!r}")
    return EngineRecord(
        product=values["product"],
        product_version=str(values["product_version"]),
        gpu_name=str(values["gpu_name"]),
        sms=tuple(int(sm) for sm in values["sms"]),
        flags=tuple(str(flag) for flag in values["flags"]),
        cache_length=int(values["cache_length"]),
        engines={str(name): _engine(entry) for name, entry in values["engines"].items()},
        verified=verified,
        folder=folder,
    )


def _engine(values: Mapping[str, Any]) -> EngineFile:
    name = str(values["file"])
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"file is {name!r}, which is no name in this folder")
    if not _HEX.fullmatch(values["sha256"]):
        raise ValueError(f"sha256 of {name} is {values['sha256']!r}")
    return EngineFile(
        file=name,
        sha256=values["sha256"],
        size_bytes=int(values["size_bytes"]),
        sources={str(source): str(digest) for source, digest in values["sources"].items()},
        profiles=tuple(_profile(profile) for profile in values["profiles"]),
        stripped=bool(values["stripped"]),
    )


def _profile(values: Mapping[str, Any]) -> EngineProfile:
    inputs = {}
    for name, shapes in values["inputs"].items():
        least, usual, most = (tuple(int(size) for size in shape) for shape in shapes)
        inputs[str(name)] = (least, usual, most)
    return EngineProfile(str(values["name"]), inputs)
