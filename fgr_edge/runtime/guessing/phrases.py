"""phrases.npz: thoughts of the model's own, from which speculative decoding guesses before it has seen any.

    ids               [N] int32    tokens of all texts, one text after the other
    ends              [T] int64    where each text ends
    tokenizer_sha256  [32] uint8   of the tokenizer whose tokens they are

Optional, small (`MOST_TOKENS`), and checked like every file of a bundle. A wrong phrase costs time, never correctness.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from fgr_edge.errors import BundleError
from fgr_edge.runtime.bundle import TOKENIZER, Bundle

PHRASES = "phrases.npz"
MOST_TOKENS = 1 << 16  # of all texts; 250 KB, a quarter of that compressed
_AGAIN = "export the bundle again, or calibrate-labels with --mode reason"


def stored_phrases(bundle: Bundle) -> list[list[int]]:
    """The texts in a bundle; none where it has no phrases.npz.

    Raises:
        BundleError: the file is not as `save_phrases` writes it, or of another tokenizer.
    """
    if PHRASES not in bundle:
        return []
    stored, path = bundle.arrays(PHRASES), bundle.file(PHRASES)
    ids, ends, digest = (stored.get(name) for name in ("ids", "ends", "tokenizer_sha256"))
    if ids is None or ends is None or digest is None:
        raise BundleError(f"{path} holds {sorted(stored)}, expected ids, ends and tokenizer_sha256; {_AGAIN}")
    if digest.tobytes().hex() != bundle.manifest["files"][TOKENIZER]["sha256"]:
        raise BundleError(f"{path} is of another tokenizer than this bundle's; {_AGAIN}")
    vocab, whole = bundle.manifest["decoder"]["vocab"], [0, *ends.tolist()]
    ordered = all(start <= end for start, end in pairwise(whole)) and whole[-1] == len(ids)
    if ids.dtype != np.int32 or ids.ndim != 1 or not ordered or ((ids < 0) | (ids >= vocab)).any():
        raise BundleError(f"{path} holds no texts of tokens below {vocab}; {_AGAIN}")
    return [ids[start:end].tolist() for start, end in pairwise(whole)]


def save_phrases(path: Path, texts: Sequence[Sequence[int]], tokenizer_sha256: str) -> int:
    """Write phrases.npz to `path`; returns how many tokens found room.

    Args:
        texts: token ids; the first ones are kept where there are too many.
        tokenizer_sha256: in hex, as in the manifest.
    """
    kept: list[Sequence[int]] = []
    room = MOST_TOKENS
    for text in texts:
        if text and room:
            kept.append(text[:room])
            room -= len(kept[-1])
    np.savez_compressed(
        path,
        ids=np.array([token for text in kept for token in text], np.int32),
        ends=np.cumsum([len(text) for text in kept], dtype=np.int64),
        tokenizer_sha256=np.frombuffer(bytes.fromhex(tokenizer_sha256), np.uint8),
    )
    return MOST_TOKENS - room
