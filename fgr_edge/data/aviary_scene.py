"""Everything around a bird of the aviary: background, perch, what stands in front, and light."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fgr_edge.data.aviary_canvas import Canvas, Point, Rgb, ellipse, shade, smooth

# Top and bottom of the sky, then the colours of the blurred shapes in front of it.
BACKDROPS: tuple[tuple[Rgb, Rgb, tuple[Rgb, ...]], ...] = (
    ((166, 206, 226), (206, 226, 190), ((120, 168, 96), (150, 188, 112), (96, 148, 92))),
    ((236, 206, 168), (196, 150, 132), ((176, 118, 98), (216, 168, 124), (146, 104, 104))),
    ((198, 212, 226), (232, 238, 242), ((206, 220, 232), (176, 196, 212), (240, 244, 246))),
    ((104, 140, 118), (62, 98, 78), ((84, 132, 84), (50, 86, 66), (128, 162, 96))),
    ((120, 124, 164), (190, 152, 164), ((98, 100, 140), (150, 124, 156), (204, 168, 168))),
    ((226, 224, 196), (178, 196, 140), ((204, 208, 132), (150, 176, 100), (226, 214, 150))),
)
WATER: tuple[tuple[Rgb, Rgb], ...] = (
    ((112, 158, 182), (70, 112, 142)),
    ((150, 166, 158), (92, 116, 112)),
    ((196, 168, 150), (120, 112, 126)),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """What was drawn by lot once, before anything is painted."""

    setting: str  # branch, water, reeds or flowers
    backdrop: int
    water: int
    occluded: bool
    warmth: float  # -1 cold to 1 warm
    brightness: float
    sun: float  # angle of the light, radians

    @classmethod
    def random(cls, setting: str, rng: np.random.Generator) -> Scene:
        """A scene drawn by lot."""
        return cls(
            setting, int(rng.integers(len(BACKDROPS))), int(rng.integers(len(WATER))), bool(rng.random() < 0.5),
            float(rng.uniform(-1, 1)), float(rng.uniform(0.8, 1.12)), float(rng.uniform(0, 2 * math.pi)),
        )  # fmt: skip


def _gradient(top: Rgb, bottom: Rgb, side: int) -> Image.Image:
    t = np.linspace(0, 1, side)[:, None]
    column = np.asarray(top) * (1 - t) + np.asarray(bottom) * t
    pixels = np.broadcast_to(column[:, None, :], (side, side, 3))
    return Image.fromarray(np.ascontiguousarray(pixels.round().astype(np.uint8)))


def backdrop(scene: Scene, side: int, rng: np.random.Generator) -> Image.Image:
    """The background, out of focus, `side` x `side`."""
    top, bottom, blobs = BACKDROPS[scene.backdrop]
    small = 112
    image = _gradient(top, bottom, small)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(8, 16))):
        x, y, r = rng.uniform(0, small), rng.uniform(small * 0.1, small * 1.1), rng.uniform(5, 20)
        draw.ellipse((round(x - r), round(y - r), round(x + r), round(y + r)), fill=blobs[int(rng.integers(3))])
    image = image.filter(ImageFilter.BoxBlur(4)).filter(ImageFilter.BoxBlur(3))
    glow = Image.new("RGB", image.size)
    dots = ImageDraw.Draw(glow)
    for _ in range(int(rng.integers(4, 9))):
        x, y, r = rng.uniform(0, small), rng.uniform(0, small), rng.uniform(2, 7)
        dots.ellipse((round(x - r), round(y - r), round(x + r), round(y + r)), fill=(30, 30, 24))
    image = Image.fromarray(np.minimum(255, np.asarray(image).astype(np.int16) + np.asarray(glow)).astype(np.uint8))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def perch(canvas: Canvas, scene: Scene, foot: Point, rng: np.random.Generator) -> None:
    """What the bird stands on; `foot` in picture coordinates 0..1."""
    canvas.place(0, 0, 1, 0, False)
    if scene.setting == "branch":
        _branch(canvas, foot, rng)
    elif scene.setting == "flowers":
        _flowers(canvas, rng)
    else:
        _water(canvas, scene, 0.62 if scene.setting == "water" else 0.7, rng)


def _branch(canvas: Canvas, foot: Point, rng: np.random.Generator) -> None:
    slope = float(rng.uniform(-0.12, 0.12))
    colour = ((104, 76, 54), (86, 70, 62), (122, 94, 70))[int(rng.integers(3))]
    y = min(0.93, foot[1] + 0.035)
    ends = ((-0.1, y - slope * (foot[0] + 0.1)), (1.1, y + slope * (1.1 - foot[0])))
    middle = (0.5, (ends[0][1] + ends[1][1]) / 2 + float(rng.uniform(-0.01, 0.01)))
    canvas.line([ends[0], middle, ends[1]], shade(colour, 0.7), 0.062)
    upper = [(px, py - 0.008) for px, py in (ends[0], middle, ends[1])]
    canvas.line(upper, colour, 0.044)
    canvas.line([(px, py - 0.012) for px, py in upper], shade(colour, 1.22), 0.01)
    for _ in range(int(rng.integers(2, 5))):
        x = float(rng.choice((rng.uniform(0, 0.28), rng.uniform(0.72, 1))))
        _leaf(canvas, (x, y + slope * (x - foot[0])), float(rng.uniform(0.2, 2.9)), float(rng.uniform(0.08, 0.13)), rng)


def _leaf(canvas: Canvas, at: Point, angle: float, length: float, rng: np.random.Generator) -> None:
    colour = ((98, 142, 70), (126, 160, 76), (74, 118, 66), (170, 140, 70))[int(rng.integers(4))]
    cos, sin = math.cos(angle), math.sin(angle)
    spine = [(0.0, 0.0), (0.5, 0.24), (1.0, 0.0), (0.5, -0.24)]
    leaf = smooth([(at[0] + (u * cos - v * sin) * length, at[1] + (u * sin + v * cos) * length) for u, v in spine])
    canvas.fill(leaf, colour)
    canvas.line([at, (at[0] + 0.9 * length * cos, at[1] + 0.9 * length * sin)], shade(colour, 0.75), 0.005)


def _water(canvas: Canvas, scene: Scene, level: float, rng: np.random.Generator) -> None:
    near, far = WATER[scene.water]
    side = canvas.side
    top = round(level * side)
    canvas.image.paste(_gradient(near, far, side).resize((side, side - top)), (0, top))
    for _ in range(14):
        y = level + float(rng.uniform(0.02, 1 - level))
        x, w = float(rng.uniform(0, 1)), float(rng.uniform(0.05, 0.16))
        canvas.fill(ellipse(x, y, w, 0.005), shade(near, 1.16))
    if scene.setting == "reeds":
        for _ in range(7):
            x = float(rng.choice((rng.uniform(0, 0.2), rng.uniform(0.8, 1))))
            _reed(canvas, x, level + 0.05, float(rng.uniform(0.3, 0.6)), rng)


def _reed(canvas: Canvas, x: float, base: float, height: float, rng: np.random.Generator) -> None:
    lean = float(rng.uniform(-0.06, 0.06))
    colour = ((112, 136, 74), (142, 146, 84), (92, 116, 70))[int(rng.integers(3))]
    canvas.line([(x, base), (x + lean * 0.4, base - height * 0.5), (x + lean, base - height)], colour, 0.012)
    if rng.random() < 0.5:
        canvas.fill(ellipse(x + lean, base - height, 0.014, 0.05), (112, 78, 50))


def _flowers(canvas: Canvas, rng: np.random.Generator) -> None:
    for x in (float(rng.uniform(0.02, 0.14)), float(rng.uniform(0.86, 0.98))):
        y = float(rng.uniform(0.6, 0.85))
        canvas.line([(x, 1.05), (x, y)], (96, 136, 76), 0.016)
        petal = ((226, 122, 150), (236, 170, 96), (190, 130, 200), (236, 226, 226))[int(rng.integers(4))]
        for k in range(6):
            a = k * math.pi / 3
            canvas.fill(ellipse(x + 0.042 * math.cos(a), y + 0.042 * math.sin(a), 0.034, 0.022, a), petal)
        canvas.fill(ellipse(x, y, 0.022, 0.022), (236, 196, 80))


def foreground(canvas: Canvas, scene: Scene, below: float, rng: np.random.Generator) -> None:
    """What stands in front: low and at the sides, so that head, wing and breast stay visible."""
    canvas.place(0, 0, 1, 0, False)
    if scene.setting == "water":
        near, _ = WATER[scene.water]
        for k in range(4):
            canvas.fill(
                ellipse(0.5 + float(rng.uniform(-0.1, 0.1)), below - 0.02 + 0.03 * k, 0.34 - 0.05 * k, 0.011),
                shade(near, 1.12 - 0.06 * k),
            )
    if not scene.occluded:
        return
    for _ in range(int(rng.integers(2, 5))):
        if scene.setting in ("water", "reeds"):
            x = float(rng.choice((rng.uniform(0.05, 0.3), rng.uniform(0.7, 0.95))))
            _reed(canvas, x, 1.05, float(rng.uniform(0.25, 0.5)), rng)
        else:
            x, y = float(rng.uniform(0.05, 0.95)), max(below, 0.72) + float(rng.uniform(0.04, 0.2))
            _leaf(canvas, (x, y), float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0.1, 0.17)), rng)


def light(image: Image.Image, scene: Scene) -> Image.Image:
    """Brightness, warmth and a soft fall-off of light away from the sun."""
    side = image.width
    axis = np.linspace(-1, 1, 32)
    ramp = 1 + 0.1 * (math.cos(scene.sun) * axis[None, :] + math.sin(scene.sun) * axis[:, None])
    tint = np.asarray([1 + 0.06 * scene.warmth, 1.0, 1 - 0.08 * scene.warmth]) * scene.brightness
    field = np.clip(ramp[..., None] * tint * 128, 0, 255).round().astype(np.uint8)
    factors = np.asarray(Image.fromarray(field).resize((side, side), Image.Resampling.BILINEAR)).astype(np.uint16)
    return Image.fromarray(np.minimum(255, (np.asarray(image).astype(np.uint16) * factors) >> 7).astype(np.uint8))
