"""Bytes that decoding reads for one token: what memory bandwidth limits.

In: a bundle. Out: `Traffic`: the weights of the graphs that a decode step runs, one row of the embedding table, and
keys and values of the context so far. Sizes are as stored: what an engine widens in memory (16-bit weights on a CPU)
moves more. The vision tower is not read.
"""

from __future__ import annotations

from dataclasses import dataclass

from fgr_edge.runtime.bundle import Bundle

_CACHE_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_TABLE_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one decode step moves.

    Attributes:
        weight_bytes: read for every token: decoder and head, or the head's coarse copy where it is screened.
        head_bytes: read beside it for a token that the coarse copy could not tell; 0 without one.
        embedding_row_bytes: of one token.
        cache_bytes_per_token: keys and values of one token, of all layers.
    """

    weight_bytes: int
    head_bytes: int
    embedding_row_bytes: int
    cache_bytes_per_token: int

    @classmethod
    def of(cls, bundle: Bundle, *, screened: bool) -> Traffic:
        """Read it from the manifest.

        Args:
            screened: whether the runtime uses the coarse copy of the head, where the bundle has one.
        """
        manifest = bundle.manifest
        decoder, table = manifest["decoder"], manifest["embedding"]
        uses_screen = screened and "screen" in manifest
        head = _graph_bytes(bundle, "head")
        values = 2 * decoder["layers"] * decoder["kv_heads"] * decoder["head_dim"]
        return cls(
            weight_bytes=_graph_bytes(bundle, "decoder") + (_graph_bytes(bundle, "screen") if uses_screen else head),
            head_bytes=head if uses_screen else 0,
            embedding_row_bytes=table["columns"] * _TABLE_ITEM_BYTES[table["dtype"]],
            cache_bytes_per_token=values * _CACHE_ITEM_BYTES.get(decoder["cache_dtype"], 4),
        )

    def bytes_per_token(self, context_tokens: float, full_head_share: float = 0.0) -> float:
        """With so many tokens in the cache on average: all of them are read, and one is written."""
        return (
            self.weight_bytes
            + full_head_share * self.head_bytes
            + self.embedding_row_bytes
            + (context_tokens + 1) * self.cache_bytes_per_token
        )


def _graph_bytes(bundle: Bundle, graph: str) -> int:
    """Weights of one graph: its external data; the graph's own file where they are inside; 0 where there is none."""
    files = bundle.manifest["files"]
    data = [entry["size"] for name, entry in files.items() if name.startswith(f"{graph}.onnx.")]
    if data:
        return sum(data)
    return files[f"{graph}.onnx"]["size"] if f"{graph}.onnx" in files else 0
