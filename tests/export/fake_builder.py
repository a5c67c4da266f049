"""TensorRT's builder and ONNX parser as the bindings show them, version by version, added to the fake runtime.

`add_builder(library, folder)` gives a `FakeLibrary` a builder whose engines that library opens and computes with ONNX
Runtime. It offers what its version's bindings offer and nothing else, and refuses what TensorRT refuses: operators that
the version does not know, a cache of unknown length, inputs that no profile gives a shape, weights outside the graph's
folder, networks that are not strongly typed.
"""

from __future__ import annotations

import enum
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from tests.runtime.sessions.fake_tensorrt import FakeLibrary, Offered, members

LATER_OPERATORS = {"RMSNormalization", "RotaryEmbedding", "TensorScatter", "Attention"}
ENUMERATIONS = ("BuilderFlag", "MemoryPoolType", "NetworkDefinitionCreationFlag", "ComputeCapability")
CACHE_MAGIC = "timed by "


def add_builder(library: FakeLibrary, folder: Path, spoil: Callable[[Any], None] | None = None) -> list[Any]:
    """Let `library` build; returns the configurations that builds were given, as they are made.

    Args:
        folder: where the graphs of engines are kept.
        spoil: changes the graph that an engine computes with, as a miscompiled kernel would.
    """
    offered = members(library._version)
    configs: list[Any] = []
    for played in PLAYED:
        if played.played in offered:
            body = {"_members": frozenset(offered[played.played]), "_library": library}
            setattr(library, played.played, type(played.played, (played,), body))
    for name in ENUMERATIONS:
        if name in offered:
            names = [item for item in offered[name] if item.isupper()]
            setattr(library, name, enum.IntEnum(name, names, start=0))
    library._build_folder, library._spoil, library._build_configs = folder, spoil, configs  # type: ignore[attr-defined]
    return configs


class Settable(Offered):
    """Takes no attribute that its version does not have."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in type(self)._members:
            raise AttributeError(f"{type(self).__name__} of {type(self)._library._version} has no {name!r}")
        super().__setattr__(name, value)


class FakeBuilder(Settable):
    played = "Builder"

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> Any:
        strongly_typed = self._library.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        assert flags == 1 << int(strongly_typed), "the graph's types would not hold"
        return self._library._make("INetworkDefinition")

    def create_builder_config(self) -> Any:
        config = self._library._make("IBuilderConfig")
        self._library._build_configs.append(config)
        return config

    def create_optimization_profile(self) -> Any:
        return self._library._make("IOptimizationProfile")

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        plan = self._plan(network, config)
        return None if plan is None else memoryview(plan)

    def build_serialized_network_to_stream(self, network: Any, config: Any, writer: Any) -> bool:
        plan = self._plan(network, config)
        if plan is None:
            return False
        middle = len(plan) // 2
        return all(writer.write(part) == len(part) for part in (plan[:middle], plan[middle:]))

    def _plan(self, network: Any, config: Any) -> bytes | None:
        graph = network._graph
        for value in graph.graph.input:
            dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            if any(isinstance(dim, str) for dim in dims) and not all(value.name in p._shapes for p in config._profiles):
                self._logger.log(
                    self._library.ILogger.ERROR, f"Dynamic input {value.name} does not have dimensions in any profile"
                )
                return None
        stripped = "STRIP_PLAN" in config._flags
        plan = {
            "graph": str(network._path if stripped else self._kept(network._path)),
            "version": self._library._version,
            "profiles": [profile._shapes for profile in config._profiles],
            "fixed": {},
        }
        if config._cache is not None:
            config._cache._timed.append(network._path.stem)
        return json.dumps(plan).encode()

    def _kept(self, path: Path) -> Path:
        """The graph with links to its weights where no build removes them."""
        above = self._library._build_folder
        above.mkdir(parents=True, exist_ok=True)
        folder = above / str(len(list(above.iterdir())))
        folder.mkdir()
        os.link(path.with_name(f"{path.name}.data").resolve(), folder / f"{path.name}.data")
        shutil.copy(path, folder / path.name)
        if self._library._spoil is not None:
            model = onnx.load(str(folder / path.name), load_external_data=False)
            self._library._spoil(model)
            onnx.save(model, str(folder / path.name))
        return folder / path.name


class FakeStreamWriter(Offered):
    """`IStreamWriter`; the code under test derives from it."""

    played = "IStreamWriter"

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, name)  # what derives from it has attributes of its own


class FakeNetwork(Settable):
    played = "INetworkDefinition"

    def __init__(self) -> None:
        self._graph: Any = None
        self._path = Path()


class FakeParserError(Settable):
    played = "ParserError"

    def __init__(self, node: Any, text: str) -> None:
        self._node, self._text = node, text

    def node_name(self) -> str:
        return str(self._node.name)

    def node_operator(self) -> str:
        return str(self._node.op_type)

    def desc(self) -> str:
        return self._text


class FakeParser(Settable):
    played = "OnnxParser"

    def __init__(self, network: Any, logger: Any) -> None:
        self._network = network
        self._errors: list[Any] = []

    def parse_from_file(self, path: str) -> bool:
        model = onnx.load(path, load_external_data=False)
        self._network._graph, self._network._path = model, Path(path)
        old = not self._library._is_rtx and tuple(map(int, self._library._version.split(".")[:2])) < (10, 16)
        cache = {value.name: [dim.dim_param for dim in value.type.tensor_type.shape.dim] for value in model.graph.input}
        for node in model.graph.node:
            if old and node.op_type in LATER_OPERATORS:
                text = f"No importer registered for op: {node.op_type}. Plugin not found"
                self._errors.append(self._library._make("ParserError", node, text))
            elif node.op_type == "TensorScatter" and "cache_length" in cache.get(node.input[0], ()):
                text = "Assertion failed: cache dimension of TensorScatter must be known"
                self._errors.append(self._library._make("ParserError", node, text))
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    assert ".." not in entry.value and Path(path).with_name(entry.value).is_file()
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]


class FakeConfig(Settable):
    played = "IBuilderConfig"

    def __init__(self) -> None:
        self._flags: set[str] = set()
        self._profiles: list[Any] = []
        self._pools: dict[str, int] = {}
        self._sms: dict[int, Any] = {}
        self._cache: Any = None

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._pools[pool.name] = size

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        assert index < self.num_compute_capabilities
        self._sms[index] = capability
        return True

    def create_timing_cache(self, stored: bytes) -> Any:
        return self._library._make("ITimingCache", stored)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache._stored and not cache._stored.startswith(f"{CACHE_MAGIC}{self._library._version}".encode()):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache


class FakeTimingCache(Settable):
    played = "ITimingCache"

    def __init__(self, stored: bytes) -> None:
        self._stored = stored
        self._timed: list[str] = []

    def serialize(self) -> Any:
        head = self._stored or f"{CACHE_MAGIC}{self._library._version}:".encode()
        return memoryview(head + "".join(f" {name}" for name in self._timed).encode())


class FakeProfile(Settable):
    played = "IOptimizationProfile"

    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, least: Any, usual: Any, most: Any) -> None:
        shapes = [list(least), list(usual), list(most)]
        ordered = all(a <= b <= c for a, b, c in zip(*shapes, strict=True))
        if ordered:
            self._shapes[name] = shapes

    def get_shape(self, name: str) -> list[list[int]]:
        return self._shapes.get(name, [])


PLAYED: tuple[type[Offered], ...] = (
    *(FakeBuilder, FakeStreamWriter, FakeNetwork, FakeParser, FakeParserError),
    *(FakeConfig, FakeProfile, FakeTimingCache),
)
