"""Which token followed which, counted for contexts of several lengths: the model's habits, learned as it writes.

In: token ids, text after text. Out: how often each token followed a context. Bounded: contexts seen once and long ago
are forgotten first, and the same texts in the same order always leave the same table. Knows tokens; no text, no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

LENGTHS = frozenset((1, 2, 3, 4, 6, 9, 14))  # tokens; the long ones tell sentences apart that share a phrase
ORDER = max(LENGTHS)
MOST_CONTEXTS = 1 << 18  # about 30 MB when full; nano's thoughts fill a hundredth of it
KEPT_SHARE = 0.75  # of the contexts, when there are too many
_SHIFT = 24  # a context with one successor is one integer: count << 24 | token
_TOKEN = (1 << _SHIFT) - 1
_NOTHING: Mapping[int, int] = {}


def context_keys(ids: Sequence[int]) -> list[int]:
    """Of as many of the last tokens as each of `LENGTHS` says, as far as there are so many."""
    key, keys = 0, []
    for length, token in enumerate(ids[: -ORDER - 1 : -1], start=1):
        key = hash((key, token))  # of integers: the same in every process
        if length in LENGTHS:
            keys.append(key)
    return keys


class NgramTable:
    """Counts of successors.

    Args:
        most: contexts that are kept.
    """

    def __init__(self, most: int = MOST_CONTEXTS) -> None:
        self._most = most
        self._next: dict[int, int | dict[int, int]] = {}

    def __len__(self) -> int:
        """Contexts."""
        return len(self._next)

    def add(self, ids: Sequence[int], start: int = 1) -> None:
        """Count the tokens ids[start:], each after those before it."""
        for i in range(max(1, start), len(ids)):
            self.count(context_keys(ids[max(0, i - ORDER) : i]), ids[i])

    def count(self, keys: Iterable[int], token: int) -> None:
        """Count one token after a context, given by its `context_keys`."""
        table = self._next
        for key in keys:
            found = table.get(key)
            if found is None:
                table[key] = 1 << _SHIFT | token
            elif type(found) is dict:
                found[token] = found.get(token, 0) + 1
            elif found & _TOKEN == token:  # type: ignore[operator]
                table[key] = found + (1 << _SHIFT)  # type: ignore[operator]
            else:
                table[key] = {found & _TOKEN: found >> _SHIFT, token: 1}  # type: ignore[operator]
        if len(table) > self._most:
            self._forget()

    def after(self, key: int) -> Mapping[int, int]:
        """Successors of one context and their counts; none of a context that is not known."""
        found = self._next.get(key)
        if found is None:
            return _NOTHING
        if type(found) is dict:
            return found
        return {found & _TOKEN: found >> _SHIFT}  # type: ignore[operator]

    def copy(self) -> NgramTable:
        """Another table of the same counts."""
        made = NgramTable(self._most)
        made._next = {key: dict(found) if type(found) is dict else found for key, found in self._next.items()}
        return made

    def _forget(self) -> None:
        """Drop the oldest contexts: first those seen once, then any."""
        keep = int(KEPT_SHARE * self._most)
        for candidates in (self._seen_once(), iter(tuple(self._next))):
            for key in candidates:
                if len(self._next) <= keep:
                    return
                del self._next[key]

    def _seen_once(self) -> Iterator[int]:
        once = [key for key, found in self._next.items() if type(found) is int and found >> _SHIFT == 1]
        return iter(once)
