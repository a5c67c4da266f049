"""Rows of a prompt, some of which an engine keeps: [S, H] float32, text on the host, a picture where vision left it.

In: an array, a buffer, where the one begins in the other. Out: slices of both, sent to the decoder's buffers. Knows
rows; not what they mean, and no engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.sessions.session import Buffer, put_rows

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class PlacedRows:
    """Rows [S, H].

    Attributes:
        text: [S, H]; what it has at `place` counts for nothing.
        kept: [M, H], wherever its engine works.
        place: rows that are those of `kept`, from its row `first` on; perhaps none.
    """

    text: Floats
    kept: Buffer
    place: slice
    first: int = 0

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, part: slice) -> PlacedRows:
        """Some rows, one after another."""
        first, last, _ = part.indices(len(self))
        start, stop = (min(max(row, first), last) for row in (self.place.start, self.place.stop))
        place = slice(start - first, stop - first)
        return PlacedRows(self.text[part], self.kept, place, self.first + max(0, first - self.place.start))

    def on_host(self) -> Floats:
        """All rows as one array; waits for those that an engine keeps."""
        whole = self.text.copy()
        put_rows(whole, self.place, self.kept, self.first)
        return whole


Rows = Floats | PlacedRows


def send(rows: Rows, buffer: Buffer) -> None:
    """Put rows [S, H] into a buffer [1, S, H] and make them visible to its engine."""
    if isinstance(rows, PlacedRows):
        buffer.array[0] = rows.text
        if rows.place.start < rows.place.stop:
            buffer.upload_around(rows.place, rows.kept, rows.first)
            return
    else:
        buffer.array[0] = rows
    buffer.upload()
