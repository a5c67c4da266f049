"""Where every tensor of a written bundle lies, read from its graphs: what `calibrate.golden` digests.

Weights lie in the graphs' external data, the small constants of norms in the .onnx files themselves, the embedding in a
file of its own. The graph files and the tokenizer are listed whole, too: a changed node or constant has no other name.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from fgr_edge.calibrate.tensor_digests import TensorPlace
from fgr_edge.runtime.bundle import EMBEDDING, TOKENIZER
from fgr_edge.runtime.head import HEAD, SCREEN, SCREEN_NORMS

GRAPHS = ("vision.onnx", "decoder.onnx")
APART_GRAPHS = (HEAD, SCREEN)  # of bundles whose head is a graph of its own, and screened
SMALLEST_BYTES = 32  # a constant of fewer bytes may stand elsewhere in the file by chance


def tensor_places(bundle: Path) -> list[TensorPlace]:
    """Places of the tensors of the bundle in folder `bundle`, graph by graph, in the order of their files."""
    places: list[TensorPlace] = []
    graphs = [*GRAPHS, *(graph for graph in APART_GRAPHS if (bundle / graph).is_file())]
    for graph in graphs:
        places += _of_graph(bundle, graph)
    wholes = {EMBEDDING: "embedding", TOKENIZER: TOKENIZER, **{graph: f"graph of {graph}" for graph in graphs}}
    if SCREEN in graphs:
        wholes[SCREEN_NORMS] = SCREEN_NORMS
    places += [TensorPlace(name, file, 0, (bundle / file).stat().st_size) for file, name in wholes.items()]
    return places


def _of_graph(bundle: Path, graph: str) -> list[TensorPlace]:
    stored = (bundle / graph).read_bytes()
    places: list[TensorPlace] = []
    end = 0
    for name, value in ir.load(bundle / graph).graph.initializers.items():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            file = Path(tensor.location).as_posix()
            places.append(TensorPlace(str(name), file, tensor.offset or 0, tensor.length or tensor.nbytes))
        elif tensor is not None and tensor.nbytes >= SMALLEST_BYTES:
            # Constants are written in the order of the graph, each in one piece.
            offset = stored.find(tensor.tobytes(), end)
            if offset >= 0:
                places.append(TensorPlace(str(name), graph, offset, tensor.nbytes))
                end = offset + tensor.nbytes
    return sorted(places, key=lambda place: (place.file, place.offset))
