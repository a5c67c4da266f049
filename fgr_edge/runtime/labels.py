"""Class names: read and checked, and as a trie of token ids that decoding walks.

A file of names has one name a line; empty lines and lines that start with `#` are skipped.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import LabelError

MAX_NAME_LENGTH = 200  # characters


def check_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Strip and check class names.

    Raises:
        LabelError: no name at all, an empty name, a duplicate (case and spacing apart), a name over 200 characters or
            with control characters in it.
    """
    labels: list[str] = []
    seen: dict[str, str] = {}
    for position, raw in enumerate(names, 1):
        if not isinstance(raw, str):
            raise LabelError(f"label {position} is a {type(raw).__name__}, expected text")
        name = unicodedata.normalize("NFC", raw.strip())
        if not name:
            raise LabelError(f"label {position} is empty; expected a class name")
        if len(name) > MAX_NAME_LENGTH:
            raise LabelError(
                f"label {position} has {len(name)} characters, expected at most {MAX_NAME_LENGTH}: {name[:40]!r}…"
            )
        odd = next((c for c in name if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")), None)
        if odd is not None:
            raise LabelError(
                f"label {position} ({name!r}) holds the character U+{ord(odd):04X}, which no name has; remove it"
            )
        folded = normalized(name)
        if folded in seen:
            raise LabelError(f"labels {seen[folded]!r} and {name!r} are the same name; expected each class once")
        seen[folded] = name
        labels.append(name)
    if not labels:
        raise LabelError("the list of labels is empty; expected one class name a line")
    return tuple(labels)


def read_labels(path: Path) -> tuple[str, ...]:
    """Read class names from a UTF-8 text file, one a line.

    Raises:
        LabelError: the file cannot be read, or see `check_labels`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise LabelError(f"{path} does not exist; expected a text file with one class name a line") from error
    except (UnicodeDecodeError, OSError) as error:
        raise LabelError(f"{path} cannot be read as UTF-8 text ({error}); expected one class name a line") from error
    lines = (line.strip() for line in text.split("\n"))
    try:
        return check_labels(line for line in lines if line and not line.startswith("#"))
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from error


def normalized(name: str) -> str:
    """What counts as the same name: case, spacing and underscores apart."""
    return " ".join(name.replace("_", " ").casefold().split())


@dataclass(slots=True)
class _Node:
    children: dict[int, _Node] = field(default_factory=dict)
    label: int | None = None


class LabelTrie:
    """Token sequences of all labels, each ended by a closing token, merged by common beginnings.

    Args:
        sequences: token ids of each label, closing token included; no sequence may begin with another.
    """

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self._root = _Node()
        for index, tokens in enumerate(sequences):
            node = self._root
            for token in tokens:
                node = node.children.setdefault(token, _Node())
                if node.label is not None:
                    break
            if node.label is not None or node.children:
                raise LabelError(
                    f"label {index + 1} cannot be told from another by its tokens; expected names that differ"
                )
            node.label = index

    def greedy(
        self, logits: npt.NDArray[np.float32], extend: Callable[[Sequence[int]], npt.NDArray[np.float32]]
    ) -> TrieChoice:
        """Walk from the root, taking the likeliest child each time.

        Args:
            logits: [V], at the root.
            extend: appends tokens to the sequence and returns the logits [V] after the last.

        Returns:
            The label reached, its tokens, and the product of the chosen children's shares among their siblings. A token
            that has no sibling is certain and costs no step before the next choice.
        """
        node, log_probability = self._root, 0.0
        tokens: list[int] = []
        pending: list[int] = []
        while node.label is None:
            children = list(node.children)
            if len(children) > 1:
                if pending:
                    logits = extend(pending)
                tokens, pending = tokens + pending, []
            best = 0
            if len(children) > 1:
                scores = logits[children].astype(np.float64)
                best = int(scores.argmax())
                log_probability -= float(np.log(np.exp(scores - scores[best]).sum()))
            pending.append(children[best])
            node = node.children[children[best]]
        return TrieChoice(node.label, tuple(tokens + pending), float(np.exp(log_probability)))


@dataclass(frozen=True, slots=True)
class TrieChoice:
    """A label's index, its tokens (closing token included) and its probability along the greedy path."""

    label: int
    tokens: tuple[int, ...]
    probability: float
