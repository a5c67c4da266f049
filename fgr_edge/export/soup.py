"""Model soups: checkpoints fine-tuned from one model, averaged while they stream (Wortsman et al. 2022).

In: opened checkpoints, adapters merged or not; for the greedy soup, a function that measures the accuracy of one. Out:
a checkpoint whose tensors are means, computed row by row when asked for, and what went into it.

    uniform    the mean of all
    greedy     the best alone, then the others by their accuracy alone: one is kept if accuracy does not fall with it

Means are computed in float32 and rounded once to the dtype that the first kept member stores; config.json, tokenizer
and preprocessing are that member's. In memory are the rows of one member and their sum.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import CheckpointError, ConfigError
from fgr_edge.export.adapters import CONFIG, with_adapter
from fgr_edge.export.architectures import Family
from fgr_edge.export.checkpoint import Checkpoint, json_object
from fgr_edge.export.lazy_tensor import FLOATS, LazyTensor, VirtualTensor
from fgr_edge.export.model import Model, open_model
from fgr_edge.export.stored_names import HEAD_NAMES, stored_name

log = logging.getLogger(__name__)

_NAMED_AT_MOST = 3  # tensors or settings in a message


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One checkpoint that was given.

    Attributes:
        source: its folder, and what was laid over it.
        digest: of its config and weights.
        kept: whether it is in the soup.
        accuracy: alone; None where none was measured.
        accuracy_with_it: of the soup so far with it, whether it was kept then or not.
    """

    source: str
    digest: str
    kept: bool
    accuracy: float | None = None
    accuracy_with_it: float | None = None


@dataclass(frozen=True, slots=True)
class Soup:
    """An averaged checkpoint.

    Attributes:
        checkpoint: the mean of the ingredients that were kept; where only one was, that one.
        ingredients: in the order in which they were tried.
    """

    checkpoint: Checkpoint
    ingredients: tuple[Ingredient, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """For the manifest's provenance."""
        return [asdict(ingredient) for ingredient in self.ingredients]


def open_member(folder: Path, base: Checkpoint) -> Checkpoint:
    """The checkpoint in `folder`; where there is an adapter, that adapter merged into `base`.

    Raises:
        CheckpointError: see `Checkpoint.open` and `with_adapter`.
    """
    return with_adapter(base, folder) if (folder / CONFIG).is_file() else Checkpoint.open(folder)


def uniform_soup(checkpoints: Sequence[Checkpoint]) -> Soup:
    """The mean of all checkpoints.

    Raises:
        ConfigError: there are fewer than two, or the same one twice.
        CheckpointError: they are not of one architecture and one vocabulary, or one cannot be exported by itself.
    """
    members = _members(checkpoints)
    kept = tuple(Ingredient(member.source, member.digest, kept=True) for member in members)
    return Soup(_mean(members), kept)


def greedy_soup(checkpoints: Sequence[Checkpoint], accuracy: Callable[[Checkpoint], float]) -> Soup:
    """The mean of those checkpoints that do not make it worse (Wortsman et al. 2022, Recipe 1).

    Args:
        accuracy: from 0 to 1, of a checkpoint on pictures; called 2 n - 1 times for n checkpoints.

    Raises:
        ConfigError, CheckpointError: see `uniform_soup`; before `accuracy` is called.
    """
    members = _members(checkpoints)
    alone = [_measured(accuracy, member.checkpoint, member.source) for member in members]
    first, *others = sorted(range(len(members)), key=lambda index: -alone[index])
    kept, best = [members[first]], alone[first]
    ingredients = [Ingredient(members[first].source, members[first].digest, True, best, best)]
    for index in others:
        member = members[index]
        found = _measured(accuracy, _mean([*kept, member]), f"the soup with {member.source}")
        keep = found >= best
        ingredients.append(Ingredient(member.source, member.digest, keep, alone[index], found))
        if keep:
            kept, best = [*kept, member], found
    log.info("greedy soup: %d of %d checkpoints kept, accuracy %.4f", len(kept), len(members), best)
    return Soup(_mean(kept), tuple(ingredients))


def check_members(checkpoints: Sequence[Checkpoint]) -> list[Model]:
    """Refuse what can make no soup; reads headers, configs and tokenizers, no digest. Both soups begin with it.

    Raises:
        ConfigError, CheckpointError: see `uniform_soup`; that one is given twice is found later, by its digest.
    """
    if len(checkpoints) < 2:
        raise ConfigError(f"a soup of {len(checkpoints)} checkpoint(s) was asked for, expected at least two")
    models = [open_model(checkpoint) for checkpoint in checkpoints]
    for model in models:
        _check_averages(model.checkpoint)
    for model in models[1:]:
        _check_same_architecture(models[0], model)
        _check_same_tokens(models[0].checkpoint, model.checkpoint)
        _check_same_tensors(models[0], model)
    return models


def _measured(accuracy: Callable[[Checkpoint], float], checkpoint: Checkpoint, what: str) -> float:
    found = accuracy(checkpoint)
    log.info("accuracy of %s: %.4f", what, found)
    return found


@dataclass(frozen=True, slots=True)
class _Member:
    """A checkpoint that was found fit to be averaged."""

    model: Model
    source: str
    digest: str

    @property
    def checkpoint(self) -> Checkpoint:
        return self.model.checkpoint

    @property
    def family(self) -> Family:
        return self.model.family

    @property
    def head(self) -> LazyTensor:
        """The output projection; the embedding where it is tied."""
        return self.model.head.parts[0]


def _members(checkpoints: Sequence[Checkpoint]) -> list[_Member]:
    models = check_members(checkpoints)
    members = [_Member(model, _source(model.checkpoint), model.checkpoint.digest()) for model in models]
    for index, member in enumerate(members):
        for earlier in members[:index]:
            if earlier.digest == member.digest:
                raise ConfigError(
                    f"{member.source} holds the same weights as {earlier.source}; expected each checkpoint once"
                )
    return members


def _source(checkpoint: Checkpoint) -> str:
    return ", ".join((str(checkpoint.path), *checkpoint.notes))


def _check_averages(checkpoint: Checkpoint) -> None:
    for name in checkpoint.names():
        tensor = checkpoint.tensor(name)
        if tensor.dtype not in FLOATS or not tensor.shape:
            raise CheckpointError(
                f"{checkpoint.path} stores {name!r} as {tensor.dtype} {list(tensor.shape)}, which cannot be averaged; "
                f"expected {', '.join(FLOATS)}: save the model in bfloat16"
            )


def _check_same_architecture(first: Model, other: Model) -> None:
    if first.family.name != other.family.name:
        raise CheckpointError(
            f"{other.checkpoint.path} is a {other.family.name}, {first.checkpoint.path} a {first.family.name}; a soup "
            "needs checkpoints fine-tuned from one model"
        )
    different = [
        f"{key} {mine!r} and {theirs!r}"
        for part in ("decoder_dims", "vision_dims")
        for (key, mine), theirs in zip(
            asdict(getattr(first, part)).items(), asdict(getattr(other, part)).values(), strict=True
        )
        if mine != theirs
    ]
    if different:
        raise CheckpointError(
            f"{first.checkpoint.path} and {other.checkpoint.path} differ in {', '.join(different[:_NAMED_AT_MOST])}; a "
            "soup needs checkpoints fine-tuned from one model"
        )


def _check_same_tokens(first: Checkpoint, other: Checkpoint) -> None:
    if first.tokenizer_path.read_bytes() == other.tokenizer_path.read_bytes():
        return
    if _tokens(first) != _tokens(other):
        raise CheckpointError(
            f"{first.tokenizer_path} and {other.tokenizer_path} number tokens differently; a soup needs checkpoints "
            "with one vocabulary"
        )


def _tokens(checkpoint: Checkpoint) -> Any:
    """What must be equal: token numbers and merges. Versions of tokenizers write the rest differently."""
    file = json_object(checkpoint.tokenizer_path) or {}
    model, added = file.get("model"), file.get("added_tokens")
    if not isinstance(model, dict) or not isinstance(added, list):
        raise CheckpointError(f"{checkpoint.tokenizer_path} is no tokenizer; download the checkpoint again")
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model.get("merges") or []]
    return model.get("vocab"), merges, {item.get("content"): item.get("id") for item in added}


