"""Filling shapes given in body coordinates, seen from any side.

Body coordinates are shares of the body height: x to the person's left, y up from the ground, z
forward."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from transreid_ssl.data.people.wardrobe import Cloth, Colour

SUPERSAMPLING = 2  # figures are drawn at twice the size and averaged: smooth edges for little
_SHIFT = 3  # fractional bits of OpenCV's fixed-point coordinates

Point = tuple[float, float, float]
Section = tuple[float, float, float]  # height y, half width along x, half depth along z


@dataclass(frozen=True)
class Stance:
    """How a person is seen: pixels are those of the final image, the origin its top left."""

    yaw: float  # radians: 0 faces the camera, pi shows the back
    phase: float  # of the walking cycle, radians
    stride: float  # largest angle of a leg, radians
    foot: tuple[float, float]  # (x, y) of the ground between the feet, pixels
    height: float  # of the body, pixels


class Painter:
    """Projects body coordinates and fills shapes on an RGBA layer (2 H, 2 W, 4) uint8."""

    cos: float
    sin: float
    layer: np.ndarray
    scale: float
    foot: tuple[float, float]

    def __init__(self, stance: Stance, size: tuple[int, int]) -> None:
        height, width = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
        self.layer = np.zeros((height, width, 4), np.uint8)
        self.scale = stance.height * SUPERSAMPLING
        self.foot = (stance.foot[0] * SUPERSAMPLING, stance.foot[1] * SUPERSAMPLING)
        self.cos, self.sin = math.cos(stance.yaw), math.sin(stance.yaw)
        self._mask = np.zeros((height, width), np.uint8)
        self._textures: dict[tuple[Cloth, float], np.ndarray] = {}

    def nearness(self, x: float, z: float) -> float:
        """Distance towards the camera of a body point from the body's axis."""
        return z * self.cos - x * self.sin

    def pixel(self, point: Point) -> tuple[float, float]:
        x, y, z = point
        across = x * self.cos + z * self.sin
        return self.foot[0] + across * self.scale, self.foot[1] - y * self.scale

    def solid(
        self,
        sections: Sequence[Section],
        cloth: Cloth,
        x: float = 0,
        z: float = 0,
        shade: float = 1,
    ) -> None:
        """Fill the outline of a stack of elliptic sections around the upright axis (x, z)."""
        left, right = [], []
        for y, half_width, half_depth in sections:
            column, row = self.pixel((x, y, z))
            reach = math.hypot(half_width * self.cos, half_depth * self.sin) * self.scale
            left.append((column - reach, row))
            right.append((column + reach, row))
        self.polygon(left + right[::-1], cloth, shade)

    def patch(self, corners: Sequence[Point], cloth: Cloth, shade: float = 1) -> None:
        """Fill a flat piece on the body's surface, given by its corners."""
        self.polygon([self.pixel(corner) for corner in corners], cloth, shade)

    def polygon(self, pixels: Sequence[tuple[float, float]], cloth: Cloth, shade: float) -> None:
        outline = np.rint(np.array(pixels) * (1 << _SHIFT)).astype(np.int32)
        self._fill(
            lambda target, colour: cv2.fillPoly(target, [outline], colour, shift=_SHIFT),
            cloth,
            shade,
        )

    def limb(self, start: Point, end: Point, width: float, cloth: Cloth, shade: float = 1) -> None:
        """A segment with round ends."""
        first, last = self._fixed(start), self._fixed(end)
        thickness = max(1, round(width * self.scale))
        self._fill(
            lambda target, colour: cv2.line(
                target, first, last, colour, thickness, cv2.LINE_8, _SHIFT
            ),
            cloth,
            shade,
        )

    def ball(
        self, centre: Point, radii: tuple[float, float], colour: Colour, shade: float = 1
    ) -> None:
        """An upright ellipse with half width and half height ``radii``."""
        axes = tuple(max(1, round(radius * self.scale * (1 << _SHIFT))) for radius in radii)
        place = self._fixed(centre)
        self._fill(
            lambda target, colour: cv2.ellipse(
                target, place, axes, 0, 0, 360, colour, cv2.FILLED, cv2.LINE_8, _SHIFT
            ),
            Cloth(colour),
            shade,
        )

    def _fixed(self, point: Point) -> tuple[int, int]:
        column, row = self.pixel(point)
        return round(column * (1 << _SHIFT)), round(row * (1 << _SHIFT))

    def _fill(self, draw: Callable, cloth: Cloth, shade: float) -> None:
        if cloth.texture in ("plain", "print"):
            draw(self.layer, (*(channel * shade for channel in cloth.colour), 255))
            return
        self._mask[:] = 0
        draw(self._mask, 255)
        key = (cloth, shade)
        if key not in self._textures:
            self._textures[key] = self._texture(cloth, shade)
        cv2.copyTo(self._textures[key], self._mask, self.layer)

    def _texture(self, cloth: Cloth, shade: float) -> np.ndarray:
        """The cloth all over the layer, fixed to the body so that it moves with it."""
        height, width = self.layer.shape[:2]
        period = max(3.0, cloth.period * self.scale)
        rows = ((np.arange(height) - self.foot[1]) / period % 1)[:, None]
        columns = ((np.arange(width) - self.foot[0]) / period % 1)[None]
        if cloth.texture == "stripes":
            level = np.broadcast_to(np.where(rows < 0.45, 2, 0), (height, width))
        elif cloth.texture == "checks":
            level = (rows < 0.5).astype(np.intp) + (columns < 0.5)
        else:
            level = np.where((rows - 0.5) ** 2 + (columns - 0.5) ** 2 < 0.075, 2, 0)
        ends = np.array([(*cloth.colour, 255), (*cloth.second, 255)], np.float32)
        colours = np.stack([ends[0], ends.mean(axis=0), ends[1]])
        colours[:, :3] *= shade
        # One 32-bit look-up a pixel is several times faster than four 8-bit ones.
        packed = np.rint(colours).astype(np.uint8).view(np.uint32)[:, 0]
        return packed.take(level).view(np.uint8).reshape(height, width, 4)
