"""Painting a bird of the aviary: a species and a seed give the same picture on every machine.

Pose, light, background and what stands in front vary with the seed; the attributes of the species never do. Only
numpy and pillow; a picture takes some milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from fgr_edge.data.aviary import SPECIES, Species
from fgr_edge.data.aviary_canvas import Canvas, Point, Rgb, ellipse, shade, smooth
from fgr_edge.data.aviary_scene import Scene, backdrop, foreground, light, perch
from fgr_edge.data.aviary_shapes import DARK, LEVELLING, PALETTE, SHAPES, body_outline, neck_outline


class Painter:
    """One bird on one canvas."""

    def __init__(self, canvas: Canvas, species: Species, turn: float, rng: np.random.Generator) -> None:
        self.canvas, self.species, self.turn, self.rng = canvas, species, turn, rng
        self.shape = SHAPES[species.family]
        jitter = rng.integers(-9, 10, 3)
        self.colours: dict[str, Rgb] = {}
        for name, rgb in PALETTE.items():
            r, g, b = (int(np.clip(c + j, 0, 255)) for c, j in zip(rgb, jitter, strict=True))
            self.colours[name] = (r, g, b)
        (x, y), self.radius = self.shape.head, self.shape.head_radius
        self.head = (x + float(rng.uniform(-0.02, 0.03)), y + float(rng.uniform(-0.03, 0.03)))
        self.lift = float(rng.uniform(-0.04, 0.05))

    @contextmanager
    def _head_frame(self) -> Iterator[None]:
        """Coordinates with the head as origin; birds that sit upright still look ahead."""
        c = self.canvas
        px, py = c.point(self.head)
        before = (c.x / c.side, c.y / c.side, c.scale / c.side, self.turn, c.mirrored)
        level = -math.radians(self.shape.tilt_degrees) * LEVELLING.get(self.species.family, 0.0)
        c.place(px / c.side, py / c.side, before[2], self.turn + level, c.mirrored)
        yield
        c.place(*before)

    def paint(self) -> None:
        """Back to front: tail, legs, body, breast, wing, head, bill, eye."""
        self._tail()
        self._legs()
        body, neck = body_outline(self.shape.depth), neck_outline(self.shape)
        hull = self.canvas.mask(body, neck, ellipse(*self.head, self.radius, self.radius))
        if self.species.family == "Hummingbird":
            self._raised_wing(far=True)
        with self._head_frame():
            self._bill()
        back = self.colours[self.species.back]
        for polygon in (body, neck, ellipse(*self.head, self.radius, self.radius)):
            self.canvas.fill(polygon, back)
        self._breast(hull)
        if self.species.family == "Hummingbird":
            self._raised_wing(far=False)
        else:
            self._wing()
        with self._head_frame():
            self._face()

    def _tail(self) -> None:
        s, c = self.shape, self.canvas
        droop = 0.1 + self.lift + (0.06 if s.tail_length > 0.5 else 0)
        x, y, w = -0.4, 0.0, s.tail_width
        ex, ey = x - s.tail_length - 0.06, y + droop
        tail = smooth(
            [
                (x + 0.15, y - w),
                (x - 0.1, y - w),
                (ex, ey - w * 1.1),
                (ex - 0.05, ey + w * 0.2),
                (ex, ey + w * 1.3),
                (x - 0.1, y + w * 1.2),
                (x + 0.15, y + w),
            ]
        )
        mask = c.mask(tail)
        c.fill(tail, shade(self.colours[self.species.back], 0.82))
        pale = (250, 248, 238) if self.species.back not in ("white", "buff") else (60, 52, 52)

        def band(at: float, wide: float) -> list[Point]:
            bx, by = x + (ex - x) * at, y + (ey - y) * at
            return [(bx - wide, by - 0.4), (bx + wide, by - 0.4), (bx + wide, by + 0.4), (bx - wide, by + 0.4)]

        if self.species.tail == "tipped":
            c.fill(band(1.06, 0.26 * (ex - x) / -1), pale, mask)
        elif self.species.tail == "barred":
            for at in (0.42, 0.68, 0.94):
                c.fill(band(at, 0.055 * (x - ex)), pale, mask)

    def _legs(self) -> None:
        if not self.shape.legs:
            return
        colour = (196, 132, 70) if self.shape.legs < 0.5 else (150, 128, 84)
        turn = math.radians(self.shape.tilt_degrees)
        for x in (-0.02, 0.13):
            foot = 0.3 * self.shape.depth + self.shape.legs
            # Legs hang straight down whatever the tilt of the body.
            dx = math.sin(turn) * (foot - 0.2)
            self.canvas.line([(x, 0.2 * self.shape.depth), (x + dx, foot)], colour, 0.035)
            self.canvas.line([(x + dx, foot), (x + dx + 0.08, foot + 0.01)], colour, 0.03)

    def _breast(self, hull: Image.Image) -> None:
        c, s, d = self.canvas, self.species, self.shape.depth
        heron = s.family == "Heron"
        patch = smooth(
            [
                (0.62, -0.2),
                (0.3, -0.02 * d),
                (0.0, 0.1 * d),
                (-0.32, 0.16 * d),
                (-0.2, 0.5 * d),
                (0.3, 0.5 * d),
                (0.7, 0.25),
            ]
        )
        if s.family == "Owl":
            patch = smooth(
                [
                    (0.66, -0.2),
                    (0.36, -0.12),
                    (0.12, 0.0),
                    (-0.2, 0.12 * d),
                    (-0.25, 0.5 * d),
                    (0.3, 0.55 * d),
                    (0.75, 0.2),
                ]
            )
        areas = [patch] + (
            [smooth([(0.5, -0.72), (0.66, -0.7), (0.7, -0.2), (0.5, 0.1), (0.46, -0.3)])] if heron else []
        )
        region = ImageChops.multiply(c.mask(*areas), hull)
        colour = self.colours[s.breast]
        c.image.paste(colour, (0, 0), region)
        c.glaze(ellipse(0.1, 0.42 * d, 0.55, 0.16 * d), shade(colour, 0.6), 0.35, region)
        mark = DARK if s.breast not in ("black", "brown", "blue") else (240, 232, 214)
        for polygon in self._marks(d):
            c.fill(polygon, mark, region)

    def _marks(self, d: float) -> list[list[Point]]:
        pattern, shift = self.species.pattern, float(self.rng.uniform(-0.02, 0.02))
        marks: list[list[Point]] = []
        if pattern == "spotted":
            for row in range(4):
                for column in range(7):
                    x = -0.24 + 0.115 * column + 0.055 * (row % 2) + shift
                    marks.append(ellipse(x, (-0.04 + 0.095 * row) * d, 0.026, 0.026))
        elif pattern == "streaked":
            for column in range(8):
                x = -0.22 + 0.1 * column + shift
                for row in range(2):
                    y = (0.0 + 0.16 * row + 0.05 * (column % 2)) * d
                    marks.append(ellipse(x, y, 0.014, 0.062 * d, 0.25))
        elif pattern == "banded":
            for row in range(4):
                y = (-0.06 + 0.1 * row) * d + shift
                arc = [(-0.4, y - 0.08), (0.1, y), (0.7, y - 0.14)]
                marks.append(arc + [(px, py + 0.042) for px, py in reversed(arc)])
        return marks

    def _bars(self, mask: Image.Image, root: Point, tip: Point) -> None:
        """Pale bars across a wing that runs from `root` to `tip`."""
        back = self.species.back
        pale = (252, 250, 240) if back not in ("white", "buff") else (70, 62, 60)
        dx, dy = tip[0] - root[0], tip[1] - root[1]
        length = math.hypot(dx, dy)
        nx, ny = -dy / length * 0.5, dx / length * 0.5
        ux, uy = dx / length * 0.028, dy / length * 0.028
        for at in (0.42, 0.6)[: self.species.wing_bars]:
            x, y = root[0] + dx * at, root[1] + dy * at
            bar = [
                (x - nx - ux, y - ny - uy),
                (x - nx + ux, y - ny + uy),
                (x + nx + ux, y + ny + uy),
                (x + nx - ux, y + ny - uy),
            ]
            self.canvas.fill(bar, pale, mask)

    def _wing(self) -> None:
        d, c, up = self.shape.depth, self.canvas, self.lift
        wing = smooth(
            [
                (0.3, -0.1 * d),
                (0.12, -0.22 * d),
                (-0.2, -0.16 * d - up),
                (-0.62, 0.02 - up),
                (-0.66, 0.08 - up),
                (-0.3, 0.16 * d),
                (0.08, 0.13 * d),
                (0.27, 0.05 * d),
            ]
        )
        mask, colour = c.mask(wing), shade(self.colours[self.species.back], 0.78)
        if self.species.back == "black":
            colour = (66, 66, 78)
        c.fill([(x - 0.012, y + 0.022) for x, y in wing], shade(colour, 0.6))
        c.fill(wing, colour)
        for k in range(3):  # flight feathers
            c.line([(-0.05 - 0.1 * k, 0.13 * d - 0.03 * k), (-0.58, 0.07 - up - 0.02 * k)], shade(colour, 0.72), 0.012)
        c.glaze(ellipse(0.1, -0.2 * d, 0.4, 0.09), (255, 255, 255), 0.16, mask)
        self._bars(mask, (0.27, -0.06 * d), (-0.62, 0.06 - up))

    def _raised_wing(self, far: bool) -> None:
        c, beat = self.canvas, float(self.lift) * 2
        tip = (-0.62, -0.78 + beat) if not far else (0.02, -0.92 + beat)
        root = (0.18, -0.1)
        wing = smooth(
            [
                (root[0] + 0.1, root[1]),
                (tip[0] * 0.4 + 0.12, tip[1] * 0.62),
                tip,
                (tip[0] * 0.75 - 0.05, tip[1] * 0.5),
                (-0.16, 0.02),
            ]
        )
        colour = shade(self.colours[self.species.back], 0.62 if far else 0.8)
        if self.species.back == "black":
            colour = (66, 66, 78)
        c.fill(wing, colour)
        if not far:
            mask = c.mask(wing)
            for k in range(3):
                c.line(
                    [(0.0 - 0.07 * k, -0.08), (tip[0] * 0.9 - 0.01 * k, tip[1] * 0.9 + 0.07 * k)],
                    shade(colour, 0.8),
                    0.012,
                )
            self._bars(mask, root, tip)

    def _bill(self) -> None:
        if not self.shape.bill:
            return
        x, y, r = 0.0, 0.0, self.radius
        bill = [(x + px * r, y + py * r) for px, py in self.shape.bill]
        colour = self.colours[self.species.bill]
        outline = [(px * 1.0 + (px - x) * 0.03, py + (py - y) * 0.08) for px, py in bill]
        self.canvas.fill(outline, shade(colour, 0.5))
        self.canvas.fill(bill, colour)
        middle = [(x + r * 0.8, y + 0.08 * r), bill[len(bill) // 2]]
        if self.species.family != "Parrot":
            self.canvas.line(middle, shade(colour, 0.55), 0.014)

    def _face(self) -> None:
        c, x, y, r = self.canvas, 0.0, 0.0, self.radius
        disc = ellipse(x, y, r, r)
        mask = c.mask(disc)
        crown = self.colours[self.species.crown]
        if self.species.family == "Owl":
            return self._owl_face(mask, crown)
        brim = [
            (x - 1.3 * r, y + 0.05 * r),
            (x - 0.2 * r, y - 0.12 * r),
            (x + 1.3 * r, y - 0.5 * r),
            (x + r, y - 2 * r),
            (x - 1.3 * r, y - 2 * r),
        ]
        c.fill(brim, crown, mask)
        if self.species.family in ("Kingfisher", "Heron"):  # a crest
            c.fill(
                smooth(
                    [
                        (x, y - 0.85 * r),
                        (x - 1.55 * r, y - 0.75 * r),
                        (x - 1.7 * r, y - 0.4 * r),
                        (x - 0.85 * r, y - 0.05 * r),
                    ]
                ),
                crown,
            )
        if self.species.crown == self.species.back:
            c.glaze(brim, (255, 255, 255), 0.1, mask)
        c.glaze(ellipse(x + 0.25 * r, y + 0.85 * r, 0.8 * r, 0.35 * r), (30, 24, 30), 0.22, mask)
        self._eye((x + 0.34 * r, y - 0.08 * r), max(0.05, r * 0.2))

    def _eye(self, at: Point, size: float) -> None:
        c = self.canvas
        ring = {"white": (255, 255, 252), "yellow": (255, 214, 30)}.get(self.species.eye_ring)
        if ring:
            c.fill(ellipse(*at, size * 2.0, size * 2.0), DARK)
            c.fill(ellipse(*at, size * 1.75, size * 1.75), ring)
        c.fill(ellipse(*at, size, size), (18, 16, 20))
        c.fill(ellipse(at[0] + size * 0.3, at[1] - size * 0.35, size * 0.32, size * 0.32), (255, 255, 255))

    def _owl_face(self, mask: Image.Image, crown: Rgb) -> None:
        c, x, y, r = self.canvas, 0.0, 0.0, self.radius
        c.fill(
            [(x - 2 * r, y + 0.3 * r), (x + r, y - 0.75 * r), (x + 2 * r, y - 2 * r), (x - 2 * r, y - 2 * r)],
            crown,
            mask,
        )
        for px, py in ((-0.62, -0.55), (0.45, -0.9)):  # ear tufts
            c.fill(
                [
                    (x + (px - 0.3) * r, y + py * r + 0.1 * r),
                    (x + px * 1.5 * r - 0.05 * r, y + (py - 0.5) * r),
                    (x + (px + 0.3) * r, y + py * r),
                ],
                crown,
            )
        face = shade(self.colours["buff"], 1.02)
        eyes = ((x - 0.1 * r, y + 0.05 * r), (x + 0.55 * r, y - 0.1 * r))
        for ex, ey in eyes:
            c.fill(ellipse(ex, ey, 0.42 * r, 0.44 * r), shade(face, 0.72), mask)
            c.fill(ellipse(ex, ey, 0.37 * r, 0.39 * r), face, mask)
        for eye in eyes:
            self._eye(eye, 0.15 * r)
        bill = [(x + 0.14 * r, y + 0.14 * r), (x + 0.42 * r, y + 0.08 * r), (x + 0.42 * r, y + 0.56 * r)]
        c.fill([(px + (px - x - 0.3 * r) * 0.3, py + 0.03 * r) for px, py in bill], (70, 60, 50))
        c.fill(bill, self.colours[self.species.bill])


def draw(species: Species, seed: int, size: int = 224) -> Image.Image:
    """Paint one bird: `size` x `size` RGB, the same for the same species, seed and size on every machine."""
    rng = np.random.default_rng([20261121, SPECIES.index(species), seed])
    shape = SHAPES[species.family]
    scene = Scene.random(shape.setting, rng)
    canvas = Canvas(backdrop(scene, 2 * size, rng))
    turn = math.radians(shape.tilt_degrees + float(rng.uniform(-9, 9)))
    x, y = (c + float(rng.uniform(-0.05, 0.05)) for c in shape.centre)
    mirrored = bool(rng.random() < 0.5)
    scale = shape.scale * float(rng.uniform(0.86, 1.08))
    perch(canvas, scene, (x, y + scale * (0.3 * shape.depth + shape.legs)), rng)
    canvas.place(1 - x if mirrored else x, y, scale, turn, mirrored)
    Painter(canvas, species, turn, rng).paint()
    foreground(canvas, scene, y + scale * 0.36, rng)
    return light(canvas.image, scene).resize((size, size), Image.Resampling.BOX)


def pixels(job: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """One drawing as [3, size, size] uint8; `job` is (species number, seed, size), so that a pool can map it."""
    number, seed, size = job
    return np.ascontiguousarray(np.asarray(draw(SPECIES[number], seed, size)).transpose(2, 0, 1))
