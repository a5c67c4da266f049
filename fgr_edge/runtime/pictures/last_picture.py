"""The picture that was read last, so that another question about it need not see it again.

In: pictures. Out: numbers, the same for the same pixels asked about one after the other; and what vision made of them.
Knows pixels and embeddings; no prompts, no cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fgr_edge.runtime.image import Patches
from fgr_edge.runtime.vision import ImageEmbeds

_STRIDE = 97  # pixels compared first: pictures that differ mostly do so there


@dataclass(slots=True)
class LastPicture:
    """One picture, or none yet.

    Attributes:
        kept: whether to compare at all: otherwise every picture is a new one.
        number: of the last picture, from 1.
    """

    kept: bool
    number: int = 0
    _patches: Patches | None = None
    _embeds: ImageEmbeds | None = None

    def embeds_of(self, patches: Patches) -> ImageEmbeds | None:
        """What vision made of these patches, where they are the last picture's, pixel by pixel."""
        last = self._patches
        if last is None or last.grid != patches.grid:
            return None
        for step in (_STRIDE, 1):
            if not np.array_equal(last.pixels.reshape(-1)[::step], patches.pixels.reshape(-1)[::step]):
                return None
        return self._embeds

    def take(self, patches: Patches | None, embeds: ImageEmbeds) -> int:
        """The number of a picture that is being read; `embeds_of` its own object is how it is known again."""
        if not self.kept:
            self.number += 1
        elif embeds is not self._embeds:
            self.number += 1
            self._patches, self._embeds = patches, embeds
        return self.number
