"""labels.json: the classes that a bundle was exported with, and their token ids.

    {"version": 2, "labels": [rows of `LabelSet.to_json`], "tokenizer_sha256": hex,
     "compiled": {key: [[token ids], ...]}}

`compiled` holds, under each key, the token ids of every one of `LabelSet.forms`, in their order, so that a device
encodes nothing; what a key means is for those to say who ask. Ids mean something to one tokenizer only, so its digest
stands beside them. The older `{"labels": [names]}` is read too: it has nothing compiled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fgr_edge.errors import LabelError
from fgr_edge.runtime.labels import LabelSet

VERSION = 2
_AGAIN = "export the bundle again"


@dataclass(frozen=True, slots=True)
class StoredLabels:
    """A label set and what has been compiled of it.

    Attributes:
        labels: the classes.
        compiled: by key, the token ids of each of `labels.forms`, in their order.

    Raises:
        LabelError: a compiled list is not one sequence of token ids a form.
    """

    labels: LabelSet
    compiled: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        forms = self.labels.forms
        for key, sequences in self.compiled.items():
            if not isinstance(sequences, Sequence) or len(sequences) != len(forms):
                found = f"{len(sequences)} sequences" if isinstance(sequences, Sequence) else "no list"
                raise LabelError(f"compiled labels {key!r} are {found}, expected {len(forms)}, one a name or synonym")
            for (text, _), ids in zip(forms, sequences, strict=True):
                if not isinstance(ids, Sequence) or not ids or not all(type(i) is int and i >= 0 for i in ids):
                    raise LabelError(f"compiled label {text!r} under {key!r} is {str(ids)[:60]}, expected token ids")

    def to_json(self, tokenizer_sha256: str) -> str:
        """The text of labels.json, for a bundle whose tokenizer.json has that digest."""
        value = {
            "version": VERSION,
            "labels": self.labels.to_json(),
            "tokenizer_sha256": tokenizer_sha256,
            "compiled": {key: [list(ids) for ids in sequences] for key, sequences in self.compiled.items()},
        }
        return json.dumps(value, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, value: object, tokenizer_sha256: str | None, vocab: int) -> StoredLabels:
        """Read what labels.json holds.

        Args:
            value: its parsed content.
            tokenizer_sha256: of the bundle's tokenizer.json; None where the bundle has none.
            vocab: number of tokens that the bundle's decoder knows.

        Raises:
            LabelError: it is not written as above, by a newer version, or for another tokenizer.
        """
        if not isinstance(value, Mapping) or "labels" not in value:
            raise LabelError(f'this is not {{"labels": [names]}}; {_AGAIN}')
        version = value.get("version", 1)
        if type(version) is not int or not 1 <= version <= VERSION:
            raise LabelError(f"version {version!r} of stored labels is not known, expected {VERSION}; update fgr-edge")
        labels = LabelSet.from_json(value["labels"])
        if version == 1:
            return cls(labels)
        found = value.get("tokenizer_sha256")
        if not isinstance(found, str) or found != tokenizer_sha256:
            raise LabelError(
                f"these are the labels of another bundle: their tokenizer has SHA-256 {str(found)[:12]}…, this "
                f"bundle's has {str(tokenizer_sha256)[:12]}…; {_AGAIN} with --labels"
            )
        compiled = value.get("compiled", {})
        if not isinstance(compiled, Mapping):
            raise LabelError(f"'compiled' is a {type(compiled).__name__}, expected an object of lists; {_AGAIN}")
        stored = cls(labels, compiled)
        outside = next((i for ids in _all_ids(stored) for i in ids if i >= vocab), None)
        if outside is not None:
            raise LabelError(f"compiled labels hold token {outside}, expected ids below {vocab}; {_AGAIN}")
        return stored


def _all_ids(stored: StoredLabels) -> Iterator[Sequence[int]]:
    for sequences in stored.compiled.values():
        yield from sequences
