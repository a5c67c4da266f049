"""What the tokens of a prompt are, one number each: equal numbers in equal places have equal keys and values.

In: two prompts. Out: how many tokens they begin with alike, so that a cache that holds one need not read them again.
Knows numbers and positions; no embeddings, no pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

from fgr_edge.runtime.rotary import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class KnownPrefix:
    """Of a prompt of S tokens.

    Attributes:
        what: [S] int64: of text its token, of a picture's tokens a number below 0 that no other picture has.
        positions: [3, S], rotary positions.
    """

    what: IntArray
    positions: IntArray

    @property
    def before_picture(self) -> int:
        """Tokens of text that come before the picture; 0 without one."""
        return int((self.what < 0).argmax())

    def shared(self, other: KnownPrefix | None) -> int:
        """Tokens that both begin with."""
        if other is None:
            return 0
        count = min(len(self.what), len(other.what))
        same = self.what[:count] == other.what[:count]
        same &= (self.positions[:, :count] == other.positions[:, :count]).all(axis=0)
        return count if same.all() else int(same.argmin())

    def before(self, length: int) -> KnownPrefix | None:
        """The first `length` tokens; None where there are none."""
        if length >= len(self.what):
            return self
        return KnownPrefix(self.what[:length], self.positions[:, :length]) if length else None
