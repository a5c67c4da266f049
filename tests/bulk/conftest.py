"""A small photograph store, and a bundle to label it with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fgr_edge.bulk.config import LabelConfig

DRAWN = 8
BROKEN = "b/broken.png"


@contextmanager
def quiet(title: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


@pytest.fixture(scope="session")
def store_of(birds: Callable[[int], list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """`store_of(40)`: a folder of so many photographs (a few drawings under many names) and one that is broken."""
    drawn = birds(DRAWN)

    def make(count: int) -> Path:
        folder = tmp_path_factory.mktemp("store")
        for name in ("a", "b"):
            (folder / name).mkdir()
        for number in range(count):
            os.link(drawn[number % DRAWN], folder / ("a" if number % 2 else "b") / f"{number:04d}.png")
        (folder / BROKEN).write_bytes(b"\x89PNG but no more")
        return folder

    return make


@pytest.fixture(scope="session")
def store(store_of: Callable[[int], Path]) -> Path:
    return store_of(11)


@pytest.fixture
def config(
    nano_bundle: Callable[..., Path], nano_labels: Path, store: Path, tmp_path: Path
) -> Callable[..., LabelConfig]:
    """A run over the store in shards of five; any option may be changed."""

    def make(**changes: object) -> LabelConfig:
        given: dict[str, object] = {
            "bundle": nano_bundle("int8", nano_labels),
            "source": store,
            "output": tmp_path / "records",
            "shard_size": 5,
            "threads": 1,
            **changes,
        }
        return LabelConfig(**given)  # type: ignore[arg-type]

    return make


@pytest.fixture
def lines() -> Callable[[Path], list[str]]:
    """Every record of an output, in order."""

    def read(output: Path) -> list[str]:
        return [line for path in sorted((output / "shards").glob("*.jsonl")) for line in path.read_text().splitlines()]

    return read
