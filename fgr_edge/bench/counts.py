"""Lists of counts on a command line, spelled as llama-bench spells them.

`512`, `128,256`, and ranges with their last number: `1-4`, `128-512+128` in steps, `1-8*2` in powers.
"""

from __future__ import annotations

import re

from fgr_edge.errors import ConfigError

MOST = 64  # counts of one option
_PART = re.compile(r"([0-9]+)(?:-([0-9]+)(?:([+*])([0-9]+))?)?")


def parse_counts(text: str, option: str) -> tuple[int, ...]:
    """Counts in the order given, each once.

    Args:
        option: named in messages.

    Raises:
        ConfigError: it is not spelled so, or the list is too long.
    """
    counts: dict[int, None] = {}
    for part in text.split(","):
        for count in _counts(part.strip(), option):
            counts[count] = None
            if len(counts) > MOST:
                raise ConfigError(f"{option} {text!r} makes over {MOST} counts; give fewer, or larger steps")
    return tuple(counts)


def _counts(part: str, option: str) -> range | list[int]:
    found = _PART.fullmatch(part)
    if found is None:
        raise ConfigError(
            f"{option} holds {part!r}; expected a whole number, a list (128,256) or a range (1-4, 128-512+128, 1-8*2)"
        )
    first = int(found[1])
    last = first if found[2] is None else int(found[2])
    sign, step = found[3] or "+", int(found[4] or 1)
    if last < first or step < (2 if sign == "*" else 1) or (sign == "*" and first == 0):
        raise ConfigError(f"{option} holds {part!r}, a range that does not rise; expected for example 128-512+128")
    if sign == "+":
        return range(first, last + 1, step)
    powers = [first]
    while powers[-1] * step <= last:
        powers.append(powers[-1] * step)
    return powers
