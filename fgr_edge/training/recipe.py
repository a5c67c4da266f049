"""A training recipe: every number of a run, read from TOML and checked before anything starts."""

from __future__ import annotations

import sys
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from fgr_edge.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

Section = TypeVar("Section")


@dataclass(frozen=True, slots=True)
class RunRecipe:
    """Where the run keeps its state, where the finished checkpoint goes, and what makes it reproducible."""

    seed: int
    folder: Path
    output: Path
    threads: int


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """The photographs and the drawings; `aviary_first_seed` and up are training seeds of every species."""

    grocery: Path
    photo_px: int
    aviary_px: int
    aviary_per_species: int
    aviary_val: int


@dataclass(frozen=True, slots=True)
class NetworkRecipe:
    """Dimensions of the network and its vocabulary, and picture sizes in pixels."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    rope_theta: float
    mrope_section: tuple[int, ...]
    vision_layers: int
    vision_hidden: int
    vision_intermediate: int
    vision_heads: int
    vision_full_attention: tuple[int, ...]
    train_px: int
    use_px: int


@dataclass(frozen=True, slots=True)
class TeacherRecipe:
    """How the teacher's probe is fitted, and the weights of the losses that follow the teacher."""

    probe_views: int
    probe_decay: float
    temperature: float
    soft_labels: float
    hard_labels: float
    coarse_labels: float
    middle: float
    last: float
    pooled: float
    tap_block: int
    species: float
    attributes: float


@dataclass(frozen=True, slots=True)
class VisionRecipe:
    """The vision warm-up: batches of photographs and drawings; an epoch is every photograph once."""

    epochs: int
    batch: int
    aviary_batch: int
    lr: float
    warmup_steps: int
    weight_decay: float
    average_decay: float


@dataclass(frozen=True, slots=True)
class SftRecipe:
    """Supervised fine-tuning: first with the vision tower frozen, then all together."""

    frozen_epochs: int
    frozen_lr: float
    joint_epochs: int
    joint_lr: float
    batch: int
    aviary_batch: int
    reason_weight: float
    default_question_share: float
    warmup_steps: int
    weight_decay: float
    average_decay: float
    teacher_weight: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """One TOML file."""

    run: RunRecipe
    data: DataRecipe
    network: NetworkRecipe
    views: Any
    bird_views: Any
    teacher: TeacherRecipe
    vision: VisionRecipe
    sft: SftRecipe


def _section(kind: type[Section], table: Any, name: str) -> Section:
    if not isinstance(table, dict):
        raise ConfigError(f"[{name}] is missing from the recipe")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    unknown, absent = (
        set(table) - set(known),
        {n for n, f in known.items() if f.default is MISSING} - set(table),
    )
    if unknown or absent:
        raise ConfigError(f"[{name}]: unknown {sorted(unknown)}, missing {sorted(absent)}")
    values = {}
    for key, value in table.items():
        wanted = str(known[key].type)
        if wanted == "Path":
            value = Path(value)
        elif wanted.startswith("tuple"):
            value = tuple(value)
        elif wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if wanted in ("int", "float") and (type(value).__name__ != wanted or value < 0):
            raise ConfigError(f"[{name}] {key} = {value!r}: expected a {wanted} of at least 0")
        values[key] = value
    return kind(**values)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: there is no such file, it is not TOML, or a key is missing, unknown or of the wrong type.
    """
    from fgr_edge.training.views import ViewRecipe

    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such recipe") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    kinds: dict[str, type[Any]] = {
        "run": RunRecipe, "data": DataRecipe, "network": NetworkRecipe, "views": ViewRecipe, "bird_views": ViewRecipe,
        "teacher": TeacherRecipe, "vision": VisionRecipe, "sft": SftRecipe,
    }  # fmt: skip
    unknown = set(table) - set(kinds)
    if unknown:
        raise ConfigError(f"{path}: unknown sections {sorted(unknown)}")
    recipe = Recipe(**{name: _section(kind, table.get(name), name) for name, kind in kinds.items()})
    if recipe.network.train_px % 28 or recipe.network.use_px % 28:
        raise ConfigError("[network] train_px and use_px must be multiples of 28")
    return recipe
