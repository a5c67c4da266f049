"""A fake GPU and fake libraries in the place of the real ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.runtime.sessions.fake_cuda import FakeCuda
from tests.runtime.sessions.fake_tensorrt import FakeLibrary


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """The GPU that `cuda.bindings.runtime` talks to in this test."""
    played = FakeCuda()
    package, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    package.bindings = bindings  # type: ignore[attr-defined]
    bindings.runtime = played  # type: ignore[attr-defined]
    for name, module in (("cuda", package), ("cuda.bindings", bindings), ("cuda.bindings.runtime", played)):
        monkeypatch.setitem(sys.modules, name, module)
    return played


@pytest.fixture
def installed(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], FakeLibrary]:
    """`installed("10.3.0")`: that version's library can be imported in this test."""

    def install(version: str) -> FakeLibrary:
        library = FakeLibrary(version, cuda)
        monkeypatch.setitem(sys.modules, library.__name__, library)
        return library

    return install
