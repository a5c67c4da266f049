"""Bundles with golden outputs, each made once; a test that changes one copies it first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.tiny import TinyModels


@pytest.fixture(scope="session")
def golden_bundle(
    tmp_path_factory: pytest.TempPathFactory, nano_bundle: Callable[..., Path], tiny_models: TinyModels
) -> Callable[[str, str], Path]:
    """`golden_bundle("nano", "int8")`, or one of `tests.tiny.SHAPES`."""
    from tests.planted import with_golden

    made: dict[tuple[str, str], Path] = {}

    def bundle(model: str, precision: str) -> Path:
        if (model, precision) not in made:
            exported = nano_bundle if model == "nano" else lambda kind: tiny_models.bundle(model, kind)
            folder = tmp_path_factory.mktemp("golden")
            made[model, precision] = with_golden(exported("fp32"), exported(precision), folder)
        return made[model, precision]

    return bundle
