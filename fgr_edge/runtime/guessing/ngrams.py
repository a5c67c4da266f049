"""Which token followed which, counted for contexts of several lengths: the model's habits, learned as it writes.

In: token ids, text after text. Out: how often each token followed a context. Bounded: contexts seen once and long ago
are forgotten first, and the same texts in the same order always leave the same table. Knows tokens; no text, no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

LENGTHS = (8, 4, 2, 1)  # tokens; the longest decides, where it was seen. More lengths guess no better, and cost time
ORDER = max(LENGTHS)
MOST_CONTEXTS = 1 << 18  # about 30 MB when full; nano's thoughts fill a hundredth of it
KEPT_SHARE = 0.75  # of the contexts, when there are too many
SELDOM = 4  # times
_SHIFT = 24  # a context with one successor is one integer: count << 24 | token
_TOKEN = (1 << _SHIFT) - 1
_NOTHING: Mapping[int, int] = {}


class NgramTable:
    """Counts of successors.

    Args:
        most: contexts that are kept.

    Attributes:
        contexts: what is known of each, by its key; see `after`.
        changed: keys of contexts that got a successor which they had seldom; whoever reads them clears them.
    """

    def __init__(self, most: int = MOST_CONTEXTS) -> None:
        self._most = most
        self.contexts: dict[int, int | dict[int, int]] = {}
        self.changed: list[int] = []

    def __len__(self) -> int:
        """Contexts."""
        return len(self.contexts)

    def add(self, ids: Sequence[int], start: int = 1) -> int:
        """Count the tokens ids[start:], each after those before it; returns how many the longest contexts knew."""
        known = 0
        for place in range(max(1, start), len(ids)):
            known += self.count(tuple(ids[max(0, place - ORDER) : place]), ids[place])
        if len(self.contexts) > self._most:
            self._forget()
        return known

    def count(self, before: tuple[int, ...], token: int) -> bool:
        """Count one token after up to `ORDER` others; whether the longest context knew it.

        Shorter contexts count it where the longer one did not know it: so they say what comes after something new
        (the update exclusion of Moffat, 1990), and little is to be done where texts recur.
        """
        contexts = self.contexts
        for length in LENGTHS:
            if length > len(before):
                continue
            key = hash(before[-length:])  # of a tuple of integers: the same in every process
            found = contexts.get(key)
            if found is None:
                contexts[key] = 1 << _SHIFT | token
            elif type(found) is dict:
                count = found.get(token, 0)
                found[token] = count + 1
                if count:
                    if count < SELDOM:
                        self.changed.append(key)
                    return length == ORDER
            elif found & _TOKEN == token:  # type: ignore[operator]
                contexts[key] = found + (1 << _SHIFT)  # type: ignore[operator]
                if found >> _SHIFT < SELDOM:  # type: ignore[operator]
                    self.changed.append(key)
                return length == ORDER
            else:
                contexts[key] = {found & _TOKEN: found >> _SHIFT, token: 1}  # type: ignore[operator]
            self.changed.append(key)
        return False

    def after(self, key: int) -> Mapping[int, int]:
        """Successors of one context, the hash of its tuple, and their counts; none of one that is not known."""
        found = self.contexts.get(key)
        if found is None:
            return _NOTHING
        if type(found) is dict:
            return found
        return {found & _TOKEN: found >> _SHIFT}  # type: ignore[operator]

    def only_after(self, key: int) -> tuple[int, int] | None:
        """The only successor of a context that is known, and its count; None where there are more."""
        found = self.contexts[key]
        return None if type(found) is dict else (found & _TOKEN, found >> _SHIFT)  # type: ignore[operator]

    def _forget(self) -> None:
        """Drop the oldest contexts: first those seen once, then any."""
        keep = int(KEPT_SHARE * self._most)
        for candidates in (self._seen_once(), iter(tuple(self.contexts))):
            for key in candidates:
                if len(self.contexts) <= keep:
                    return
                del self.contexts[key]

    def _seen_once(self) -> Iterator[int]:
        once = [key for key, found in self.contexts.items() if type(found) is int and found >> _SHIFT == 1]
        return iter(once)
