"""A grocery folder of coloured squares and a recipe small enough to train in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES = (("Royal-Gala", "Apple"), ("Granny-Smith", "Apple"), ("Kiwi", "Kiwi"))


@pytest.fixture
def grocery_folder(tmp_path: Path) -> Path:
    """Three classes, four training and two validation photographs each."""
    root = tmp_path / "grocery"
    coarse = {"Apple": 0, "Kiwi": 1}
    rows = ["Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int)"]
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    rng = np.random.default_rng(0)
    for number, (name, kind) in enumerate(CLASSES):
        rows.append(f"{name},{number},{kind},{coarse[kind]}")
        for split, count in (("train", 4), ("val", 2), ("test", 2)):
            for k in range(count):
                path = root / split / f"{name}_{k}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 60, (96, 96 + 16 * k, 3), dtype=np.uint8)
                pixels[..., number] += 180
                Image.fromarray(pixels).save(path)
                lists[split].append(f"{split}/{name}_{k}.jpg, {number}, {coarse[kind]}")
    (root / "classes.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for split, lines in lists.items():
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def small_recipe(tmp_path: Path, grocery_folder: Path) -> Path:
    """The committed recipe with tiny dimensions, one epoch of everything and temporary folders."""
    text = (Path(__file__).parents[2] / "recipes" / "nano.toml").read_text(encoding="utf-8")
    small: dict[str, object] = {
        "folder": tmp_path / "run", "output": tmp_path / "nano", "grocery": grocery_folder, "photo_px": 64,
        "aviary_px": 64, "aviary_per_species": 1, "aviary_val": 40, "vocabulary": 600, "hidden": 64,
        "intermediate": 64, "layers": 1, "heads": 1, "kv_heads": 1, "vision_layers": 2, "vision_hidden": 32,
        "vision_intermediate": 32, "vision_heads": 2, "vision_full_attention": [1], "train_px": 56, "use_px": 56,
        "probe_views": 1, "epochs": 1, "batch": 6, "aviary_batch": 4, "frozen_epochs": 1, "joint_epochs": 2,
        "warmup_steps": 1, "tap_block": 0,
    }  # fmt: skip
    lines = []
    for line in text.splitlines():
        key = line.split("=")[0].strip()
        if key in small:
            value = small[key]
            line = f'{key} = "{value}"' if isinstance(value, Path) else f"{key} = {value}"
        lines.append(line)
    path = tmp_path / "small.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