def _body(checkpoint: Checkpoint) -> set[str]:
    """Names of all tensors but the output projection, which some store and others tie."""
    return set(checkpoint.names()) - set(HEAD_NAMES)


def _check_same_tensors(first: Model, other: Model) -> None:
    names = _body(first.checkpoint)
    found = {name: stored_name(other.checkpoint, other.family, name) for name in sorted(names)}
    missing = [name for name, there in found.items() if there is None]
    extra = sorted(_body(other.checkpoint) - {there for there in found.values() if there is not None})
    for lacking, has, wrong in ((other, first, missing), (first, other, extra)):
        if wrong:
            more = f" and {len(wrong) - _NAMED_AT_MOST} more" if len(wrong) > _NAMED_AT_MOST else ""
            raise CheckpointError(
                f"{lacking.checkpoint.path} lacks {', '.join(map(repr, wrong[:_NAMED_AT_MOST]))}{more}, which "
                f"{has.checkpoint.path} has; a soup needs checkpoints fine-tuned from one model"
            )
    for name, there in found.items():
        if there is not None:
            other.checkpoint.tensor(there, first.checkpoint.tensor(name).shape)


def _mean(members: Sequence[_Member]) -> Checkpoint:
    first = members[0]
    if len(members) == 1:
        return first.checkpoint
    tensors: dict[str, LazyTensor] = {}
    for name in _body(first.checkpoint):
        tensors[name] = _mean_tensor(name, [_counterpart(member, name) for member in members])
    heads = [member.head for member in members]
    stored = [name for name in HEAD_NAMES if name in first.checkpoint]
    if stored or any(member.head is not member.model.embedding for member in members):
        name = stored[0] if stored else HEAD_NAMES[0]
        tensors[name] = _mean_tensor(name, heads)
    listed = "; ".join(f"{member.source}, digest {member.digest}" for member in members)
    return first.checkpoint.with_tensors(tensors, f"mean of {len(members)} checkpoints: {listed}")


def _counterpart(member: _Member, name: str) -> LazyTensor:
    there = stored_name(member.checkpoint, member.family, name)
    assert there is not None, f"{name} was found when the members were checked"
    return member.checkpoint.tensor(there)


def _mean_tensor(name: str, tensors: Sequence[LazyTensor]) -> VirtualTensor:
    def rows(start: int, stop: int) -> npt.NDArray[np.float32]:
        total = tensors[0].rows(start, stop).copy()
        for tensor in tensors[1:]:
            total += tensor.rows(start, stop)
        total /= np.float32(len(tensors))
        return total

    return VirtualTensor(name, tensors[0].shape, tensors[0].dtype, rows)
