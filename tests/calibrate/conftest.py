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
            folder = tmp_path_factory.mktemp("golden")
            made[model, precision] = with_golden(exported(model, "fp32"), exported(model, precision), folder)
        return made[model, precision]

    def exported(model: str, precision: str) -> Path:
        return nano_bundle(precision) if model == "nano" else tiny_models.bundle(model, precision)

    return bundle
