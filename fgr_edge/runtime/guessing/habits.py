"""Speculation for one bundle: what its model is likely to write before it has written anything, and how it rounds.

In: a bundle and the labels. Out: a `Speculation`, whose first guesses come from the bundle's phrases and from the names
that it may give. Runs no graph.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.decoder import Decoder
from fgr_edge.runtime.guessing.drafts import BRANCHES, Drafter
from fgr_edge.runtime.guessing.ngrams import NgramTable
from fgr_edge.runtime.guessing.phrases import stored_phrases
from fgr_edge.runtime.guessing.speculation import Gather, Speculation
from fgr_edge.runtime.label_trie.label_scorer import REASONED
from fgr_edge.runtime.labels import LabelSet

log = logging.getLogger(__name__)

MOST_NAMES = 1000  # of more, hardly one would be guessed right, and encoding them takes time
FLOAT_SHARE = 1e-5  # of the largest logit that a difference may be off: float32 sums in another order
ROUNDED_SHARE = 6e-3  # and where inputs of layers are rounded, to int8 or float16, and a last bit makes a step of it
FLOAT_PRECISIONS = ("fp32", "fp16", "bf16")  # of weights; on the CPU all of them are multiplied in float32


@dataclass(frozen=True, slots=True)
class Habits:
    """Of one bundle.

    Args:
        labels: names that an answer may have.
        encode: text to token ids.
    """

    bundle: Bundle
    labels: LabelSet | None
    encode: Callable[[str], Sequence[int]]

    def speculation(self, decoder: Decoder, gather: Gather, *, exact: bool, alike: bool = False) -> Speculation:
        """Guess and check texts with `decoder`, on the CPU; in trees, where the graph takes them.

        Args:
            alike: see `Speculation`; in a tree, a token that does not follow the text directly has other last bits.
        """
        trees = decoder.spec.tree_attention and not alike
        precision = self.bundle.manifest["precision"]
        floats = decoder.spec.cache_dtype == "float32" and all(
            precision[part] in FLOAT_PRECISIONS for part in ("decoder", "head")
        )
        share = FLOAT_SHARE if floats else ROUNDED_SHARE
        drafter = Drafter(self.table, branches=BRANCHES if trees else 1)
        return Speculation(decoder, gather, drafter, doubt_share=share if exact else None, trees=trees, alike=alike)

    def table(self) -> NgramTable:
        """Count the bundle's phrases, and every label as the answer that it would be.

        Raises:
            BundleError: phrases.npz is damaged.
        """
        start = time.perf_counter()
        table = NgramTable()
        names = () if self.labels is None else self.labels.names
        for name in names if len(names) <= MOST_NAMES else ():
            table.add(self.encode(f"{REASONED.lead}{name}{REASONED.tail}"))
        for text in stored_phrases(self.bundle):
            table.add(text)
        log.info("counted phrases and names: %d contexts, %.2f s", len(table), time.perf_counter() - start)
        return table
