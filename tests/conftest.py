"""Fixtures that any test may use. What a fresh clone lacks is skipped, with the reason, never faked."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.command import Done, run_here

if TYPE_CHECKING:
    from tests.tiny import TinyModels

# Set before any test imports them: nothing here may reach for a hub, and tokenizers must not fork threads.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

REPOSITORY = Path(__file__).resolve().parents[1]
DISK_BYTES = 1_000_000_000  # that exported models of one run take at most at a time (0.84 GB seen)


def pytest_sessionstart(session: pytest.Session) -> None:
    """One line on a full disk, in place of an error a test."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < DISK_BYTES:
        pytest.exit(
            f"{folder} has {free / 1e6:.0f} MB free, the tests write up to {DISK_BYTES / 1e6:.0f} MB at a time: "
            "make room, or set TMPDIR to a folder elsewhere",
            returncode=pytest.ExitCode.USAGE_ERROR,
        )


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Random models of several shapes, their checkpoints and bundles, made when first asked for and shared."""
    pytest.importorskip("transformers")
    from tests.tiny import TinyModels

    return TinyModels(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def nano_checkpoint() -> Path:
    """The trained checkpoint that the repository ships, in Hugging Face format."""
    path = REPOSITORY / "models" / "nano"
    if not (path / "config.json").is_file():
        pytest.skip("models/nano is not there: train it with `fgr-edge train sft recipes/nano.toml`")
    return path


@pytest.fixture(scope="session")
def nano_labels(nano_checkpoint: Path) -> Path:
    """The class names of the drawn birds, one a line."""
    return nano_checkpoint / "labels_aviary.txt"


@pytest.fixture(scope="session")
def nano_bundle(nano_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`nano_bundle("int8")`: models/nano exported for the CPU, once for each precision and label list.

    The bundles are shared: a test that changes one copies it first.
    """
    made: dict[tuple[str, Path | None], Path] = {}

    def export(precision: str = "fp32", labels: Path | None = None) -> Path:
        from fgr_edge.export.pipeline import ExportConfig, export_checkpoint

        key = (precision, labels)
        if key not in made:
            output = tmp_path_factory.mktemp("bundles") / f"nano-{precision}"
            made[key] = export_checkpoint(
                ExportConfig(
                    source=nano_checkpoint,
                    output=output,
                    target="cpu",
                    precision=precision,
                    labels=labels,
                    force=False,
                    proof=False,
                )
            )
        return made[key]

    return export


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[Path]]:
    """`birds(8)`: files of so many held-out drawings, species spread over the aviary."""

    def drawn(count: int) -> list[Path]:
        from fgr_edge.data.aviary import HELD_OUT_SEEDS, SPECIES
        from fgr_edge.data.aviary_drawing import draw

        folder = tmp_path_factory.mktemp("birds")
        paths = []
        for number in range(count):
            path = folder / f"{number:02d}.png"
            draw(SPECIES[number * len(SPECIES) // count], HELD_OUT_SEEDS[number]).save(path)
            paths.append(path)
        return paths

    return drawn


@pytest.fixture(scope="session")
def grocery_root() -> Path:
    """The Grocery Store photographs: $FGR_EDGE_GROCERY, else ../shared/grocery beside the repository."""
    path = Path(os.environ.get("FGR_EDGE_GROCERY", REPOSITORY.parent / "shared" / "grocery"))
    if not (path / "classes.csv").is_file():
        pytest.skip("no Grocery photographs: set FGR_EDGE_GROCERY to the folder with classes.csv")
    return path


@pytest.fixture(scope="session")
def qwen_tokenizer() -> Path:
    """`tokenizer.json` with the Qwen2.5 vocabulary: $FGR_EDGE_QWEN_TOKENIZER, else in ../shared."""
    beside = REPOSITORY.parent / "shared" / "qwen-tokenizer" / "tokenizer.json"
    path = Path(os.environ.get("FGR_EDGE_QWEN_TOKENIZER", beside))
    if not path.is_file():
        pytest.skip("no Qwen tokenizer: set FGR_EDGE_QWEN_TOKENIZER to its tokenizer.json")
    return path


@pytest.fixture
def fgr_edge(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run the command in this process: arguments, and `stdin` as bytes."""
    return partial(run_here, capsys, monkeypatch)
