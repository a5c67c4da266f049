"""The listing of TensorRT's bindings: what can be checked without fetching a wheel."""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path

import pytest

from tools.tensorrt_surface import CLASSES, MODULE, OUTPUT, SYMBOLS, VERSIONS, _text, stub_libraries


def test_the_committed_documents_are_as_the_script_writes_them() -> None:
    assert {path.stem for path in OUTPUT.glob("*.json")} == set(VERSIONS)
    for path in OUTPUT.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
        assert _text(document) == text, path.name
        assert document["members"].keys() <= {MODULE, *CLASSES}
        assert document["package"] == VERSIONS[path.stem].package
        assert all(names == sorted(names) for names in document["members"].values())


def test_a_stub_has_every_symbol_that_bindings_ask_for(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc)")
    folder = stub_libraries(("libnvinfer.so.11",), tmp_path / "lib")
    library = ctypes.CDLL(str(folder / "libnvinfer.so.11"))
    assert all(hasattr(library, symbol) for symbol in SYMBOLS)
    assert not hasattr(library, "createSomethingElse")
