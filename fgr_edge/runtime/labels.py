"""Class names: what a class is called and what lies above it.

In: rows of name, parent, synonyms and description. Out: a checked `LabelSet` of the classes that can be answered, with
the levels above them. Reading files is `label_files`' part; it knows nothing of models.

Names are brought into one Unicode form (NFC), without spaces around them. Two names are the same when they differ in
case, spacing and underscores alone. Rules of the tree:

- A name that other rows carry as their parent is an inner node, not an answer, whether it has a row of its own or not.
- A row that is its own parent (data sets whose coarse and fine class share a name, as "Banana" in Grocery Store) has no
  level above. Where other rows have that parent too it is refused: the answer could mean the class or the level above.
- A synonym is a text of its own, added up with the class's name: it may differ from the name in case alone. One that
  repeats the class's name, or another synonym of it, letter by letter counts once. It may repeat an inner node's name.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fgr_edge.errors import LabelError
from fgr_edge.runtime.label_files import KEYS, read_text, rows_of

MAX_NAME_LENGTH = 200  # characters
MAX_LEVELS = 64  # above a class; the longest ranked taxonomies have about 30


@dataclass(frozen=True, slots=True)
class Label:
    """One row: a class, or a level above classes.

    Attributes:
        name: what is answered.
        parent: name of the level above; None at the top.
        synonyms: other texts that mean the same; their probabilities add up with the name's.
        description: free text, may have several lines.

    Raises:
        LabelError: a text is empty, over 200 characters or has control characters in it (see the module).
    """

    name: str
    parent: str | None = None
    synonyms: tuple[str, ...] = ()
    description: str | None = None

    def __post_init__(self) -> None:
        name = clean_name(self.name, "the name")
        object.__setattr__(self, "name", name)
        if self.parent is not None:
            object.__setattr__(self, "parent", clean_name(self.parent, f"the parent of {name!r}"))
        if self.synonyms:
            object.__setattr__(self, "synonyms", _clean_synonyms(self.synonyms, name))
        if self.description is not None:
            object.__setattr__(self, "description", _clean_description(self.description, name))


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The classes that can be answered, and the levels above them; made from the rows of both, in any order.

    Attributes:
        labels: the classes, in the order of their rows; what other rows have as a parent is not among them.
        inner: the rows of inner nodes.
        names: of the classes.
        forms: every text that names a class, name first and then its synonyms, with the index of the class.
        groups: every inner name with the indices of all classes below it.

    Raises:
        LabelError: no rows; two rows, or synonyms of two classes, that are the same name; parents that go round.
    """

    labels: tuple[Label, ...]
    inner: tuple[Label, ...] = field(init=False)
    names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    forms: tuple[tuple[str, int], ...] = field(init=False, repr=False, compare=False)
    groups: dict[str, tuple[int, ...]] = field(init=False, repr=False, compare=False)
    _above: dict[str, tuple[str, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rows = tuple(self.labels)
        if not rows:
            raise LabelError("the list of labels is empty; expected one class name a line")
        same = find_same(rows)
        if same is not None:
            raise LabelError(
                f"labels {same[0][1]!r} and {same[1][1]!r} are the same name; expected each name and synonym once"
            )
        labels, inner = _split(rows)
        above = _levels(labels, inner)
        groups: dict[str, list[int]] = {}
        for index, label in enumerate(labels):
            for name in above.get(label.parent or "", ()):
                groups.setdefault(name, []).append(index)
        forms = ((text, index) for index, label in enumerate(labels) for text in (label.name, *label.synonyms))
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "inner", inner)
        object.__setattr__(self, "names", tuple(label.name for label in labels))
        object.__setattr__(self, "forms", tuple(forms))
        object.__setattr__(self, "groups", {name: tuple(groups[name]) for name in sorted(groups)})
        object.__setattr__(self, "_above", above)

    @classmethod
    def from_names(cls, names: Iterable[str]) -> LabelSet:
        """Classes without levels or synonyms.

        Raises:
            LabelError: as `LabelSet`, with the position of the name.
        """
        return cls(tuple(Label(clean_name(raw, f"label {position}")) for position, raw in enumerate(names, 1)))

    @classmethod
    def from_json(cls, rows: object) -> LabelSet:
        """The reverse of `to_json`.

        Raises:
            LabelError: as `LabelSet`, or a row is neither a name nor an object with the keys of `Label`.
        """
        if not isinstance(rows, list):
            raise LabelError(f"the labels are a {type(rows).__name__}, expected a list of names or of objects")
        return cls(tuple(label_from_json(row, f"label {position}") for position, row in enumerate(rows, 1)))

    def to_json(self) -> list[str | dict[str, Any]]:
        """Rows of `labels` and `inner`: a name, or an object with the keys of `Label` that are set."""
        return [_row_json(label) for label in (*self.labels, *self.inner)]

    def __len__(self) -> int:
        return len(self.labels)

    def ancestors(self, index: int) -> tuple[str, ...]:
        """Names of the levels above class `index`, nearest first."""
        parent = self.labels[index].parent
        return () if parent is None else self._above[parent]

    @property
    def sha256(self) -> str:
        """Digest of names, parents and synonyms in hex; neither order nor descriptions change it."""
        rows = sorted(
            json.dumps([row.name, row.parent, sorted(row.synonyms)], ensure_ascii=True)
            for row in (*self.labels, *self.inner)
        )
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def read_labels(path: Path) -> LabelSet:
    """Read class names from a file: text, .csv, .tsv, .json or .toml (see `label_files`).

    Raises:
        LabelError: the file cannot be read, or see `LabelSet`; with the line.
        MissingExtraError: a .toml file on Python 3.10 without `tomli`.
    """
    labels: list[Label] = []
    places: list[str] = []
    text = read_text(path)
    try:
        for place, row in rows_of(text, path.suffix):
            labels.append(label_from_json(row, place))
            places.append(place)
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from error
    try:
        return LabelSet(tuple(labels))
    except LabelError as error:
        same = find_same(labels)
        if same is None:
            raise LabelError(f"{path}: {error}") from error
        texts = " and ".join(f"{text!r} ({places[row]})" for row, text in same)
        raise LabelError(f"{path}: labels {texts} are the same name; expected each name and synonym once") from error


def compile_forms(
    forms: Iterable[tuple[str, int]],
    encode: Callable[[str], Sequence[int]],
    lead: str,
    tail: str,
    closing: Sequence[int] = (),
) -> list[list[int]]:
    """Token ids of `lead + text + tail` and `closing`, for each of `LabelSet.forms`, in their order."""
    return [[*encode(lead + text + tail), *closing] for text, _ in forms]


def normalized(name: str) -> str:
    """What counts as the same name: case, spacing and underscores apart."""
    return " ".join(name.replace("_", " ").casefold().split())


def clean_name(raw: object, what: str) -> str:
    """A name in NFC, without spaces around it; `what` names it in messages.

    Raises:
        LabelError: it is no text, empty, over 200 characters or has control characters in it.
    """
    if not isinstance(raw, str):
        raise LabelError(f"{what} is a {type(raw).__name__}, expected text")
    name = unicodedata.normalize("NFC", raw.strip())
    if not name:
        raise LabelError(f"{what} is empty; expected a class name")
    if len(name) > MAX_NAME_LENGTH:
        raise LabelError(f"{what} has {len(name)} characters, expected at most {MAX_NAME_LENGTH}: {name[:40]!r}…")
    if not name.isprintable():  # a quick look first: 100,000 names are read in about a second
        odd = next((c for c in name if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")), None)
        if odd is not None:
            raise LabelError(f"{what} ({name!r}) holds the character U+{ord(odd):04X}, which no name has; remove it")
    return name


def find_same(rows: Sequence[Label]) -> tuple[tuple[int, str], tuple[int, str]] | None:
    """The first two texts that name two rows but are the same name, each with its row; None where there are none.

    Names of all rows count, and synonyms of classes; a synonym may repeat an inner node's name.
    """
    inner = _inner_keys(rows)
    seen: dict[str, tuple[int, str]] = {}
    for index, row in enumerate(rows):
        first = seen.setdefault(normalized(row.name), (index, row.name))
        if first[0] != index:
            return first, (index, row.name)
    for key in inner:
        seen.pop(key, None)
    for index, row in enumerate(rows):
        if row.synonyms and normalized(row.name) not in inner:
            for synonym in row.synonyms:
                first = seen.setdefault(normalized(synonym), (index, synonym))
                if first[0] != index:
                    return first, (index, synonym)
    return None


def label_from_json(row: object, what: str) -> Label:
    """A row of a JSON or TOML file: a name, or an object with the keys of `Label`; `what` names it in messages.

    Raises:
        LabelError: it is neither, or see `Label`.
    """
    if isinstance(row, str):
        return Label(clean_name(row, what))
    if not isinstance(row, Mapping):
        raise LabelError(f"{what} is a {type(row).__name__}, expected a name or an object with 'name'")
    unknown = sorted(set(row) - set(KEYS))
    if unknown or "name" not in row:
        found = f"the key {unknown[0]!r}" if unknown else "no key 'name'"
        raise LabelError(f"{what} has {found}; expected 'name' and, if wanted, {', '.join(map(repr, KEYS[1:]))}")
    synonyms = row.get("synonyms", ())
    if not isinstance(synonyms, (list, tuple)):
        raise LabelError(f"{what} has synonyms that are a {type(synonyms).__name__}, expected a list of texts")
    try:
        return Label(row["name"], row.get("parent"), tuple(synonyms), row.get("description"))
    except LabelError as error:
        raise LabelError(f"{what}: {error}") from error


def _row_json(label: Label) -> str | dict[str, Any]:
    row = {"parent": label.parent, "synonyms": list(label.synonyms), "description": label.description}
    given = {key: value for key, value in row.items() if value}
    return {"name": label.name, **given} if given else label.name


def _clean_synonyms(raw: Iterable[str], name: str) -> tuple[str, ...]:
    if isinstance(raw, str):
        raise LabelError(f"the synonyms of {name!r} are one text, expected a list of texts")
    texts = [clean_name(text, f"synonym {position} of {name!r}") for position, text in enumerate(raw, 1)]
    return tuple(text for text in dict.fromkeys(texts) if text != name)


def _clean_description(raw: object, name: str) -> str | None:
    if not isinstance(raw, str):
        raise LabelError(f"the description of {name!r} is a {type(raw).__name__}, expected text")
    try:
        raw.encode()
    except UnicodeEncodeError as error:
        raise LabelError(f"the description of {name!r} is not Unicode text ({error}); write it again") from error
    return raw.strip() or None


def _inner_keys(rows: Iterable[Label]) -> set[str]:
    """Normalized names that other rows have as their parent."""
    pairs = ((normalized(row.parent), row.name) for row in rows if row.parent is not None)
    return {parent for parent, name in pairs if parent != normalized(name)}


def _split(rows: Sequence[Label]) -> tuple[tuple[Label, ...], tuple[Label, ...]]:
    """Classes and inner nodes. A parent is spelled as its own row, or else as the spelling that sorts first."""
    inner_keys = _inner_keys(rows)
    spelling: dict[str, str] = {}
    for parent in sorted({row.parent for row in rows if row.parent is not None}):
        spelling.setdefault(normalized(parent), parent)
    spelling.update((key, row.name) for row in rows if (key := normalized(row.name)) in inner_keys)
    labels: list[Label] = []
    inner: list[Label] = []
    for row in rows:
        key = normalized(row.name)
        above = None if row.parent is None else normalized(row.parent)
        if above == key:
            if key in inner_keys:
                raise LabelError(
                    f"class {row.name!r} is its own parent, and other classes have that parent too: the answer could "
                    f"mean either; give the parent another name, such as 'Any {row.name}' (no model reads it)"
                )
            row = replace(row, parent=None)
        elif above is not None and spelling[above] != row.parent:
            row = replace(row, parent=spelling[above])
        (inner if key in inner_keys else labels).append(row)
    return tuple(labels), tuple(inner)


def _levels(labels: Iterable[Label], inner: Iterable[Label]) -> dict[str, tuple[str, ...]]:
    """Every inner name with itself and the names above it, nearest first."""
    parent_of = {row.name: row.parent for row in inner if row.parent is not None}
    _check_no_cycle(parent_of)
    levels: dict[str, tuple[str, ...]] = {}
    for start in {row.parent for row in (*labels, *inner) if row.parent is not None}:
        name: str | None = start
        names: list[str] = []
        while name is not None:
            names.append(name)
            name = parent_of.get(name)
            if len(names) > MAX_LEVELS:
                raise LabelError(f"more than {MAX_LEVELS} levels lie above a class, from {start!r} on; expected fewer")
        levels[start] = tuple(names)
    return levels


def _check_no_cycle(parent_of: Mapping[str, str]) -> None:
    done: set[str] = set()
    for start in parent_of:
        path: dict[str, None] = {}
        name = start
        while name in parent_of and name not in done:
            if name in path:
                names = list(path)
                ring = [*names[names.index(name) :], name]
                shown = " -> ".join(ring if len(ring) <= 8 else [*ring[:4], "…", *ring[-3:]])
                raise LabelError(f"the parents of the labels go round: {shown}; remove one of these parents")
            path[name] = None
            name = parent_of[name]
        done.update(path)
