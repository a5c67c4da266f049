"""A small painter's canvas: smooth shapes in a bird's own coordinates, painted through masks, larger than the result.

The bird's coordinates are in body lengths, x forward and y down. It knows nothing about birds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw

Point = tuple[float, float]
Rgb = tuple[int, int, int]


def smooth(points: Sequence[Point], steps: int = 8) -> list[Point]:
    """A closed Catmull-Rom curve through `points`."""
    p = np.asarray(points, dtype=np.float64)
    before, after, beyond = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = (q[:, None, :] for q in (before, p, after, beyond))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return [(float(x), float(y)) for x, y in curve.reshape(-1, 2)]


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> list[Point]:
    """An ellipse as a closed polygon; `turn` in radians."""
    cos, sin = math.cos(turn), math.sin(turn)
    angles = [2 * math.pi * k / 40 for k in range(40)]
    ring = [(rx * math.cos(a), ry * math.sin(a)) for a in angles]
    return [(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in ring]


def shade(colour: Rgb, factor: float) -> Rgb:
    """A darker (below 1) or lighter (above 1) version of a colour."""
    r, g, b = (min(255, max(0, round(c * factor))) for c in colour)
    return r, g, b


class Canvas:
    """A square picture with a placed, turned and perhaps mirrored coordinate system."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.side = image.width
        self.place(0.5, 0.5, 0.4, 0.0, False)

    def place(self, x: float, y: float, scale: float, turn: float, mirrored: bool) -> None:
        """Put the origin at (x, y) of the picture (0..1); one unit is `scale` of its side; `turn` in radians."""
        self.x, self.y, self.scale, self.mirrored = x * self.side, y * self.side, scale * self.side, mirrored
        self.cos, self.sin = math.cos(turn), math.sin(turn)

    def point(self, p: Point) -> tuple[int, int]:
        """Pixel of a point; whole pixels, so that every machine paints the same."""
        x, y = p[0] * self.cos - p[1] * self.sin, p[0] * self.sin + p[1] * self.cos
        return round(self.x + (-x if self.mirrored else x) * self.scale), round(self.y + y * self.scale)

    def mask(self, *polygons: Sequence[Point]) -> Image.Image:
        """A mask that is white inside any of the polygons."""
        mask = Image.new("L", self.image.size)
        draw = ImageDraw.Draw(mask)
        for polygon in polygons:
            draw.polygon([self.point(p) for p in polygon], fill=255)
        return mask

    def fill(self, polygon: Sequence[Point], colour: Rgb, within: Image.Image | None = None) -> None:
        """Paint a polygon, only where `within` is white."""
        if within is None:
            ImageDraw.Draw(self.image).polygon([self.point(p) for p in polygon], fill=colour)
        else:
            self.image.paste(colour, (0, 0), ImageChops.multiply(self.mask(polygon), within))

    def line(self, points: Sequence[Point], colour: Rgb, width: float) -> None:
        """A line of `width` units with round ends."""
        pixels = [self.point(p) for p in points]
        thick = max(1, round(width * self.scale))
        draw = ImageDraw.Draw(self.image)
        draw.line(pixels, fill=colour, width=thick, joint="curve")
        for x, y in (pixels[0], pixels[-1]):
            draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=colour)

    def glaze(self, polygon: Sequence[Point], colour: Rgb, opacity: float, within: Image.Image) -> None:
        """Paint a polygon transparently, only where `within` is white."""
        mask = ImageChops.multiply(self.mask(polygon), within).point([round(v * opacity) for v in range(256)])
        self.image.paste(colour, (0, 0), mask)
