"""Where each weight begins in the file beside an ONNX graph, read from the graph without the onnx package.

In: the bytes of a graph. Out: offsets. Knows protobuf's wire format and four fields of ONNX: a model's graph, its
initializers, their external data, and the keys and values of that.
"""

from __future__ import annotations

from collections.abc import Iterator

_GRAPH, _INITIALIZER, _EXTERNAL_DATA, _KEY, _VALUE = 7, 5, 13, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def weight_offsets(graph: bytes) -> list[int]:
    """Offsets of the weights outside the graph, ascending, each once.

    Raises:
        ValueError: these are not the bytes of a graph.
    """
    try:
        return sorted(set(_offsets(memoryview(graph))))
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"no ONNX graph: {error}") from error


def _offsets(model: memoryview) -> Iterator[int]:
    for graph in _fields(model, _GRAPH):
        for initializer in _fields(graph, _INITIALIZER):
            entries = list(_fields(initializer, _EXTERNAL_DATA))
            found = {_text(entry, _KEY): _text(entry, _VALUE) for entry in entries}
            if found:
                yield int(found.get("offset", "0"))


def _text(message: memoryview, wanted: int) -> str:
    return b"".join(_fields(message, wanted)).decode()


def _fields(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """Each value of a field of bytes."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == _VARINT:
            _, place = _varint(message, place)
        elif kind == _BYTES:
            size, place = _varint(message, place)
            if tag >> 3 == wanted:
                yield message[place : place + size]
            place += size
        elif kind in (_FIXED64, _FIXED32):
            place += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"no ONNX graph: wire type {kind}")


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number, and the place behind it."""
    number, shift = 0, 0
    while True:
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
        shift += 7
