"""What the families of the aviary are built like, and the colours that species are painted in."""

from __future__ import annotations

from dataclasses import dataclass

from fgr_edge.data.aviary_canvas import Point, Rgb, smooth

PALETTE: dict[str, Rgb] = {
    "red": (200, 44, 40),
    "orange": (238, 132, 36),
    "yellow": (246, 212, 66),
    "green": (72, 148, 66),
    "blue": (48, 104, 200),
    "brown": (128, 82, 48),
    "buff": (228, 196, 146),
    "grey": (136, 144, 154),
    "black": (38, 38, 46),
    "white": (246, 245, 240),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What a family is built like, in body lengths."""

    depth: float  # of the body, 1 is a songbird's
    head: Point
    head_radius: float
    bill: tuple[Point, ...]  # relative to the head, in head radii
    tail_length: float
    tail_width: float
    legs: float
    tilt_degrees: float  # upright is negative
    setting: str
    centre: Point = (0.5, 0.54)
    scale: float = 0.5


SHAPES: dict[str, Shape] = {
    "Finch": Shape(
        1.12, (0.40, -0.30), 0.235, ((0.75, -0.35), (1.75, 0.12), (0.72, 0.5)), 0.42, 0.10, 0.16, -14, "branch"
    ),
    "Warbler": Shape(
        0.88,
        (0.42, -0.27),
        0.20,
        ((0.85, -0.16), (1.95, 0.1), (0.85, 0.22)),
        0.50,
        0.075,
        0.22,
        -8,
        "branch",
        scale=0.46,
    ),
    "Kingfisher": Shape(
        1.0,
        (0.40, -0.36),
        0.27,
        ((0.8, -0.26), (3.1, 0.16), (0.8, 0.36)),
        0.24,
        0.11,
        0.08,
        -26,
        "branch",
        (0.43, 0.55),
        0.48,
    ),
    "Duck": Shape(
        1.05,
        (0.50, -0.46),
        0.21,
        ((0.8, -0.2), (1.5, 0.02), (2.05, 0.1), (2.1, 0.36), (1.5, 0.42), (0.75, 0.5)),
        0.22,
        0.10,
        0.0,
        0,
        "water",
        (0.47, 0.56),
        0.46,
    ),
    "Heron": Shape(
        0.82,
        (0.62, -0.98),
        0.16,
        ((0.75, -0.3), (3.5, 0.18), (0.75, 0.42)),
        0.22,
        0.09,
        0.62,
        -18,
        "reeds",
        (0.42, 0.60),
        0.36,
    ),
    "Owl": Shape(1.35, (0.30, -0.36), 0.36, (), 0.26, 0.13, 0.05, -48, "branch", (0.47, 0.56), 0.47),
    "Parrot": Shape(
        1.0,
        (0.40, -0.33),
        0.25,
        ((0.6, -0.55), (1.4, -0.42), (1.72, 0.1), (1.5, 0.75), (1.3, 0.32), (0.8, 0.5)),
        0.72,
        0.085,
        0.06,
        -38,
        "branch",
        (0.5, 0.5),
        0.46,
    ),
    "Hummingbird": Shape(
        0.72,
        (0.45, -0.26),
        0.19,
        ((0.85, -0.14), (4.1, -0.06), (0.85, 0.16)),
        0.36,
        0.10,
        0.0,
        -32,
        "flowers",
        (0.44, 0.56),
        0.43,
    ),
}

# Birds that sit upright turn the head back by this share of their tilt.
LEVELLING = {"Owl": 0.85, "Parrot": 0.9, "Kingfisher": 0.5, "Heron": 0.8, "Finch": 0.5}
DARK: Rgb = (44, 38, 40)


def body_outline(depth: float) -> list[Point]:
    """The body, in body lengths around its middle."""
    points = [
        (-0.52, 0.03),
        (-0.3, -0.17),
        (0.02, -0.27),
        (0.34, -0.25),
        (0.52, -0.02),
        (0.42, 0.22),
        (0.1, 0.33),
        (-0.25, 0.23),
    ]
    return smooth([(x, y * depth) for x, y in points])


def neck_outline(shape: Shape) -> list[Point]:
    """What joins body and head."""
    (x, y), r = shape.head, shape.head_radius
    if shape.legs > 0.5:  # a heron's neck is an S
        return smooth(
            [
                (0.2, -0.16),
                (0.44, -0.42),
                (0.4, -0.7),
                (x - r * 0.8, y),
                (x + r * 0.4, y + r * 0.5),
                (0.58, -0.66),
                (0.62, -0.38),
                (0.48, 0.06),
            ]
        )
    return smooth(
        [
            (x - r * 0.95, y),
            (x, y - r * 0.5),
            (x + r * 0.95, y + 0.05),
            (0.5, 0.05),
            (0.1, 0.0),
            (0.05, -0.2 * shape.depth),
        ]
    )
