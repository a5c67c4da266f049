"""adapter_config.json of a LoRA adapter in PEFT's format: what a merge needs of it; what a merge cannot do is refused.

In: the parsed file. Out: an `AdapterConfig`. Which matrices are adapted is not read here: the names of the adapter's
tensors say it. Source: peft 0.21, `tuners/lora/config.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fgr_edge.errors import CheckpointError

MERGE_WITH_PEFT = (
    "merge it with `PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(new_folder)` and "
    "export new_folder"
)

_Number = TypeVar("_Number", int, float)

_READ = frozenset(
    ("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "init_lora_weights")
)
# How it was trained, what it was trained on, or what the names and shapes of its tensors say as well. PEFT resets
# fan_in_fan_out for torch's own linear layers, and the supported families have no others.
_WITHOUT_EFFECT = frozenset(
    (
        "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying", "eva_config",
        "exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform", "lora_bias",
        "lora_dropout", "lora_ga_config", "loftq_config", "megatron_core", "modules_to_save", "peft_version",
        "qalora_group_size", "revision", "runtime_config", "target_modules", "task_type",
    )
)  # fmt: skip
# The others change the base weights before training (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA).
_HARMLESS_INITS = (True, False, "gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What a merge needs to know.

    Attributes:
        rank: of the two factors, where `rank_pattern` says nothing else.
        alpha: numerator of the scaling, where `alpha_pattern` says nothing else.
        rank_pattern: ranks of single modules, by name or regular expression.
        alpha_pattern: the same for alpha.
        root_of_rank: scale by alpha / sqrt(rank) instead of alpha / rank (rsLoRA, Kalajdzievski 2023).
        dora: rows are scaled to trained magnitudes (DoRA, Liu et al. 2024).
        trained_on: the base model's name, "" where unknown.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    root_of_rank: bool
    dora: bool
    trained_on: str

    def rank_of(self, module: str) -> int:
        """Rank of the factors of `module`, named as in the model that was trained."""
        return _pattern_value(self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """Factor before B @ A of `module`."""
        rank, alpha = self.rank_of(module), _pattern_value(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.root_of_rank else rank)


def parse_adapter_config(config: Mapping[str, Any], where: str) -> AdapterConfig:
    """Read the parsed adapter_config.json.

    Args:
        config: the JSON object.
        where: its path, for messages.

    Raises:
        CheckpointError: it is of another method than LoRA, a value is malformed, or it asks for what a merge cannot do.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{where} has peft_type {kind!r}, expected 'LORA'; {MERGE_WITH_PEFT}")
    init = config.get("init_lora_weights", True)
    if init not in _HARMLESS_INITS:
        raise CheckpointError(
            f"{where} has init_lora_weights {init!r}, which changed the base weights before training; expected one of "
            f"{', '.join(map(str, _HARMLESS_INITS))}; {MERGE_WITH_PEFT}"
        )
    for key, value in config.items():
        if key not in _READ | _WITHOUT_EFFECT and value not in (None, False, [], {}, ""):
            raise CheckpointError(f"{where} sets {key} to {value!r}, which is not supported here; {MERGE_WITH_PEFT}")
    read = _Reader(config, where)
    return AdapterConfig(
        rank=int(read.number("r", whole=True)),
        alpha=read.number("lora_alpha", whole=False),
        rank_pattern={name: int(rank) for name, rank in read.pattern("rank_pattern", whole=True).items()},
        alpha_pattern=read.pattern("alpha_pattern", whole=False),
        root_of_rank=read.flag("use_rslora"),
        dora=read.flag("use_dora"),
        trained_on=str(config.get("base_model_name_or_path") or ""),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Values of one file, checked."""

    config: Mapping[str, Any]
    where: str

    def number(self, key: str, *, whole: bool) -> float:
        if key not in self.config:
            raise CheckpointError(f"{self.where} has no {key}; expected an adapter_config.json saved by PEFT")
        return self._checked(key, self.config[key], whole)

    def flag(self, key: str) -> bool:
        value = self.config.get(key) or False
        if value is not True and value is not False:
            raise CheckpointError(f"{self.where} has {key} {value!r}, expected true or false")
        return value

    def pattern(self, key: str, *, whole: bool) -> dict[str, float]:
        patterns = self.config.get(key) or {}
        if not isinstance(patterns, dict):
            raise CheckpointError(f"{self.where} has {key} {patterns!r}, expected {{module name: number}}")
        for name in patterns:
            try:
                re.compile(name)
            except re.error as error:
                raise CheckpointError(
                    f"{self.where} has {name!r} in {key}, which is no regular expression ({error})"
                ) from error
        return {name: self._checked(f"{key} of {name}", value, whole) for name, value in patterns.items()}

    def _checked(self, key: str, value: object, whole: bool) -> float:
        kinds = (int,) if whole else (int, float)
        if type(value) not in kinds or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            expected = "a whole number above 0" if whole else "a number above 0"
            raise CheckpointError(f"{self.where} has {key} {value!r}, expected {expected}")
        return value


def _pattern_value(patterns: Mapping[str, _Number], module: str, default: _Number) -> _Number:
    """PEFT's rule: the first pattern that `module` ends on, at a dot."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
