"""A picture to measure with: what a camera of 640 x 480 might see, the same in every run.

Light falling off to one side, a few soft shapes, some texture and noise, saved as a JPEG of ordinary quality, so
that decoding costs what it costs for a photograph.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = (640, 480)


def write_picture(path: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    """Draw the picture into `path`, unless it is there."""
    if path.exists():
        return path
    random = np.random.default_rng(seed)
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    light = np.stack([0.75 - 0.35 * x, 0.70 - 0.30 * y, 0.55 + 0.25 * x * y], axis=2)
    image = Image.fromarray((light * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = int(random.integers(width)), int(random.integers(height))
        across, down = (int(n) for n in random.integers(30, 200, 2))
        colour = tuple(int(n) for n in random.integers(20, 235, 3))
        draw.ellipse((left - across // 2, top - down // 2, left + across // 2, top + down // 2), fill=colour)
    image = image.filter(ImageFilter.GaussianBlur(2))
    noise = random.normal(0, 6, (height, width, 3))
    pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=90)
    return path
